"""ConfigDelivery: brings each gateway its desired configuration, and keeps what gateways report.

A gateway is offered its configuration when it has reported what it runs, and again when that is changed; each time only
if it has not got it already, nor tried and given up. A change of the whole region is worked off gateway by gateway: the
sessions' heartbeats have their turn in between.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parkfleet.controller.config_drift import Drift, drift, is_to_be_offered
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_secrets import SecretError
from parkfleet.controller.config_store import Report
from parkfleet.controller.registry import Gateway, GatewayKey, State
from parkfleet.proto import common_pb2, limits
from parkfleet.proto.session_pb2 import ControllerMessage, DesiredConfiguration

log = logging.getLogger(__name__)

#: Reports are stored this often, however many there are: a commit waits for the disk. Seconds.
STORE_S: Final = 1.0

#: Puts a message into a session's outbox; False when that is full.
Send = Callable[[ControllerMessage], bool]


@dataclass
class _Session:
    """A session that is open."""

    number: int
    send: Send
    reported: common_pb2.ReportedState | None = None
    offered: tuple[int, str] | None = None


class ConfigDelivery:
    """Between the configuration and the sessions of one controller."""

    def __init__(self, config: ConfigFleet, clock_ms: Callable[[], int]) -> None:
        self.config = config
        self._clock_ms = clock_ms
        self._sessions: dict[GatewayKey, _Session] = {}
        self._due: dict[GatewayKey, None] = {}  # to be looked at, the oldest first
        self._reports: dict[GatewayKey, Report] = {}  # not stored yet
        self._woken = asyncio.Event()
        config.on_change = self._changed

    def opened(self, key: GatewayKey, session: int, send: Send) -> None:
        """A session counts from now on."""
        self._sessions[key] = _Session(session, send)

    def reported(self, key: GatewayKey, session: int, status: common_pb2.ReportedState) -> None:
        """A gateway says what it runs."""
        found = self._sessions.get(key)
        if found is None or found.number != session:
            return
        found.reported = status
        self._reports[key] = _report(status, self._clock_ms())
        self._changed([key])

    def closed(self, key: GatewayKey, session: int) -> None:
        """A session is over."""
        found = self._sessions.get(key)
        if found is not None and found.number == session:
            del self._sessions[key]

    def drift(self, gateway: Gateway | GatewayKey) -> Drift:
        """How a gateway compares with what it should run; by its name alone, if it was not seen yet."""
        if isinstance(gateway, GatewayKey):
            return drift(self.config.desired_name(gateway), self._stored(gateway), False)
        reported = gateway.status or self._stored(gateway.key)
        return drift(self.config.desired_name(gateway.key), reported, gateway.state is State.ONLINE)

    async def run(self) -> None:
        """Delivers until cancelled; stores what was reported at most once in STORE_S."""
        loop = asyncio.get_running_loop()
        stored = 0.0
        try:
            while True:
                due = max(0.0, stored + STORE_S - loop.time()) if self._reports else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._woken.wait()
                self._woken.clear()
                if loop.time() >= stored + STORE_S:
                    self.flush()
                    stored = loop.time()
                while self._due:
                    key = next(iter(self._due))
                    del self._due[key]
                    self._offer(key)
                    await asyncio.sleep(0)
        finally:
            self.flush()

    def flush(self) -> None:
        """Stores what was reported, many gateways in one commit."""
        reports, self._reports = self._reports, {}
        if reports:
            self.config.store.add_reports(reports.items())

    def _changed(self, keys: list[GatewayKey]) -> None:
        self._due.update(dict.fromkeys(keys))
        self._woken.set()

    def _offer(self, key: GatewayKey) -> None:
        """Sends a gateway its configuration, if it is there and should have it."""
        session = self._sessions.get(key)
        if session is None or session.reported is None:
            return
        name = self.config.desired_name(key)
        if name is None or name == session.offered or not is_to_be_offered(name, session.reported):
            return
        message = self._message(key)
        if message is not None and session.send(message):
            session.offered = name
            log.info("%s is offered configuration %d", key, name[0])

    def _message(self, key: GatewayKey) -> ControllerMessage | None:
        """What a gateway should run; None when it cannot be sent, which the log says."""
        desired = self.config.desired(key)
        if desired is None:
            return None
        try:
            secrets = self.config.secret_values(desired)
        except SecretError as error:
            log.error("the configuration of %s cannot be sent: %s", key, error)
            return None
        document = desired.packed()
        size = sum(map(len, secrets.values()))
        if len(document) > limits.MAX_DOCUMENT_BYTES or size > limits.MAX_SECRETS_BYTES:
            log.error("the configuration of %s is too large to be sent: %d bytes, secrets %d", key, len(document), size)
            return None
        name = common_pb2.Configuration(revision=desired.revision, hash=desired.hash())
        return ControllerMessage(
            desired_configuration=DesiredConfiguration(configuration=name, document=document, secrets=secrets)
        )

    def _stored(self, key: GatewayKey) -> common_pb2.ReportedState | None:
        """A gateway's last word before this controller started."""
        report = self._reports.get(key) or self.config.store.report(key)
        if report is None:
            return None
        state = common_pb2.ReportedState(on_trial=report.state == "trial")
        name = common_pb2.Configuration(revision=report.revision, hash=report.hash)
        if report.state == "failed":
            state.last_failed.configuration.CopyFrom(name)
            state.last_failed.reason = report.reason
        else:
            state.running.CopyFrom(name)
        return state


def _report(status: common_pb2.ReportedState, at_ms: int) -> Report:
    """What is kept of a status: its newest word about a configuration."""
    running, failed = status.running, status.last_failed
    if failed.configuration.hash and failed.configuration == status.last_received:
        return Report(at_ms, failed.configuration.revision, failed.configuration.hash, "failed", failed.reason)
    return Report(at_ms, running.revision, running.hash, "trial" if status.on_trial else "running")
