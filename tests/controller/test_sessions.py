"""Sessions: a real controller, and agents on real channels that behave and misbehave."""

import asyncio
import gc
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from parkfleet.controller import sessions
from parkfleet.controller.admission import Admission, Turn
from parkfleet.controller.client import FleetClient, FleetError, UnreachableError
from parkfleet.controller.fleet import MAX_WATCHERS, FleetState
from parkfleet.controller.listeners import BindError
from parkfleet.controller.registry import GatewayKey, State
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.sessions import AgentSessions, Allowance
from parkfleet.controller.view import GatewayView
from parkfleet.proto import common_pb2, limits
from parkfleet.proto.session_pb2 import AgentMessage, ControllerMessage, DesiredConfiguration
from parkfleet.proto.session_pb2_grpc import add_AgentSessionServicer_to_server
from tests.controller.conftest import FakeClock
from tests.controller.raw_agent import RawAgent, goodbye, heartbeat, hello
from tests.eventually import eventually


async def watched(client: FleetClient, state: str, gateway: str = "gw-01") -> GatewayView:
    """The gateway, once the controller says it is in that state."""
    async for view in client.watch():
        if view.gateway == gateway and view.state == state:
            return view
    raise AssertionError("the watch ended")


def reason(fleet: FleetState, gateway: str = "gw-01") -> str:
    """Why a gateway is offline; empty while it is not."""
    known = fleet.registry.get(GatewayKey("p1", gateway))
    return known.reason if known is not None and known.state is State.OFFLINE else ""


async def test_gateway_is_online_after_its_hello(server: ControllerServer, client: FleetClient) -> None:
    """Operators see who it is, before any heartbeat."""
    async with RawAgent(server.address) as agent:
        welcome = await agent.join()
        assert welcome.heartbeat_interval_ms == 10_000
        (view,) = await client.list_gateways()
        assert (view.park, view.gateway, view.state, view.version, view.meters) == ("p1", "gw-01", "online", "1.2.3", 8)
        assert view.peer.startswith("ipv4:127.0.0.1:")


async def test_heartbeat_and_status_are_shown(server: ControllerServer, client: FleetClient) -> None:
    """What a heartbeat and a status said stands in the list."""
    async with RawAgent(server.address) as agent:
        await agent.join()
        line = common_pb2.LineStatus(id="bus1", load=0.5, requests=9, errors={"timeout": 2}, up=True)
        await agent.say(heartbeat(buffer=common_pb2.Buffer(batches=3, epoch=2**63), lines=[line], meters_ok=7))
        running = common_pb2.Configuration(revision=4, hash="abc")
        await agent.say(AgentMessage(status=common_pb2.ReportedState(release="1.2.3", running=running)))
        async for view in client.watch():
            if view.configuration_revision == 4:
                break
        assert (view.buffer_batches, view.buffer_epoch, view.buffer_oldest_ts, view.meters_ok) == (3, 2**63, None, 7)
        assert view.lines[0].errors == {"timeout": 2}
        assert view.as_json()["lines"][0]["load"] == 0.5


async def test_gateway_is_offline_at_once_when_its_stream_breaks(server: ControllerServer, client: FleetClient) -> None:
    """No time has to pass."""
    async with RawAgent(server.address) as agent:
        await agent.join()
    view = await watched(client, "offline")
    assert view.reason == "the connection ended without a goodbye"


async def test_gateway_is_offline_with_the_reason_of_its_goodbye(server: ControllerServer, client: FleetClient) -> None:
    """The stream ends well."""
    async with RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(goodbye("restarting for an update"))
        assert (await agent.ended())[0] is grpc.StatusCode.OK
        assert (await watched(client, "offline")).reason == "restarting for an update"


async def test_mute_gateway_is_offline_after_the_limit(
    server: ControllerServer, client: FleetClient, clock: FakeClock
) -> None:
    """Three intervals after its last word, and its session is ended, for it may be half-open."""
    async with RawAgent(server.address) as agent:
        await agent.join()
        clock.pass_time(29)
        await agent.say(heartbeat(sequence=1))
        await eventually(lambda: [g for g in server.fleet.gateways() if g.heartbeat])
        clock.pass_time(30)
        server.fleet.tick()
        assert not reason(server.fleet)
        clock.pass_time(0.001)
        server.fleet.tick()
        assert reason(server.fleet) == "no heartbeat for 30 s"
        words = [word.WhichOneof("message") for word in await agent.last_words()]
        assert words == ["retry_after", "goodbye"]
        assert (await agent.ended())[0] is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: server.fleet.sessions == 0)
        assert reason(server.fleet) == "no heartbeat for 30 s"


