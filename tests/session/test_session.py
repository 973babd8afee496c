"""The agent's session, against a real controller: it comes, stays, comes back, and leaves politely."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from parkfleet.agent import controller_connection
from parkfleet.agent.session import ControllerSession
from parkfleet.agent.status import (
    AgentFacts,
    AgentSnapshot,
    BrokerLink,
    ConfigurationName,
    LineReport,
    ReportedState,
)
from parkfleet.controller.admission import Admission
from parkfleet.controller.listeners import BindError
from parkfleet.controller.registry import Gateway, State
from parkfleet.controller.server import ControllerServer
from parkfleet.proto.session_pb2 import (
    AgentMessage,
    ControllerMessage,
    DesiredConfiguration,
    Goodbye,
    RetryAfter,
    Welcome,
)
from parkfleet.simulators.proxy import LinkProxy
from tests.eventually import eventually

FACTS = AgentFacts("p1", "gw-01", "1.2.3", "boot", "hash", 2, 8)
#: So that tests need not wait for the pauses of real life. Seconds.
SOON = (0.01, 0.05)


@asynccontextmanager
async def running(
    url: str, snapshot: Callable[[], AgentSnapshot] = AgentSnapshot, state: Callable[[], ReportedState] | None = None
) -> AsyncIterator[ControllerSession]:
    """A session while the block runs; cancelled at its end, as the agent does."""
    session = ControllerSession(url, FACTS, snapshot, state, reconnect_s=SOON)
    task = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


@pytest.fixture
async def server() -> AsyncIterator[ControllerServer]:
    """A controller with the fastest heartbeat."""
    async with ControllerServer("127.0.0.1:0", 0.1, door=Admission(own_burst=100_000)) as started:
        yield started


def seen(server: ControllerServer) -> Gateway | None:
    """Our gateway as the controller sees it."""
    return next(server.fleet.gateways(), None)


def online(server: ControllerServer) -> bool:
    """Whether the controller says that our gateway is online."""
    gateway = seen(server)
    return gateway is not None and gateway.state is State.ONLINE


async def test_session_says_hello_and_heartbeats(server: ControllerServer) -> None:
    """At the interval the controller says, with what the snapshot has at that time."""
    uptimes = iter(range(1000))

    def snapshot() -> AgentSnapshot:
        return AgentSnapshot(uptime_s=next(uptimes), broker=BrokerLink(True))

    async with running(server.address, snapshot) as session:
        await eventually(lambda: session.status.heartbeats >= 3)
        await eventually(lambda: (g := seen(server)) and g.heartbeat and g.heartbeat.sequence >= 3)
        gateway = seen(server)
        assert gateway is not None and gateway.heartbeat is not None and gateway.status is not None
        assert (gateway.hello.agent_version, gateway.hello.meters) == ("1.2.3", 8)
        assert gateway.heartbeat.uptime_s == gateway.heartbeat.sequence - 1
        assert gateway.heartbeat.broker.connected
        assert gateway.status.running.hash == "hash"
        assert session.status.session == gateway.session
        assert session.status.connected


async def test_changed_state_is_reported(server: ControllerServer) -> None:
    """Once, with the next heartbeat."""
    state = ReportedState("1.2.3", ConfigurationName(1, "a"))
    async with running(server.address, state=lambda: state):
        await eventually(lambda: (g := seen(server)) and g.status and g.status.running.revision == 1)
        state = ReportedState("1.2.3", state.running, ConfigurationName(2, "b"), ConfigurationName(2, "b"), "no broker")
        await eventually(lambda: (g := seen(server)) and g.status and g.status.last_failed.reason == "no broker")


async def test_look_reports_a_changed_state_at_once() -> None:
    """Not an hour later, with the next heartbeat; what has not changed is not told again."""
    state = ReportedState("1.2.3", ConfigurationName(1, "a"))
    async with ControllerServer("127.0.0.1:0", 3600) as server, running(server.address, state=lambda: state) as session:
        await eventually(lambda: (g := seen(server)) and g.status and g.status.running.revision == 1)
        await eventually(lambda: session.status.heartbeats == 1)
        session.look()
        state = ReportedState("1.2.3", ConfigurationName(2, "b"))
        session.look()
        await eventually(lambda: (g := seen(server)) and g.status and g.status.running.revision == 2)
        assert session.status.heartbeats == 1


async def test_heartbeats_cost_a_capped_link_little(server: ControllerServer) -> None:
    """A few dozen bytes up, and nothing down but TCP's acknowledgement: lines and state only when they change."""

    def snapshot() -> AgentSnapshot:
        lines = tuple(
            LineReport(f"bus{number}", load=0.5, requests=10**6, errors={"timeout": 3}) for number in range(4)
        )
        return AgentSnapshot(uptime_s=10**6, broker=BrokerLink(True), lines=lines, meters_ok=100, rss_bytes=10**8)

    async with LinkProxy("127.0.0.1", server.port) as link, running(f"127.0.0.1:{link.port}", snapshot) as session:
        await eventually(lambda: session.status.heartbeats >= 3)
        before = (session.status.heartbeats, link.bytes_up, link.bytes_down)
        await eventually(lambda: session.status.heartbeats >= before[0] + 20)
        beats = session.status.heartbeats - before[0]
        assert (link.bytes_up - before[1]) / beats < 100
        assert (link.bytes_down - before[2]) / beats < 5
        gateway = seen(server)
        assert gateway is not None and gateway.heartbeat is not None and len(gateway.heartbeat.lines) == 4


