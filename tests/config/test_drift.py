"""Drift, and the delivery that ends it: against a real controller with a raw agent."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_drift import DriftState, drift, is_to_be_offered
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import ConfigStore, Report, open_database
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.view import GatewayView
from parkfleet.proto import common_pb2
from parkfleet.proto.session_pb2 import AgentMessage
from parkfleet.protocols.document import Document
from tests.config.fleet import LAYERS, PARK, REGION
from tests.controller.raw_agent import RawAgent
from tests.eventually import eventually

GW = GatewayKey("p1", "gw-01")
LOCAL = common_pb2.Configuration(hash="local")
WANTED = common_pb2.Configuration(revision=4, hash="wanted")


def state(**fields: object) -> common_pb2.ReportedState:
    """What a gateway reports."""
    return common_pb2.ReportedState(**fields)  # type: ignore[arg-type]


FAILED = common_pb2.FailedConfiguration(configuration=WANTED, reason="no broker")


@pytest.mark.parametrize(
    ("reported", "online", "expected", "offered"),
    [
        (state(running=WANTED), True, DriftState.IN_SYNC, False),
        (state(running=WANTED), False, DriftState.IN_SYNC, False),
        (state(running=common_pb2.Configuration(revision=3, hash="wanted")), True, DriftState.IN_SYNC, False),
        (state(running=WANTED, on_trial=True), True, DriftState.APPLYING, False),
        (state(running=LOCAL), True, DriftState.APPLYING, True),
        (state(running=LOCAL, last_received=WANTED), True, DriftState.APPLYING, False),
        (state(running=LOCAL), False, DriftState.PENDING, True),
        (state(running=LOCAL, last_received=WANTED, last_failed=FAILED), True, DriftState.ROLLED_BACK, False),
        (state(running=LOCAL, last_received=WANTED, last_failed=FAILED), False, DriftState.ROLLED_BACK, False),
    ],
)
def test_drift(reported: common_pb2.ReportedState, online: bool, expected: DriftState, offered: bool) -> None:
    """And whether the gateway is to be sent its configuration: never one that has just failed."""
    assert drift((4, "wanted"), reported, online).state is expected
    assert is_to_be_offered((4, "wanted"), reported) is offered


def test_drift_of_others() -> None:
    """Not managed; never seen; a new revision of what failed is tried again."""
    assert drift(None, state(running=LOCAL), True).state is DriftState.UNMANAGED
    assert drift((4, "wanted"), None, False).state is DriftState.PENDING
    failed = state(running=LOCAL, last_received=WANTED, last_failed=FAILED)
    assert is_to_be_offered((5, "wanted"), failed)
    assert drift((5, "wanted"), failed, True).state is DriftState.APPLYING


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database of its own."""
    connection = open_database(str(tmp_path / "fleet.db"))
    yield connection
    connection.close()


@pytest.fixture
def config(db: sqlite3.Connection) -> ConfigFleet:
    """The little fleet's configuration."""
    fleet = ConfigFleet(ConfigStore(db, SecretBox(b"k" * 32)))
    for layer, text in LAYERS.items():
        change(fleet, layer, text)
    return fleet


def change(fleet: ConfigFleet, layer: str, text: str) -> None:
    """A new revision of a layer."""
    document = Document("x.yaml", text)
    name = LayerName.parse(layer)
    fleet.store_proposal(fleet.propose(name, read_layer(name, document), document), "alice", "begin")


@pytest.fixture
async def server(config: ConfigFleet) -> AsyncIterator[ControllerServer]:
    """A controller with it."""
    async with ControllerServer("127.0.0.1:0", 10.0, config=config) as started:
        yield started


async def listed(server: ControllerServer) -> GatewayView:
    """The one gateway as operators see it."""
    async with FleetClient(server.address) as client:
        (gateway,) = await client.list_gateways()
    return gateway


