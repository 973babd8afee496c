"""The registry: which session of a gateway counts, and when it is offline."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parkfleet.controller.checks import RefusedError
from parkfleet.controller.registry import FleetFullError, Gateway, GatewayKey, Moment, Registry, State
from parkfleet.proto import common_pb2, limits

KEY = GatewayKey("p1", "gw-01")
BEAT = common_pb2.Heartbeat(uptime_s=7)


def a_hello(gateway: str = "gw-01", protocol: int = limits.PROTOCOL_VERSION, version: str = "1") -> common_pb2.Hello:
    """A hello of park p1."""
    return common_pb2.Hello(park="p1", gateway=gateway, protocol=protocol, agent_version=version)


def at(seconds: float) -> Moment:
    """So many seconds after the start, on both clocks."""
    return Moment(seconds, round(seconds * 1000))


def known(registry: Registry, key: GatewayKey = KEY) -> Gateway:
    """A gateway that must be there."""
    gateway = registry.get(key)
    assert gateway is not None
    return gateway


def test_hello_of_a_new_gateway() -> None:
    """It is online since then."""
    registry = Registry()
    gateway, fenced = registry.hello(a_hello(), "ipv4:1.2.3.4:5", at(1))
    assert (gateway.state, gateway.since_ms, gateway.peer, fenced) == (State.ONLINE, 1000, "ipv4:1.2.3.4:5", None)


def test_hello_of_an_online_gateway_fences_its_session() -> None:
    """The newer session counts; of the older one nothing is heard any more, and its end takes nobody offline."""
    registry = Registry()
    first = registry.hello(a_hello(), "a", at(1)).gateway.session
    second, fenced = registry.hello(a_hello(), "b", at(2))
    assert fenced == first
    assert registry.heartbeat(KEY, first, BEAT, at(3)) is None
    assert registry.ended(KEY, first, "broke", at(4)) is None
    assert known(registry) == second


def test_silence_beyond_the_limit_is_offline() -> None:
    """Exactly the limit is not yet beyond it; and it happens once."""
    registry = Registry()
    session = registry.hello(a_hello(), "a", at(0)).gateway.session
    registry.heartbeat(KEY, session, BEAT, at(10))
    assert registry.tick(at(40), 30) == []
    (gone,) = registry.tick(at(40.001), 30)
    assert (gone.state, gone.reason, gone.last_seen_ms) == (State.OFFLINE, "no heartbeat for 30 s", 10_000)
    assert registry.tick(at(100), 30) == []
    assert registry.heartbeat(KEY, session, BEAT, at(101)) is None


def test_clock_that_is_set_takes_nobody_offline() -> None:
    """Limits run on the monotonic clock."""
    registry = Registry()
    registry.hello(a_hello(), "a", Moment(0, 0))
    assert registry.tick(Moment(1, 10**12), 30) == []


def test_end_of_a_session_is_offline_at_once() -> None:
    """With the reason it had; a new hello makes it online again, since then."""
    registry = Registry()
    session = registry.hello(a_hello(), "a", at(0)).gateway.session
    gone = registry.ended(KEY, session, "restarting", at(5))
    assert gone is not None
    assert (gone.state, gone.since_ms, gone.reason) == (State.OFFLINE, 5000, "restarting")
    back, fenced = registry.hello(a_hello(), "a", at(6))
    assert (back.state, back.since_ms, back.reason, fenced) == (State.ONLINE, 6000, "", None)


def test_hello_beyond_the_most_gateways_is_refused() -> None:
    """The others live on, and come back as before."""
    registry = Registry(max_gateways=1)
    registry.hello(a_hello(), "a", at(0))
    with pytest.raises(FleetFullError):
        registry.hello(a_hello("gw-02"), "a", at(0))
    registry.hello(a_hello(), "a", at(1))
    assert len(registry) == 1


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (a_hello(gateway=""), "gateway: expected"),
        (a_hello(gateway="../etc"), "gateway: expected"),
        (a_hello(gateway="gw-01\n"), "gateway: expected"),
        (a_hello(gateway="g" * 65), "gateway: expected"),
        (a_hello(protocol=99), "update the controller"),
        (a_hello(protocol=0), "update the agent"),
        (a_hello(version="v" * 101), "agent_version has at most 100"),
        (a_hello(version="v" * 5000), "a hello has at most 4096 bytes"),
    ],
)
def test_hello_out_of_bounds_is_refused(bad: common_pb2.Hello, told: str) -> None:
    """The refusal says what was wrong, and nothing is kept."""
    registry = Registry()
    with pytest.raises(RefusedError, match=told):
        registry.hello(bad, "a", at(0))
    assert len(registry) == 0


LINE = common_pb2.LineStatus


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (common_pb2.Heartbeat(lines=[LINE(id="x")] * 1001), "at most 1000 lines"),
        (common_pb2.Heartbeat(lines=[LINE(told="x" * 201)]), "line.told has at most 200"),
        (common_pb2.Heartbeat(lines=[LINE(load=1.5)]), "line.load is a part"),
        (common_pb2.Heartbeat(lines=[LINE(load=float("nan"))]), "line.load is a part"),
        (common_pb2.Heartbeat(lines=[LINE(errors={f"e{n}": 1 for n in range(33)})]), "at most 32 causes"),
        (common_pb2.Heartbeat(broker=common_pb2.Broker(told="x" * 300_000)), "at most 262144 bytes"),
    ],
)
def test_heartbeat_out_of_bounds_is_refused(bad: common_pb2.Heartbeat, told: str) -> None:
    """The refusal says what was wrong, and the heartbeat before stays."""
    registry = Registry()
    session = registry.hello(a_hello(), "a", at(0)).gateway.session
    registry.heartbeat(KEY, session, BEAT, at(1))
    with pytest.raises(RefusedError, match=told):
        registry.heartbeat(KEY, session, bad, at(2))
    assert known(registry).heartbeat == BEAT


NAMES = st.sampled_from(["gw-1", "gw-2", "gw-3"])


class RegistryMachine(RuleBasedStateMachine):
    """Any order of events, against a model that keeps for each gateway its counting session and last word."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.now = 0.0
        self.counting: dict[str, tuple[int, float]] = {}
        self.opened: list[tuple[str, int]] = []

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=NAMES)
    def says_hello(self, name: str) -> None:
        gateway, fenced = self.registry.hello(a_hello(name), "a", at(self.now))
        assert fenced == (self.counting[name][0] if name in self.counting else None)
        self.counting[name] = (gateway.session, self.now)
        self.opened.append((name, gateway.session))

    @rule(data=st.data())
    def session_speaks(self, data: st.DataObject) -> None:
        if self.opened:
            name, session = data.draw(st.sampled_from(self.opened))
            answer = self.registry.heartbeat(GatewayKey("p1", name), session, BEAT, at(self.now))
            counts = name in self.counting and self.counting[name][0] == session
            assert (answer is not None) == counts
            if counts:
                self.counting[name] = (session, self.now)

    @rule(data=st.data())
    def session_ends(self, data: st.DataObject) -> None:
        if self.opened:
            name, session = data.draw(st.sampled_from(self.opened))
            gone = self.registry.ended(GatewayKey("p1", name), session, "why", at(self.now))
            counts = name in self.counting and self.counting[name][0] == session
            assert (gone is not None) == counts
            if counts:
                del self.counting[name]

    @rule()
    def tick(self) -> None:
        gone = {gateway.key.gateway for gateway in self.registry.tick(at(self.now), 30)}
        silent = {name for name, (_, seen) in self.counting.items() if self.now - seen > 30}
        assert gone == silent
        for name in silent:
            del self.counting[name]

    @invariant()
    def online_is_who_has_a_session_that_counts(self) -> None:
        online = {gateway.key.gateway: gateway.session for gateway in self.registry if gateway.state is State.ONLINE}
        assert online == {name: session for name, (session, _) in self.counting.items()}
        assert all(gateway.reason for gateway in self.registry if gateway.state is State.OFFLINE)


RegistryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRegistryInAnyOrder = RegistryMachine.TestCase
