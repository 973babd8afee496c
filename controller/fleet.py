"""FleetState: the registry while it lives: gives it the time, ends fenced and silent sessions, tells the watchers."""

import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Final, Protocol

from parkfleet.controller.checks import RefusedError
from parkfleet.controller.registry import Gateway, GatewayKey, Moment, Registry
from parkfleet.controller.watchers import Watcher, Watchers
from parkfleet.proto import common_pb2

log = logging.getLogger(__name__)

#: Silent for so many heartbeat intervals is offline: two may be lost or late (jitter is a tenth) on a poor link.
MISSED_HEARTBEATS: Final = 3
#: People with a screen open, and a few scripts.
MAX_WATCHERS: Final = 100

#: How fast agents should come back after a stop: a session costs 2 ms of CPU with TLS (../shared/FLEET.md), so
#: this is a core's worth. Sessions a second.
COMEBACK_RATE: Final = 500

#: Ends a session from our side: (why, how long the agent should stay away in ms).
EndSession = Callable[[str, int], None]
#: The epoch of a session that is about to begin. Raises RefusedError.
Claim = Callable[[Gateway], Awaitable[int]]


class Recorder(Protocol):
    """Who stores what becomes of gateways. Neither method may block."""

    def changed(self, gateway: Gateway) -> None:
        """Something that must be stored soon."""

    def heard(self, gateway: Gateway) -> None:
        """A heartbeat, nothing else."""


def read_clock() -> Moment:
    """The time now."""
    return Moment(time.monotonic(), time.time_ns() // 1_000_000)


class SessionHandle:
    """A session that was admitted: how its stream tells what it hears."""

    def __init__(self, fleet: "FleetState", key: GatewayKey, session: int) -> None:
        self._fleet = fleet
        self.key = key
        self.session = session
        self.over = False

    def heartbeat(self, heartbeat: common_pb2.Heartbeat) -> bool:
        """Whether all that it names is here; else it is to be reported in full. Raises RefusedError."""
        gateway = self._fleet.registry.heartbeat(self.key, self.session, heartbeat, self._fleet.now())
        self._fleet.heard(gateway)
        return gateway is None or gateway.lines_tag == heartbeat.lines_tag

    def reported(self, status: common_pb2.ReportedState) -> None:
        """Raises RefusedError."""
        self._fleet.changed(self._fleet.registry.reported(self.key, self.session, status, self._fleet.now()))

    def ended(self, reason: str) -> None:
        """The stream is over. To be called once."""
        self.over = True
        self._fleet.session_ended(self, reason)


class FleetState:
    """All gateways as one controller process sees them. interval_s is the heartbeat interval, in seconds.

    replica: its name among others. claim and recorder are the storage's, where there is one.
    """

    def __init__(self, interval_s: float, clock: Callable[[], Moment] = read_clock, replica: str = "") -> None:
        # Sessions of two runs of the controller never share a number: logs stay unambiguous.
        self.registry = Registry(first_session=(secrets.randbits(30) << 32) + 1, replica=replica)
        self.interval_s = interval_s
        self.now = clock
        self.heartbeats = 0  # taken since the start
        self.claim: Claim | None = None
        self.recorder: Recorder | None = None
        self._sessions: dict[int, EndSession] = {}
        self._watchers = Watchers(MAX_WATCHERS)

    @property
    def limit_s(self) -> float:
        """A gateway silent for longer is offline. Seconds."""
        return self.interval_s * MISSED_HEARTBEATS

    @property
    def sessions(self) -> int:
        """Streams that are open and admitted."""
        return len(self._sessions)

    async def admit(self, hello: common_pb2.Hello, peer: str, end: EndSession) -> SessionHandle:
        """Opens a session, ending the one before of the same gateway. Raises RefusedError."""
        prepared = self.registry.prepare(hello, peer, self.now())
        if self.claim is not None:
            epoch = await self.claim(prepared)
            prepared = replace(self.registry.prepare(hello, peer, self.now()), epoch=epoch)
        gateway, fenced = self.registry.admit(prepared, self.now())
        self._sessions[gateway.session] = end
        if fenced is not None:
            log.warning("%s opened a second session, from %s: the first is ended", gateway.key, peer)
            self._end(fenced, f"another session of {gateway.key} has taken over, from {peer}")
        else:
            log.info("%s is online, from %s", gateway.key, peer)
        self.changed(gateway)
        return SessionHandle(self, gateway.key, gateway.session)

    def learned(self, gateway: Gateway) -> None:
        """Another replica, or the database, says how a gateway is."""
        admission = self.registry.learned(gateway)
        if admission is None:
            return
        if admission.fenced is not None:
            log.warning("%s opened a second session, at %s: the first is ended", gateway.key, gateway.replica)
            self._end(admission.fenced, f"another session of {gateway.key} has taken over, at {gateway.replica}")
        self._watchers.publish(admission.gateway)

    def session_ended(self, handle: SessionHandle, reason: str) -> None:
        """The stream of a session is over."""
        self._sessions.pop(handle.session, None)
        gateway = self.registry.ended(handle.key, handle.session, reason, self.now())
        if gateway is not None:
            log.info("%s is offline: %s", gateway.key, reason)
        self.changed(gateway)

    def tick(self) -> None:
        """Takes offline who has been silent too long, and ends their sessions: a half-open one costs memory."""
        for gateway in self.registry.tick(self.now(), self.limit_s):
            log.warning("%s is offline: %s", gateway.key, gateway.reason)
            self.changed(gateway)
            self._end(gateway.session, gateway.reason)

    def end_all(self, reason: str) -> None:
        """Ends every session and every watch. Agents are asked to come back one after another, in no order."""
        spread_ms = 1000 * len(self._sessions) // COMEBACK_RATE
        for end in list(self._sessions.values()):
            end(reason, random.randint(0, spread_ms))
        self._watchers.close()

    def elsewhere(self, key: GatewayKey) -> str:
        """The other replica that has a gateway's session; empty when it has none, or has it here."""
        gateway = self.registry.get(key)
        return gateway.replica if gateway is not None and gateway.is_online and not gateway.session else ""

    def watch(self, park: str) -> tuple[Watcher, list[Gateway]]:
        """A watcher of a park ("" for all), and the gateways before its first change. Raises RefusedError."""
        watcher = self._watchers.add(park)
        if watcher is None:
            raise RefusedError(f"{MAX_WATCHERS} watches are open already, the limit: close one")
        return watcher, list(self.gateways(park))

    def unwatch(self, watcher: Watcher) -> None:
        """Ends a watch."""
        self._watchers.remove(watcher)

    def gateways(self, park: str = "") -> Iterator[Gateway]:
        """Every gateway of a park, or of all ("")."""
        return (gateway for gateway in self.registry if not park or gateway.key.park == park)

    def changed(self, gateway: Gateway | None) -> None:
        """A gateway, if one, is another than it was: tells the watchers, and has it stored."""
        if gateway is not None:
            self._watchers.publish(gateway)
            if self.recorder is not None:
                self.recorder.changed(gateway)

    def heard(self, gateway: Gateway | None) -> None:
        """A gateway, if one, has sent a heartbeat."""
        if gateway is not None:
            self.heartbeats += 1
            self._watchers.publish(gateway)
            if self.recorder is not None:
                self.recorder.heard(gateway)

    def _end(self, session: int, reason: str) -> None:
        end = self._sessions.get(session)
        if end is not None:
            end(reason, 0)