async def test_second_session_fences_the_first(server: ControllerServer, client: FleetClient) -> None:
    """The first is told why; the second counts, and the end of the first does not take the gateway offline."""
    async with RawAgent(server.address) as first, RawAgent(server.address) as second:
        one = await first.join()
        two = await second.join()
        assert one.session != two.session
        assert "another session of p1/gw-01 has taken over" in (await first.last_words())[-1].goodbye.reason
        assert (await first.ended())[0] is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: server.fleet.sessions == 1)
        (view,) = await client.list_gateways()
        assert view.online


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        (heartbeat(sequence=1), grpc.StatusCode.INVALID_ARGUMENT, "first message must be a hello"),
        (AgentMessage(), grpc.StatusCode.INVALID_ARGUMENT, "first message must be a hello"),
        (hello(gateway="no spaces"), grpc.StatusCode.INVALID_ARGUMENT, "gateway: expected"),
        (hello(protocol=7), grpc.StatusCode.INVALID_ARGUMENT, "update the controller"),
        (b"\xff\xff\xff garbage", grpc.StatusCode.INVALID_ARGUMENT, "not of this protocol"),
        (b"\0" * (limits.MAX_MESSAGE_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
    ids=["heartbeat", "empty", "name", "protocol", "garbage", "oversized"],
)
async def test_wrong_first_message_is_refused(
    server: ControllerServer, message: AgentMessage | bytes, code: grpc.StatusCode, told: str
) -> None:
    """With a status that says why; the others live on."""
    async with RawAgent(server.address) as good, RawAgent(server.address) as bad:
        await good.join("gw-good")
        await bad.say(message)
        got, details = await bad.ended()
        assert (got, told in details) == (code, True), details
        await good.say(goodbye("bye"))
        assert (await good.ended())[0] is grpc.StatusCode.OK
    assert [gateway.key.gateway for gateway in server.fleet.gateways()] == ["gw-good"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (hello(), "a second hello"),
        (heartbeat(broker=common_pb2.Broker(told="x" * 1000)), "broker.told has at most"),
        (b"\xff\xff", "not of this protocol"),
    ],
    ids=["hello", "heartbeat", "garbage"],
)
async def test_wrong_later_message_ends_the_session(
    server: ControllerServer, message: AgentMessage | bytes, told: str
) -> None:
    """The gateway is offline for that reason, which both sides can read."""
    async with RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(message)
        code, details = await agent.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert told in details
        assert told in reason(server.fleet)


async def test_unknown_fields_are_ignored_and_not_kept(server: ControllerServer) -> None:
    """A newer agent is understood, and a hostile one stores nothing in the controller's memory."""
    unknown = b"\xfa\x07" + b"\x80\x80\x01" + b"x" * 16384  # field 127, 16 KiB
    async with RawAgent(server.address) as agent:
        await agent.say(hello().SerializeToString() + unknown)
        await agent.hear()
        await agent.say(unknown)
        await agent.say(heartbeat(sequence=1))
        gateway = (await eventually(lambda: [g for g in server.fleet.gateways() if g.heartbeat]))[0]
        assert gateway.hello.ByteSize() < 100


