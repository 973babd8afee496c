"""Reporting: which of its state an agent still has to tell, over any number of sessions. Pure.

The status and the lines are sections with names, hashes of their contents. A controller says in its Welcome whether it
has them; what it has is not told again until it changes. The counts of lines grow all the time and are not worth a
4G link's data: lines are told when their health changes, and now and then.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from parkfleet.agent.session_messages import heartbeat_message, hello_message, status_message
from parkfleet.agent.status import AgentFacts, AgentSnapshot, LineReport, ReportedState
from parkfleet.proto import common_pb2
from parkfleet.proto.session_pb2 import AgentMessage, Welcome

#: Lines whose health is as it was are told this often, for their counts. Seconds.
LINES_S: Final = 300.0

#: What of a line matters at once: not its counts, which grow all the time.
Health: TypeAlias = tuple[tuple[str, bool, str, frozenset[str], frozenset[str]], ...]


class Reporting:
    """What one agent has told its controller. Times are of a monotonic clock, seconds."""

    def __init__(self) -> None:
        self._status_tag = 0
        self._lines_tag = 0
        self._health: Health = ()
        self._lines_at = 0.0

    def hello(self, facts: AgentFacts, state: ReportedState) -> AgentMessage:
        """The first message of a session. It names the state as it is: a controller may have it from another life."""
        message = hello_message(facts)
        self._status_tag = tag_of(status_message(state).status)
        message.hello.status_tag, message.hello.lines_tag = self._status_tag, self._lines_tag
        return message

    def welcomed(self, welcome: Welcome) -> None:
        """The controller has said what it has."""
        if not welcome.has_status:
            self._status_tag = 0
        if not welcome.has_lines:
            self._lines_tag = 0

    def in_full(self) -> None:
        """The controller wants to hear everything."""
        self._status_tag = self._lines_tag = 0

    def status(self, state: ReportedState) -> AgentMessage | None:
        """The state, if it is to be told."""
        message = status_message(state)
        tag = tag_of(message.status)
        if tag == self._status_tag:
            return None
        message.status.tag = self._status_tag = tag
        return message

    def heartbeat(self, snapshot: AgentSnapshot, sequence: int, sent_ms: int, now: float) -> AgentMessage:
        """A heartbeat, with the lines if they are to be told."""
        health = _health(snapshot.lines)
        if self._lines_tag and health == self._health and now - self._lines_at < LINES_S:
            message = heartbeat_message(replace(snapshot, lines=()), sequence, sent_ms)
        else:
            message = heartbeat_message(snapshot, sequence, sent_ms)
            message.heartbeat.lines_told = True
            self._lines_tag = tag_of(common_pb2.Heartbeat(lines=message.heartbeat.lines))
            self._health, self._lines_at = health, now
        message.heartbeat.lines_tag = self._lines_tag
        return message


def tag_of(section: common_pb2.ReportedState | common_pb2.Heartbeat) -> int:
    """The name of a section's contents; never 0."""
    digest = hashlib.sha256(section.SerializeToString(deterministic=True)).digest()
    return int.from_bytes(digest[:8], "big") | 1


def _health(lines: Sequence[LineReport]) -> Health:
    return tuple((line.id, line.up, line.told, frozenset(line.errors), frozenset(line.late)) for line in lines)
