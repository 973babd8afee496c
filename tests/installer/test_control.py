"""The control socket of a running agent: reads between its scans, wakes, tells, and survives bad company."""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control import MAX_CLIENTS, AgentRunningError, ControlSocket, Conversation
from parkfleet.agent.control_client import AgentLine, ControlClient, ControlError, NoAgentError, connected
from parkfleet.agent.control_messages import MAX_REQUEST, Failed, LineState, Status, socket_path
from parkfleet.agent.installer import agent_runs, reader, through_agent
from parkfleet.agent.learned_store import LearnedStore
from parkfleet.agent.learner import Learner
from parkfleet.agent.line_book import LineBook
from parkfleet.agent.plan import Plan
from parkfleet.agent.scan import ScanPlan, scan
from parkfleet.protocols.config import BrokerConfig, GatewayConfig
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ReadRequest
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest
from parkfleet.protocols.payload.schema import Schema
from parkfleet.simulators.meter import SimulatedMeter
from tests.eventually import eventually
from tests.installer.conftest import MODELS, bus, configure, running


async def test_read_through_the_agent_does_not_disturb(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Readings come out of turn while polling goes on: the line's silences are kept, no scan fails, none is lost."""
    async with bus(tmp_path, meters) as line, running(configure(tmp_path, line, "1s")) as configuration:
        async with connected(socket_path(configuration)) as client:
            await told(client, lambda line: line.scans >= 5)
            for _ in range(4):
                for unit in MODELS:
                    reading = await client.read(f"m{unit}")
                    assert {point.quality for point in reading.points} <= {"good", "invalid"}
            before = (await client.status()).lines[0].scans
            await told(client, lambda line: line.scans >= before + 5)
            status = (await client.status()).lines[0]
        assert line.early == 0
        assert status.errors == {}
        assert (status.up, status.silent, status.meters) == (True, [], 5)


async def told(client: ControlClient, condition: Callable[[LineState], bool]) -> None:
    """Returns when the agent tells this of its line."""
    async with asyncio.timeout(30):
        while not condition((await client.status()).lines[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process could not know it earlier either


async def test_reader_shows_the_registers(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """With an agent or without one the same reading comes, registers beside their values."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        async with running(path) as configuration:
            assert await agent_runs(socket_path(configuration))
            async with reader(configuration, "m1") as read:
                through = await read()
        assert not await agent_runs(socket_path(configuration))
        async with reader(configuration, "m1") as read:
            direct = await read()
    for reading in (through, direct):
        first = reading.points[0]
        assert (first.point, first.table, first.address, first.unit) == ("voltage_l1", "input", 0, "V")
        assert len(first.registers) == 2
        assert 200 < float(str(first.value)) < 260
    assert [point.point for point in through.points] == [point.point for point in direct.points]


async def test_read_refused_register_costs_no_other(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """A meter that refuses a block is asked point by point."""
    own = meters[0]._span["input"]
    meters[0]._span["input"] = (own[0], own[1] - 4)  # it does not have the profile's last two points
    async with bus(tmp_path, meters) as line:
        configuration_path = configure(tmp_path, line)
        async with running(configuration_path) as configuration, connected(socket_path(configuration)) as client:
            reading = await client.read("m1")
    qualities = [point.quality for point in reading.points]
    assert qualities.count("exception-2") == 2
    assert qualities.count("good") == len(qualities) - 2


async def test_wake_asks_at_once(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """A meter that was long silent is read again from the moment it is woken, not from its next attempt on."""
    meters[0].faults.silent = True
    async with (
        bus(tmp_path, meters) as line,
        running(configure(tmp_path, line)) as configuration,
        connected(socket_path(configuration)) as client,
    ):
        await told(client, lambda line: line.silent == ["m1"] and line.errors["timeout"] >= 3)
        woken = await client.wake("m1")
        assert (woken.answered, woken.told) == (False, "no answer in time")
        meters[0].faults.clear()
        assert (await client.wake("m1")).answered
        await told(client, lambda line: not line.silent)


async def test_scan_through_the_agent(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """A scan of the agent's own line finds what hangs there, while the agent goes on reading it."""
    async with bus(tmp_path, meters) as line, running(configure(tmp_path, line, "500ms")) as configuration:
        path = socket_path(configuration)
        plan = ScanPlan((line.address,), tuple(range(1, 14)), 0.2)
        found = [step.found.unit async for step in scan(plan, through_agent(path, "bus")) if step.found]
        async with connected(path) as client:
            status = await client.status()
        assert found == list(MODELS)
        assert status.lines[0].errors == {}
        assert line.early == 0


async def test_transact_gives_what_the_meter_says(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Values, refusals and silence arrive as they would on the line itself; an unknown line is told."""
    async with (
        bus(tmp_path, meters) as line,
        running(configure(tmp_path, line)) as configuration,
        connected(socket_path(configuration)) as client,
    ):
        wire = AgentLine(client, "bus")
        assert len(await wire.transact(ReadRequest(1, "input", 0, 2), 0.2)) == 2
        with pytest.raises(ExceptionAnswerError, match="illegal data address"):
            await wire.transact(ReadRequest(1, "input", 60000, 2), 0.2)
        with pytest.raises(AnswerTimeoutError):
            await wire.transact(ReadRequest(99, "input", 0, 2), 0.05)
        with pytest.raises(ControlError, match="no line 'attic': lines are bus"):
            await AgentLine(client, "attic").transact(ReadRequest(1, "input", 0, 2), 0.2)
        with pytest.raises(ControlError, match="no meter 'm99'"):
            await client.read("m99")


async def test_socket_is_for_the_agents_user_only(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Mode 0600 from the start, and gone with the agent."""
    async with bus(tmp_path, meters) as line:
        async with running(configure(tmp_path, line)) as configuration:
            assert stat.S_IMODE(socket_path(configuration).stat().st_mode) == 0o600
        assert not socket_path(configuration).exists()
        with pytest.raises(NoAgentError, match="no agent runs here"):
            async with connected(socket_path(configuration)):
                pass


async def test_second_agent_is_refused(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Two agents on one configuration would fight for lines and buffer; the first is left alone."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        async with running(path) as configuration:
            with pytest.raises(AgentRunningError, match="another agent runs here already"):
                async with running(path):
                    pass
            async with connected(socket_path(configuration)) as client:
                assert (await client.status()).gateway == "g"


async def test_stale_socket_is_replaced(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """What an agent left behind that was killed does not keep the next from starting."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "agent.sock"))
    left.close()
    async with bus(tmp_path, meters) as line, running(configure(tmp_path, line)) as configuration:
        await eventually(lambda: stat.S_IMODE((tmp_path / "agent.sock").stat().st_mode) == 0o600)
        async with connected(socket_path(configuration)) as client:
            assert (await client.status()).park == "p"


async def test_deep_folder(tmp_path: Path) -> None:
    """The kernel takes 107 bytes of a socket's name; a folder may lie deeper."""
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    async with listening(folder / "agent.sock"), connected(folder / "agent.sock") as client:
        with pytest.raises(ControlError, match="no line"):
            await client.transact("x", ReadRequest(1, "input", 0, 1), 0.1)


def listening(path: Path) -> ControlSocket:
    """A control socket of an agent without lines."""

    async def status() -> Status:
        raise ValueError("not in this test")

    class Nothing:
        async def replay(self, request: ReplayRequest) -> ReplayAnswer:
            raise ValueError("not in this test")

        async def vacuum(self) -> tuple[int, int]:
            raise ValueError("not in this test")

    plan = Plan(Schema(()), ())
    nothing = Configuration(GatewayConfig("p", "g", BrokerConfig("mqtt://127.0.0.1:1"), [], []), {}, path.parent)
    book = LineBook(plan, Learner(plan, nothing, LearnedStore(path.parent / "learned.db")), {}, list)
    return ControlSocket(path, plan, {}, status, Nothing(), book)


async def said(path: Path, data: bytes) -> bytes:
    """All that comes back when a client says this and waits for the end, or for one line."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    with contextlib.suppress(OSError):
        writer.write(data)
        writer.write_eof()
    with contextlib.suppress(OSError):
        data = await reader.read()
    writer.close()
    return data


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"\n", "truncated"),
        (b"{}\n", "ask"),
        (b'{"ask":"reboot"}\n', "reboot"),
        (b'{"ask":"read"}\n', "meter"),
        (b'{"ask":"read","meter":7}\n', "str"),
        (b'{"ask":"read","meter":"x","y":1}\n', "unknown field"),
        (b'{"ask":"transact","line":"bus","unit":300,"pdu":"03","timeout":1}\n', "255"),
        (b'{"ask":"transact","line":"bus","unit":1,"pdu":"0x","timeout":1}\n', "regex"),
        (b'{"ask":"transact","line":"bus","unit":1,"pdu":"03","timeout":1e9}\n', "<= 5"),
        (b"[" * 3000 + b"\n", ""),
        (b"\xff\xfe\n", ""),
        (b"x" * (MAX_REQUEST + 10) + b"\n", "at most"),
    ],
)
async def test_hostile_request_is_answered(tmp_path: Path, request_: bytes, told: str) -> None:
    """Each is refused in a sentence, and the next client is served."""
    async with listening(tmp_path / "agent.sock"):
        answer = json.loads((await said(tmp_path / "agent.sock", request_)).splitlines()[0])
        assert answer["cause"] == "refused"
        assert told in answer["told"]
        assert json.loads(await said(tmp_path / "agent.sock", b'{"ask":"wake","meter":"m"}\n'))["cause"] == "refused"


async def test_writing_is_never_let_through(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """The socket reads; a request that would change a meter is refused."""
    async with bus(tmp_path, meters) as line, running(configure(tmp_path, line)) as configuration:
        ask = b'{"ask":"transact","line":"bus","unit":1,"pdu":"060000ffff","timeout":1}\n'
        assert b"only reading is let through" in await said(socket_path(configuration), ask)


async def test_too_many_clients(tmp_path: Path) -> None:
    """Silent clients do not pile up, and their places are free when they have gone."""
    path = tmp_path / "agent.sock"
    async with listening(path), contextlib.AsyncExitStack() as crowd:
        for _ in range(MAX_CLIENTS):
            await crowd.enter_async_context(connected(path))
        assert b"others are asking" in await said(path, b"")
        await crowd.aclose()
        async with asyncio.timeout(30):
            while b"others are asking" in await said(path, b'{"ask":"wake","meter":"m"}\n'):
                pass


@given(data=st.binary(max_size=200))
def test_no_line_raises(data: bytes) -> None:
    """Whatever one line holds, the answer is a message."""
    answer = asyncio.run(Conversation(listening(Path("unused"))).answer(data))
    assert isinstance(answer, Failed)
