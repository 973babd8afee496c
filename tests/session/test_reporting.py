"""Reporting: a controller that has a section is not told it again; one that lacks it is."""

from collections.abc import AsyncIterator

import pytest

from parkfleet.agent import reporting
from parkfleet.agent.reporting import LINES_S, Reporting
from parkfleet.agent.status import AgentFacts, AgentSnapshot, ConfigurationName, LineReport, ReportedState
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.database import Database
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.proto import common_pb2
from parkfleet.proto.session_pb2 import AgentMessage, Welcome
from tests.controller.raw_agent import RawAgent
from tests.eventually import eventually

FACTS = AgentFacts("p1", "gw-01", "1.2.3", "boot", "hash", 2, 8)
STATE = ReportedState("1.2.3", ConfigurationName(1, "a"))
LINES = (LineReport("bus1", requests=7, errors={"timeout": 1}), LineReport("bus2"))


def due(agent: Reporting, state: ReportedState, lines: tuple[LineReport, ...], now: float) -> list[AgentMessage]:
    """What a session sends at a heartbeat."""
    messages = (agent.status(state), agent.heartbeat(AgentSnapshot(lines=lines), 1, 0, now))
    return [message for message in messages if message is not None]


def told(
    agent: Reporting, now: float = 0.0, state: ReportedState = STATE, lines: tuple[LineReport, ...] = LINES
) -> tuple[str, ...]:
    """What is due, by name; lines: a heartbeat with its lines."""
    names = []
    for message in due(agent, state, lines, now):
        kind = message.WhichOneof("message") or ""
        whole = kind == "heartbeat" and message.heartbeat.lines_told
        assert whole == (len(message.heartbeat.lines) > 0)
        names.append("lines" if whole else kind)
    return tuple(names)


def test_what_is_told_is_not_told_again() -> None:
    """Only a bare heartbeat is left, though counts have grown."""
    agent = Reporting()
    agent.welcomed(Welcome())
    assert told(agent) == ("status", "lines")
    assert told(agent, 10) == ("heartbeat",)
    grown = (LineReport("bus1", requests=9, errors={"timeout": 5}, load=0.3), LineReport("bus2"))
    assert told(agent, 20, lines=grown) == ("heartbeat",)
    assert told(agent, LINES_S, lines=grown) == ("lines",)


def test_what_changes_is_told_at_once() -> None:
    """A state, a line that is down or fails in a new way."""
    agent = Reporting()
    assert told(agent) == ("status", "lines")
    assert told(agent, state=ReportedState("1.2.3", ConfigurationName(2, "b"))) == ("status", "heartbeat")
    down = (LineReport("bus1", up=False, told="no such device"), LineReport("bus2"))
    assert told(agent, state=ReportedState("1.2.3", ConfigurationName(2, "b")), lines=down) == ("lines",)


def test_a_controller_that_has_everything_is_told_what_changed() -> None:
    """The hello names the state as it is, and the lines that were told last."""
    agent = Reporting()
    assert told(agent) == ("status", "lines")
    hello = agent.hello(FACTS, STATE).hello
    assert hello.status_tag and hello.lines_tag
    agent.welcomed(Welcome(has_status=True, has_lines=True))
    assert told(agent) == ("heartbeat",)
    agent.welcomed(Welcome(has_status=True))
    assert told(agent) == ("lines",)
    agent.welcomed(Welcome(has_lines=True))
    assert told(agent) == ("status", "heartbeat")
    agent.in_full()
    assert told(agent) == ("status", "lines")


def test_an_agent_that_restarted_need_not_tell_its_state_again() -> None:
    """The name of the same state is the same."""
    agent, again = Reporting(), Reporting()
    assert told(agent) == ("status", "lines")
    assert agent.hello(FACTS, STATE).hello.status_tag == again.hello(FACTS, STATE).hello.status_tag
    again.welcomed(Welcome(has_status=True))
    assert told(again) == ("lines",)


def test_a_name_is_of_the_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the same, in every process; never 0, which means none."""
    one, two = (common_pb2.ReportedState(release=release) for release in ("1", "2"))
    assert reporting.tag_of(one) == reporting.tag_of(common_pb2.ReportedState(release="1")) != reporting.tag_of(two)
    assert reporting.tag_of(common_pb2.ReportedState()) != 0


@pytest.fixture
async def database(tmp_path: object) -> AsyncIterator[Database]:
    """A database of its own."""
    opened = await Database.open(f"sqlite:///{tmp_path}/controller.db")
    yield opened
    await opened.close()


async def say(agent: RawAgent, reporting: Reporting, state: ReportedState = STATE) -> list[AgentMessage]:
    """Says what is due; that."""
    messages = due(reporting, state, LINES, 0.0)
    for message in messages:
        await agent.say(message)
    return messages


async def join(agent: RawAgent, reporting: Reporting) -> Welcome:
    """Says hello, and takes the welcome."""
    await agent.say(reporting.hello(FACTS, STATE))
    welcome = (await agent.hear()).welcome
    reporting.welcomed(welcome)
    return welcome


async def test_a_controller_that_restarted_still_knows(database: Database) -> None:
    """Status and lines come from its database: the agent sends a heartbeat, and nothing else."""
    reporting = Reporting()
    for number in range(2):
        storage = await Storage.load(database, SecretBox(b"k" * 32))
        async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server, RawAgent(server.address) as agent:
            welcome = await join(agent, reporting)
            assert (welcome.has_status, welcome.has_lines) == (number > 0, number > 0)
            assert len(await say(agent, reporting)) == 2 - number
            gateway = (await eventually(lambda: [g for g in server.fleet.gateways() if g.beat and g.status]))[0]
            assert gateway.heartbeat is not None and gateway.status is not None
            assert [line.id for line in gateway.heartbeat.lines] == ["bus1", "bus2"]
            assert gateway.status.running.hash == "a"


async def test_a_controller_that_lacks_what_an_agent_takes_for_known_asks() -> None:
    """Once, and is told; without a database a restarted controller knows nothing."""
    reporting = Reporting()
    async with ControllerServer("127.0.0.1:0", 10.0) as server, RawAgent(server.address) as agent:
        await join(agent, reporting)
        bare = AgentMessage(heartbeat=common_pb2.Heartbeat(lines_tag=77))
        for _ in range(3):
            await agent.say(bare)
        assert (await agent.hear()).WhichOneof("message") == "report_in_full"
        reporting.in_full()
        await say(agent, reporting)
        (gateway,) = server.fleet.gateways()
        await eventually(lambda: (g := next(server.fleet.gateways())).heartbeat and g.lines_tag)
        await agent.say(bare)
        assert (await agent.hear()).WhichOneof("message") == "report_in_full"
        assert gateway.is_online


async def test_a_configuration_is_offered_to_a_gateway_that_said_nothing_new(database: Database) -> None:
    """Its state of before the restart still holds, and it is in need of another one."""
    from parkfleet.controller.config_layers import LayerName, read_layer
    from parkfleet.protocols.document import Document
    from tests.config.fleet import LAYERS

    reporting = Reporting()
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server, RawAgent(server.address) as agent:
        await join(agent, reporting)
        await say(agent, reporting)
        await eventually(lambda: [g for g in server.fleet.gateways() if g.beat])
    for layer, text in LAYERS.items():
        document = Document("x.yaml", text)
        name = LayerName.parse(layer)
        await storage.config.store_proposal(
            storage.config.propose(name, read_layer(name, document), document), "alice", "x"
        )
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server, RawAgent(server.address) as agent:
        assert (await join(agent, reporting)).has_status
        assert (await agent.hear()).desired_configuration.configuration.revision == 4