async def test_stopped_agent_says_goodbye(server: ControllerServer) -> None:
    """The controller knows the reason when run() has ended."""
    async with running(server.address) as session:
        await eventually(lambda: session.status.connected)
    gateway = seen(server)
    assert gateway is not None
    assert (gateway.state, gateway.reason) == (State.OFFLINE, "the agent is stopping")
    assert not session.status.connected


@asynccontextmanager
async def controller_again(address: str) -> AsyncIterator[ControllerServer]:
    """A controller on an address that was just left; waits for whoever has taken the port meanwhile."""
    async with AsyncExitStack() as running_one:
        while True:
            try:
                server = await running_one.enter_async_context(ControllerServer(address, 0.1))
                break
            except BindError:
                await asyncio.sleep(0.05)
        yield server


async def test_session_comes_back_after_a_restart_of_the_controller() -> None:
    """By itself, to the same address."""
    async with AsyncExitStack() as agent:
        async with ControllerServer("127.0.0.1:0", 0.1) as first:
            address = first.address
            session = await agent.enter_async_context(running(address))
            await eventually(lambda: session.status.connected)
        await eventually(lambda: not session.status.connected)
        async with controller_again(address) as second:
            await eventually(lambda: online(second))
            await eventually(lambda: session.status.sessions == 2)


async def test_session_comes_back_after_the_link_was_cut(server: ControllerServer) -> None:
    """The controller sees it go and come."""
    async with LinkProxy("127.0.0.1", server.port) as link, running(f"127.0.0.1:{link.port}") as session:
        await eventually(lambda: online(server))
        await link.cut()
        await eventually(lambda: not online(server))
        await eventually(lambda: not session.status.connected and session.status.tries > 1)
        link.mend()
        await eventually(lambda: online(server))


async def test_absent_controller_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is tried; nothing but the cancellation comes out."""
    caplog.set_level(logging.WARNING)
    async with running("127.0.0.1:9") as session:
        await eventually(lambda: session.status.tries >= 10)
    told = [record.getMessage() for record in caplog.records if record.name == "parkfleet.agent.session"]
    assert told == ["no session with the controller 127.0.0.1:9: Connection refused; trying again"]


async def test_server_that_is_no_controller_is_told(broker_like: str) -> None:
    """Something else on that port is named as a failure and survived."""
    async with running(broker_like) as session:
        await eventually(lambda: session.status.tries >= 2)
        assert session.status.told


async def test_two_agents_of_one_name_do_not_bring_each_other_down(server: ControllerServer) -> None:
    """They throw each other out, at the pace of their pauses, and say why."""
    async with running(server.address) as one, running(server.address) as two:
        await eventually(lambda: one.status.sessions > 1 and two.status.sessions > 1)
        await eventually(lambda: "another session of p1/gw-01 has taken over" in one.status.told + two.status.told)


async def test_faulty_snapshot_costs_no_more_than_the_session(server: ControllerServer) -> None:
    """A fault of the agent's own is told, and tried again."""
    faults = iter([True, True])

    def snapshot() -> AgentSnapshot:
        if next(faults, False):
            raise ZeroDivisionError("ours")
        return AgentSnapshot()

    async with running(server.address, snapshot) as session:
        await eventually(lambda: session.status.heartbeats > 0)
        assert session.status.sessions == 3