async def test_silent_connection_is_ended_without_a_hello(clock: FakeClock) -> None:
    """It costs memory only so long."""
    server = grpc.aio.server()
    add_AgentSessionServicer_to_server(AgentSessions(FleetState(10.0, clock), hello_s=0.05), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with RawAgent(f"127.0.0.1:{port}") as agent:
        assert await agent.ended() == (grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came within 0.05 s")
    await server.stop(None)


async def test_stop_says_goodbye_to_agents_and_watchers(clock: FakeClock) -> None:
    """Each hears the reason, and when to come back."""
    async with AsyncExitStack() as guests:  # who are still there when the controller has stopped
        async with ControllerServer("127.0.0.1:0", 10.0, clock) as server:
            agents = [await guests.enter_async_context(RawAgent(server.address)) for _ in range(3)]
            for number, agent in enumerate(agents):
                await agent.join(f"gw-{number}")
            watch = (await guests.enter_async_context(FleetClient(server.address))).watch()
            await anext(watch)
        for agent in agents:
            *_, retry, bye = await agent.last_words()
            assert bye.goodbye.reason == "the controller is stopping"
            assert retry.retry_after.ms <= 1000
        with pytest.raises(UnreachableError, match="is stopping"):
            async for _ in watch:
                pass
    assert {reason(server.fleet, f"gw-{number}") for number in range(3)} == {"the controller is stopping"}


async def test_watch_tells_a_slow_reader_the_newest_state_only(server: ControllerServer) -> None:
    """However much happened meanwhile, there is one change a gateway."""
    watcher, before = server.fleet.watch("p1")
    assert before == []
    async with RawAgent(server.address) as agent, RawAgent(server.address) as foreign:
        await agent.join()
        await foreign.join("gw-far", park="p2")
        for number in range(20):
            await agent.say(heartbeat(sequence=number))
        await agent.say(goodbye("done"))
        await eventually(lambda: reason(server.fleet))
    (change,) = await watcher.next()
    assert (change.key, change.reason) == (GatewayKey("p1", "gw-01"), "done")
    server.fleet.unwatch(watcher)


async def test_list_comes_in_pages(server: ControllerServer, client: FleetClient) -> None:
    """More than fits into one message arrives whole and in order, also of one park alone."""
    for number in range(60):
        park, name = ("p1", "p2")[number % 2], f"gw-{number:02}"
        handle = await server.fleet.admit(hello(name, park).hello, "test", lambda reason, ms: None)
        lines = [common_pb2.LineStatus(id=f"line-{n}", told="x" * 150, up=True) for n in range(1000)]
        handle.heartbeat(common_pb2.Heartbeat(lines=lines))
    views = await client.list_gateways()
    assert [(view.park, view.gateway) for view in views] == sorted((view.park, view.gateway) for view in views)
    assert len(views) == 60
    assert {view.park for view in await client.list_gateways("p2")} == {"p2"}


async def test_watches_are_limited(server: ControllerServer, client: FleetClient) -> None:
    """One too many is refused, and says so."""
    for _ in range(MAX_WATCHERS):
        server.fleet.watch("")
    with pytest.raises(FleetError, match="watches are open already"):
        await anext(client.watch())


async def test_agent_that_reads_nothing_is_given_up_quietly(
    server: ControllerServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stream is stuck in a write, beside which no status can go out; nothing of it is left when it is gone."""
    monkeypatch.setattr(sessions, "LAST_WRITE_S", 0.05)
    key = GatewayKey("p1", "gw-01")
    async with RawAgent(server.address) as second:
        async with RawAgent(server.address) as deaf:
            await deaf.join()
            send = server.desk._sessions[key][1]
            big = ControllerMessage(desired_configuration=DesiredConfiguration(document=b"x" * 700_000))
            assert all(send(big) for _ in range(4))
            await second.join()
            await eventually(lambda: server.fleet.sessions == 1)
        writers = ("session writer", "session reader")
        await eventually(lambda: sum(task.get_name().startswith(writers) for task in asyncio.all_tasks()) == 2)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Door(Admission):
    """A door that says what a test wants; places below 1 have their turn."""

    def __init__(self, *turns: Turn) -> None:
        super().__init__()
        self._turns = list(turns)

    def ask(self, key: GatewayKey) -> Turn:
        """The next turn."""
        return self._turns.pop(0)

    def left(self, place: float) -> float:
        """For ever, or nothing."""
        return 1e6 if place >= 1 else 0.0


async def test_who_is_sent_away_is_told_for_how_long_and_costs_nothing(clock: FakeClock) -> None:
    """The fleet knows nothing of it; when it is back it is let in."""
    async with ControllerServer("127.0.0.1:0", 10.0, clock, door=Door(Turn(away_s=7.5), Turn())) as server:
        async with RawAgent(server.address) as agent:
            await agent.say(hello())
            retry, bye = await agent.last_words()
            assert retry.retry_after.ms == 7500
            assert "has its place a little later" in bye.goodbye.reason
            assert (await agent.ended())[0] is grpc.StatusCode.UNAVAILABLE
        assert not list(server.fleet.gateways())
        async with RawAgent(server.address) as agent:
            await agent.join()


async def test_who_waits_for_its_turn_may_leave(clock: FakeClock) -> None:
    """Nothing is left of it; and a controller that stops does not wait for those who wait."""
    door = Door(Turn(place=1), Turn(place=2), Turn())
    async with AsyncExitStack() as guests:
        async with ControllerServer("127.0.0.1:0", 10.0, clock, door=door) as server:
            async with RawAgent(server.address) as agent:
                await agent.say(hello())
                await eventually(lambda: door.counts.held == 1)
            await eventually(lambda: door.counts.held == 0)
            waiting = await guests.enter_async_context(RawAgent(server.address))
            await waiting.say(hello())
            await eventually(lambda: door.counts.held == 1)
            third = await guests.enter_async_context(RawAgent(server.address))
            await third.join()
        assert (door.counts.held, door.counts.begun) == (0, 1)
        assert (await waiting.ended())[0] is grpc.StatusCode.UNAVAILABLE


async def test_second_controller_on_the_same_port(server: ControllerServer) -> None:
    """It is told, not let in beside the first."""
    with pytest.raises(BindError, match="another process has the port"):
        async with ControllerServer(server.address):
            pass


def test_allowance_is_kept_on_average() -> None:
    """A burst is free, then the pace is the rate."""
    clock = FakeClock()
    allowance = Allowance(10.0, 5, lambda: clock.monotonic)
    assert [allowance.take() for _ in range(7)] == [0, 0, 0, 0, 0, 0.1, 0.2]
    clock.pass_time(1.0)
    assert allowance.take() == 0


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_connecting_and_dropping_leaves_nothing_behind(server: ControllerServer) -> None:
    """200 agents come and go in every way; tasks and descriptors are as before."""

    async def one_cycle(number: int) -> None:
        async with RawAgent(server.address) as agent:
            await agent.join(f"gw-{number % 7}")
            match number % 4:
                case 0:
                    await agent.say(goodbye("bye"))
                    await agent.ended()
                case 1:
                    await agent.say(b"\xff")
                    await agent.ended()
                case 2:
                    await agent.say(heartbeat(sequence=1))
                case _:
                    pass  # breaks off

    async def settled() -> None:
        await eventually(lambda: server.fleet.sessions == 0)
        gc.collect()

    for number in range(20):
        await one_cycle(number)
    await settled()
    tasks, files = len(asyncio.all_tasks()), descriptors()
    for number in range(200):
        await one_cycle(number)
    await settled()
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: descriptors() <= files)
