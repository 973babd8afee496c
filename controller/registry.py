"""Registry: what is known of every gateway, and which of its sessions counts.

Pure state: no I/O, no clock; each event brings its time. Invariants:
- a gateway has at most one session that counts; a new one fences the one before, whose later words change nothing;
- of what two replicas say of a gateway the higher epoch holds, and of one epoch the one whose session is open;
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
    """One gateway as it is now. The messages are the last of their kind; heartbeats stay packed until they are read."""

    key: GatewayKey
    state: State
    since_ms: int  # in this state
    last_seen_ms: int
    peer: str
    reason: str  # why offline; empty when online
    session: int  # that counts, or counted last; 0: it is not of this process
    hello: common_pb2.Hello
    beat: bytes | None = None  # the heartbeat without its lines; None before the first
    lines: bytes = b""  # a heartbeat of its lines alone
    lines_tag: int = 0  # their name; 0: they have none
    status: common_pb2.ReportedState | None = None
    epoch: int = 1  # grows with each session, whichever replica has it: the higher one counts
    replica: str = ""  # the controller that has, or had, its session

    @property
    def heartbeat(self) -> common_pb2.Heartbeat | None:
        """The last heartbeat, whole."""
        return None if self.beat is None else common_pb2.Heartbeat.FromString(self.beat + self.lines)

    @property
    def is_online(self) -> bool:
        """Whether a session of it counts, here or at another replica."""
        return self.state is State.ONLINE


class Admission(NamedTuple):
    """What a hello brought about."""

    gateway: Gateway
    fenced: int | None  # the session of this process that counted until now


class Registry:
    """The state of all gateways. Sessions are numbered upwards from first_session; replica: this process's name."""

    def __init__(self, first_session: int = 1, max_gateways: int = MAX_GATEWAYS, replica: str = "") -> None:
        self._next_session = first_session
        self._max_gateways = max_gateways
        self._replica = replica
        self._gateways: dict[GatewayKey, Gateway] = {}
        self._seen: OrderedDict[GatewayKey, float] = OrderedDict()  # online here, the longest silent first
        self.online = 0  # gateways, here and at other replicas

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[Gateway]:
        return iter(self._gateways.values())

    def get(self, key: GatewayKey) -> Gateway | None:
        """The gateway of that name, if it was ever seen."""
        return self._gateways.get(key)

    def prepare(self, hello: common_pb2.Hello, peer: str, now: Moment) -> Gateway:
        """What a gateway would be with a session that this hello opens. Raises RefusedError, FleetFullError."""
        check_hello(hello)
        key = GatewayKey(hello.park, hello.gateway)
        before = self._gateways.get(key)
        if before is None and len(self._gateways) >= self._max_gateways:
            raise FleetFullError(f"the controller knows {self._max_gateways} gateways already, its limit")
        fresh = Gateway(key, State.ONLINE, now.wall_ms, now.wall_ms, peer, "", 0, hello, replica=self._replica)
        if before is None:
            return fresh
        return replace(
            fresh,
            since_ms=before.since_ms if before.is_online else now.wall_ms,
            beat=before.beat,
            lines=before.lines,
            lines_tag=before.lines_tag,
            status=before.status,
            epoch=before.epoch + 1,
        )

    def admit(self, prepared: Gateway, now: Moment) -> Admission:
        """The prepared session counts from now on. Raises RefusedError when a newer one of the gateway does already."""
        before = self._gateways.get(prepared.key)
        known = (0, 0) if before is None else (before.epoch, before.session)
        if known >= (prepared.epoch, 1):  # its own row may have come back from the database before it
            raise RefusedError(f"another session of {prepared.key} has taken over")
        gateway = replace(prepared, session=self._next_session)
        self._next_session += 1
        self._put(gateway)
        self._heard(gateway.key, now)
        return Admission(gateway, before.session if before and before.is_online and before.session else None)

    def hello(self, hello: common_pb2.Hello, peer: str, now: Moment) -> Admission:
        """A gateway opens a session, which counts from now on. Raises RefusedError, FleetFullError."""
        return self.admit(self.prepare(hello, peer, now), now)

    def heartbeat(self, key: GatewayKey, session: int, heartbeat: common_pb2.Heartbeat, now: Moment) -> Gateway | None:
        """A heartbeat came; the gateway as it is now, or None when the session does not count. Raises RefusedError.

        The heartbeat is taken apart.
        """
        check_heartbeat(heartbeat)
        if (gateway := self._counting(key, session)) is None:
            return None
        lines, tag = gateway.lines, gateway.lines_tag
        if heartbeat.lines_told or not heartbeat.lines_tag:
            tag = heartbeat.lines_tag
            lines = common_pb2.Heartbeat(lines=heartbeat.lines, lines_tag=tag).SerializeToString()
        heartbeat.ClearField("lines")
        heartbeat.ClearField("lines_told")
        self._heard(key, now)
        beat = heartbeat.SerializeToString()
        return self._put(replace(gateway, last_seen_ms=now.wall_ms, beat=beat, lines=lines, lines_tag=tag))

    def reported(self, key: GatewayKey, session: int, status: common_pb2.ReportedState, now: Moment) -> Gateway | None:
        """A status came; the gateway as it is now, or None when the session does not count. Raises RefusedError."""
        check_status(status)
        if (gateway := self._counting(key, session)) is None:
            return None
        self._heard(key, now)
        return self._put(replace(gateway, last_seen_ms=now.wall_ms, status=status))

    def ended(self, key: GatewayKey, session: int, reason: str, now: Moment) -> Gateway | None:
        """A session ended; the gateway that is now offline, or None when the session did not count."""
        if (gateway := self._counting(key, session)) is None:
            return None
        return self._take_offline(gateway, reason, now)

    def learned(self, gateway: Gateway) -> Admission | None:
        """Another replica, or the database at the start, says how a gateway is; None: we know better.

        The fenced session of ours is over: what we say of the gateway does not count any more.
        """
        before = self._gateways.get(gateway.key)
        fenced = before.session if before is not None and before.is_online and before.session else None
        if before is not None and (gateway.epoch < before.epoch or (fenced and gateway.epoch == before.epoch)):
            return None
        self._seen.pop(gateway.key, None)
        return Admission(self._put(replace(gateway, session=0)), fenced)

    def tick(self, now: Moment, limit_s: float) -> list[Gateway]:
        """Takes offline who said nothing for longer than limit_s; the gateways it took."""
        taken = []
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if now.monotonic - seen <= limit_s:
                break
            taken.append(self._take_offline(self._gateways[key], f"no heartbeat for {limit_s:g} s", now))
        return taken

    def counts(self, key: GatewayKey, session: int) -> bool:
        """Whether a session is the one of its gateway that counts."""
        return self._counting(key, session) is not None

    def here(self) -> Iterator[Gateway]:
        """The gateways that have their session in this process."""
        return (self._gateways[key] for key in self._seen)

    def _counting(self, key: GatewayKey, session: int) -> Gateway | None:
        gateway = self._gateways.get(key)
        counts = gateway is not None and gateway.state is State.ONLINE and gateway.session == session
        return gateway if counts else None

    def _put(self, gateway: Gateway) -> Gateway:
        before = self._gateways.get(gateway.key)
        self.online += gateway.is_online - (before is not None and before.is_online)
        self._gateways[gateway.key] = gateway
        return gateway

    def _heard(self, key: GatewayKey, now: Moment) -> None:
        self._seen[key] = now.monotonic
        self._seen.move_to_end(key)

    def _take_offline(self, gateway: Gateway, reason: str, now: Moment) -> Gateway:
        del self._seen[gateway.key]
        return self._put(replace(gateway, state=State.OFFLINE, since_ms=now.wall_ms, reason=reason))
