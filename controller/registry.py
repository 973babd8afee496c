"""Registry: what is known of every gateway, and which of its sessions counts.

Pure state: no I/O, no clock; each event brings its time. Invariants:
- a gateway has at most one session that counts; a new one fences the one before, whose later words change nothing;
- a gateway is online exactly while a session of it counts, and an offline one has a reason;
- limits are reckoned in monotonic time, so a clock that is set takes nobody offline;
- no event costs more than its own gateway (tick: than the gateways it takes offline).
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from parkfleet.controller.checks import RefusedError, check_heartbeat, check_hello, check_status
from parkfleet.proto import common_pb2

#: Twice the region this is made for (10,000 gateways): a hostile client cannot fill the memory with names.
MAX_GATEWAYS: Final = 20_000


class FleetFullError(RefusedError):
    """There is no room for another gateway."""


class State(Enum):
    """Whether a gateway is there."""

    ONLINE = "online"  # a session counts
    OFFLINE = "offline"  # it had one, and does not now


class Moment(NamedTuple):
    """A time, on both clocks."""

    monotonic: float  # seconds, for limits
    wall_ms: int  # ms UTC, for people


class GatewayKey(NamedTuple):
    """A gateway's name; unique in the fleet."""

    park: str
    gateway: str

    def __str__(self) -> str:
        return f"{self.park}/{self.gateway}"


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway as it is now. The messages are the last of their kind in its last session."""

    key: GatewayKey
    state: State
    since_ms: int  # in this state
    last_seen_ms: int
    peer: str
    reason: str  # why offline; empty when online
    session: int  # that counts, or counted last
    hello: common_pb2.Hello
    heartbeat: common_pb2.Heartbeat | None = None
    status: common_pb2.ReportedState | None = None


class Admission(NamedTuple):
    """What a hello brought about."""

    gateway: Gateway
    fenced: int | None  # the session that counted until now


class Registry:
    """The state of all gateways. Sessions are numbered upwards from first_session."""

    def __init__(self, first_session: int = 1, max_gateways: int = MAX_GATEWAYS) -> None:
        self._next_session = first_session
        self._max_gateways = max_gateways
        self._gateways: dict[GatewayKey, Gateway] = {}
        self._seen: OrderedDict[GatewayKey, float] = OrderedDict()  # online ones, the longest silent first

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[Gateway]:
        return iter(self._gateways.values())

    def get(self, key: GatewayKey) -> Gateway | None:
        """The gateway of that name, if it was ever seen."""
        return self._gateways.get(key)

    def hello(self, hello: common_pb2.Hello, peer: str, now: Moment) -> Admission:
        """A gateway opens a session, which counts from now on. Raises RefusedError, FleetFullError."""
        check_hello(hello)
        key = GatewayKey(hello.park, hello.gateway)
        before = self._gateways.get(key)
        if before is None and len(self._gateways) >= self._max_gateways:
            raise FleetFullError(f"the controller knows {self._max_gateways} gateways already, its limit")
        was_online = before is not None and before.state is State.ONLINE
        gateway = Gateway(
            key=key,
            state=State.ONLINE,
            since_ms=before.since_ms if before and was_online else now.wall_ms,
            last_seen_ms=now.wall_ms,
            peer=peer,
            reason="",
            session=self._next_session,
            hello=hello,
        )
        self._next_session += 1
        self._put(gateway, now)
        return Admission(gateway, before.session if before and was_online else None)

    def heartbeat(self, key: GatewayKey, session: int, heartbeat: common_pb2.Heartbeat, now: Moment) -> Gateway | None:
        """A heartbeat came; the gateway as it is now, or None when the session does not count. Raises RefusedError."""
        check_heartbeat(heartbeat)
        if (gateway := self._counting(key, session)) is None:
            return None
        return self._put(replace(gateway, last_seen_ms=now.wall_ms, heartbeat=heartbeat), now)

    def reported(self, key: GatewayKey, session: int, status: common_pb2.ReportedState, now: Moment) -> Gateway | None:
        """A status came; the gateway as it is now, or None when the session does not count. Raises RefusedError."""
        check_status(status)
        if (gateway := self._counting(key, session)) is None:
            return None
        return self._put(replace(gateway, last_seen_ms=now.wall_ms, status=status), now)

    def ended(self, key: GatewayKey, session: int, reason: str, now: Moment) -> Gateway | None:
        """A session ended; the gateway that is now offline, or None when the session did not count."""
        if (gateway := self._counting(key, session)) is None:
            return None
        return self._take_offline(gateway, reason, now)

    def tick(self, now: Moment, limit_s: float) -> list[Gateway]:
        """Takes offline who said nothing for longer than limit_s; the gateways it took."""
        taken = []
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if now.monotonic - seen <= limit_s:
                break
            taken.append(self._take_offline(self._gateways[key], f"no heartbeat for {limit_s:g} s", now))
        return taken

    def _counting(self, key: GatewayKey, session: int) -> Gateway | None:
        gateway = self._gateways.get(key)
        counts = gateway is not None and gateway.state is State.ONLINE and gateway.session == session
        return gateway if counts else None

    def _put(self, gateway: Gateway, now: Moment) -> Gateway:
        self._gateways[gateway.key] = gateway
        self._seen[gateway.key] = now.monotonic
        self._seen.move_to_end(gateway.key)
        return gateway

    def _take_offline(self, gateway: Gateway, reason: str, now: Moment) -> Gateway:
        del self._seen[gateway.key]
        gone = replace(gateway, state=State.OFFLINE, since_ms=now.wall_ms, reason=reason)
        self._gateways[gateway.key] = gone
        return gone