class ScriptedController:
    """Answers every hello with what it was told to; a controller of another version, or a bad one."""

    def __init__(self, *script: ControllerMessage | bytes, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        self.script = script
        self.code = code
        self.hellos = 0
        self.words: list[AgentMessage] = []

    async def connect(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Takes what the agent says until it leaves."""
        self.words.append(AgentMessage.FromString(await context.read()))
        self.hellos += 1
        for message in self.script:
            await context.write(message if isinstance(message, bytes) else message.SerializeToString())
        if self.code is not grpc.StatusCode.OK:
            await context.abort(self.code, "as scripted")
        async for raw in requests:
            self.words.append(AgentMessage.FromString(raw))


@asynccontextmanager
async def serving(controller: ScriptedController) -> AsyncIterator[str]:
    """Its address while it serves."""
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(controller.connect)
    handler = grpc.method_handlers_generic_handler("parkfleet.v1.AgentSession", {"Connect": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


WELCOME = ControllerMessage(welcome=Welcome(session=5, heartbeat_interval_ms=100))


async def test_desired_configuration_and_the_unknown_are_ignored() -> None:
    """A later controller may say more than this agent knows."""
    later = ControllerMessage(desired_configuration=DesiredConfiguration(document=b"{}"))
    controller = ScriptedController(WELCOME, later, b"\xfa\x07\x01x", b"")
    async with serving(controller) as address, running(address) as session:
        await eventually(lambda: session.status.heartbeats >= 2)
        assert session.status.sessions == 1


async def test_retry_after_is_honoured() -> None:
    """The agent stays away for so long."""
    away = ControllerMessage(retry_after=RetryAfter(ms=3_600_000, reason="full"))
    controller = ScriptedController(away, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    bye = ScriptedController(WELCOME, away, ControllerMessage(goodbye=Goodbye(reason="moving")))
    async with (
        serving(controller) as first,
        serving(bye) as second,
        running(first) as unwelcome,
        running(second) as welcome,
    ):
        await eventually(lambda: unwelcome.status.tries and welcome.status.tries)
        assert unwelcome.status.told == "the controller sends us away: full"
        assert welcome.status.told == "moving"
        assert (unwelcome.status.away_s, welcome.status.away_s) == (3600, 3600)
        assert (controller.hellos, bye.hellos) == (1, 1)


@pytest.mark.parametrize(
    ("controller", "told"),
    [
        (ScriptedController(b"\xff\xff"), "sent a message that is not of this protocol"),
        (ScriptedController(WELCOME, b"\xff\xff"), "sent a message that is not of this protocol"),
        (ScriptedController(WELCOME, b"\0" * 2_000_000), "larger than max"),
        (ScriptedController(code=grpc.StatusCode.PERMISSION_DENIED), "as scripted"),
        (ScriptedController(WELCOME, code=grpc.StatusCode.INTERNAL), "as scripted"),
    ],
    ids=["garbage", "later garbage", "oversized", "denied", "failed"],
)
async def test_bad_controller_is_told_and_tried_again(controller: ScriptedController, told: str) -> None:
    """Whatever it sends."""
    async with serving(controller) as address, running(address) as session:
        await eventually(lambda: controller.hellos >= 3)
        await eventually(lambda: told in session.status.told)


async def test_controller_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hello has its time; and stopping meanwhile does not hang."""
    monkeypatch.setattr(controller_connection, "CONNECT_S", 0.05)
    controller = ScriptedController()
    async with serving(controller) as address, running(address) as session:
        await eventually(lambda: session.status.tries >= 2)
        assert "did not answer the hello" in session.status.told


async def test_controller_that_ignores_a_goodbye_is_left_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent has said it, and goes."""
    monkeypatch.setattr(controller_connection, "GOODBYE_S", 0.05)
    controller = ScriptedController(WELCOME)
    async with serving(controller) as address:
        async with running(address) as session:
            await eventually(lambda: session.status.heartbeats)
        await eventually(lambda: controller.words[-1].goodbye.reason == "the agent is stopping")


@pytest.fixture
async def broker_like() -> AsyncIterator[str]:
    """Something that listens, takes everything and answers with another protocol."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 no\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


async def test_coming_and_going_leaves_nothing_behind(server: ControllerServer) -> None:
    """200 sessions later, tasks, threads and descriptors are as before."""

    def counts() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    async def cycle() -> None:
        async with running(server.address) as session:
            await eventually(lambda: session.status.connected)

    for _ in range(20):
        await cycle()
    await eventually(lambda: server.fleet.sessions == 0)
    before = counts()
    for _ in range(200):
        await cycle()
    await eventually(lambda: all(now <= then for now, then in zip(counts(), before, strict=True)))


async def test_last_words_that_cross_with_a_heartbeat_leave_nothing_behind() -> None:
    """Though gRPC takes the call for done before they are read: 60 times, tasks and descriptors are as before."""
    words = (ControllerMessage(retry_after=RetryAfter(ms=1)), ControllerMessage(goodbye=Goodbye(reason="moving")))
    controller = ScriptedController(WELCOME, *words, code=grpc.StatusCode.UNAVAILABLE)
    async with serving(controller) as address:
        tasks, files = len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))
        async with running(address):
            await eventually(lambda: controller.hellos >= 60)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files)