async def test_a_gateway_is_brought_what_it_should_run(server: ControllerServer, config: ConfigFleet) -> None:
    """When it has said what it runs, and whenever that changes; every step shows in the list."""
    assert ((await listed(server)).drift, (await listed(server)).state) == ("pending", "offline")
    async with RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(AgentMessage(status=state(running=LOCAL)))
        offer = (await agent.hear()).desired_configuration
        assert (offer.configuration.revision, msgspec.json.decode(offer.document)["buffer"]["flush"]) == (4, "60s")
        name = offer.configuration
        assert (await listed(server)).drift == "applying"
        await agent.say(AgentMessage(status=state(running=name, on_trial=True)))
        await agent.say(AgentMessage(status=state(running=offer.configuration)))
        await eventually(lambda: (gateway := server.fleet.registry.get(GW)) and gateway.status == state(running=name))
        assert (await listed(server)).drift == "in sync"
        change(config, "label/heat", "buffer: {flush: 30s}")
        second = (await agent.hear()).desired_configuration
        assert (second.configuration.revision, (await listed(server)).drift) == (5, "applying")
        failed = common_pb2.FailedConfiguration(configuration=second.configuration, reason="meters went silent")
        status = state(running=offer.configuration, last_received=second.configuration, last_failed=failed)
        await agent.say(AgentMessage(status=status))
        change(config, "label/heat", "buffer: {flush: 20s}")
        assert (await agent.hear()).desired_configuration.configuration.revision == 6  # not 5 once more
        assert (await listed(server)).drift == "applying"
        await eventually(lambda: (report := config.store.report(GW)) is not None and report.state == "failed")
    report = config.store.report(GW)
    assert report is not None and (report.revision, report.state, report.reason) == (5, "failed", "meters went silent")


async def test_secrets_come_beside_the_document(server: ControllerServer, config: ConfigFleet) -> None:
    """And a secret that is changed is brought though the document is the same."""
    config.set_secret("mqtt", b"tiger", "alice", "new")
    region = REGION.replace("1883", "1883, username: gw, password_file: '${secret:mqtt}'")
    change(config, "region/north", region)
    async with RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(AgentMessage(status=state(running=LOCAL)))
        first = (await agent.hear()).desired_configuration
        assert dict(first.secrets) == {"mqtt": b"tiger"} and b"tiger" not in first.document
        config.set_secret("mqtt", b"lion", "alice", "newer")
        second = (await agent.hear()).desired_configuration
        assert dict(second.secrets) == {"mqtt": b"lion"}
        assert (second.document, second.configuration.revision) == (first.document, 7)


async def test_a_controller_knows_after_a_restart_what_was_reported(config: ConfigFleet) -> None:
    """Before the gateway is back."""
    desired = config.desired_name(GW)
    assert desired is not None
    for kind, expected in (("running", "in sync"), ("failed", "rolled back"), ("trial", "pending")):
        config.store.add_reports([(GW, Report(1, *desired, kind, "why"))])
        async with ControllerServer("127.0.0.1:0", 10.0, config=config) as server:
            assert (await listed(server)).drift == expected


async def test_many_reports_are_few_commits(server: ControllerServer, config: ConfigFleet) -> None:
    """At most one a second; the last words are stored when the controller stops."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    config.store._db.set_trace_callback(count)
    began = asyncio.get_running_loop().time()
    async with RawAgent(server.address) as agent:
        await agent.join("gw-03")
        for revision in range(1, 60):
            await agent.say(AgentMessage(status=state(running=common_pb2.Configuration(revision=revision, hash="x"))))
        key = GatewayKey("p1", "gw-03")
        await eventually(lambda: (report := config.store.report(key)) is not None and report.revision == 59)
    assert 1 <= commits <= asyncio.get_running_loop().time() - began + 2


async def test_an_unmanaged_gateway_is_left_alone(server: ControllerServer, config: ConfigFleet) -> None:
    """Until it gets a layer of its own."""
    async with RawAgent(server.address) as agent:
        await agent.join("gw-02")
        await agent.say(AgentMessage(status=state(running=LOCAL)))
        change(config, "park/p1", PARK.replace("3d", "4d"))
        change(config, "gateway/p1/gw-02", LAYERS["gateway/p1/gw-01"])
        offer = (await agent.hear()).desired_configuration
        assert msgspec.json.decode(offer.document)["gateway"] == "gw-02"
