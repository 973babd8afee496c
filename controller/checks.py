"""Checks: what of an agent's messages is accepted, before anything is kept of them."""

import re

from parkfleet.proto import common_pb2, limits

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


class RefusedError(Exception):
    """A message that is not accepted; the sentence says what was wrong and belongs to the agent's log."""


class LaterError(RefusedError):
    """What is refused now, through no fault of the agent's, and may be accepted in a while."""

    def __init__(self, told: str, away_s: float | None = None) -> None:
        """away_s: when the agent should come back, if that is known."""
        super().__init__(told)
        self.away_s = away_s


def check_hello(hello: common_pb2.Hello) -> None:
    """Raises RefusedError for a hello that is too large or not understood."""
    _bound("hello", hello.ByteSize(), limits.MAX_HELLO_BYTES)
    if hello.protocol != limits.PROTOCOL_VERSION:
        older = "agent" if hello.protocol < limits.PROTOCOL_VERSION else "controller"
        raise RefusedError(
            f"the agent speaks protocol {hello.protocol}, this controller {limits.PROTOCOL_VERSION}: update the {older}"
        )
    for field in ("park", "gateway"):
        check_name(field, getattr(hello, field))
    for field in ("agent_version", "boot_id", "configuration_hash"):
        _length(field, getattr(hello, field), limits.MAX_WORD)


def check_name(field: str, name: str) -> None:
    """Raises RefusedError for what no park or gateway can be called."""
    if not _ID.fullmatch(name):
        raise RefusedError(f"{field}: expected 1 to 64 letters, digits, '_', '.' or '-', got {name[:80]!r}")


def check_heartbeat(heartbeat: common_pb2.Heartbeat) -> None:
    """Raises RefusedError for a heartbeat that is too large."""
    _bound("heartbeat", heartbeat.ByteSize(), limits.MAX_HEARTBEAT_BYTES)
    if len(heartbeat.lines) > limits.MAX_LINES:
        raise RefusedError(f"a heartbeat has at most {limits.MAX_LINES} lines, this one {len(heartbeat.lines)}")
    _length("broker.told", heartbeat.broker.told, limits.MAX_SENTENCE)
    for line in heartbeat.lines:
        _length("line.id", line.id, limits.MAX_WORD)
        _length("line.told", line.told, limits.MAX_SENTENCE)
        if not 0 <= line.load <= 1:
            raise RefusedError(f"line.load is a part of the time, 0 to 1, got {line.load:g}")
        if len(line.errors) > limits.MAX_CAUSES:
            raise RefusedError(f"a line counts at most {limits.MAX_CAUSES} causes of errors, got {len(line.errors)}")
        for cause in line.errors:
            _length("line.errors", cause, limits.MAX_WORD)
        if len(line.late) > limits.MAX_LATE:
            raise RefusedError(f"a line names at most {limits.MAX_LATE} late meters, got {len(line.late)}")
        for meter in line.late:
            _length("line.late", meter, limits.MAX_WORD)


def check_status(status: common_pb2.ReportedState) -> None:
    """Raises RefusedError for a status that is too large."""
    _bound("status", status.ByteSize(), limits.MAX_STATUS_BYTES)
    _length("release", status.release, limits.MAX_WORD)
    _length("last_failed.reason", status.last_failed.reason, limits.MAX_SENTENCE)
    for configuration in (status.running, status.last_received, status.last_failed.configuration):
        _length("configuration.hash", configuration.hash, limits.MAX_WORD)


def _bound(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise RefusedError(f"a {what} has at most {limit} bytes, this one {size}")


def _length(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise RefusedError(f"{field} has at most {limit} characters, this one {len(text)}")
