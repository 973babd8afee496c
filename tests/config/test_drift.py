"""Drift, and the delivery that ends it: against a real controller with a raw agent."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from parkfleet.controller import config_delivery
from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_drift import DriftState, drift, is_to_be_offered
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import Report
from parkfleet.controller.database import Database
from parkfleet.controller.registry import GatewayKey, Moment, Registry
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.controller.view import GatewayView
from parkfleet.proto import common_pb2
from parkfleet.proto.session_pb2 import AgentMessage, ControllerMessage
from parkfleet.protocols.document import Document
from tests.config.fleet import LAYERS, PARK, REGION
from tests.controller.raw_agent import RawAgent, hello
from tests.eventually import eventually, eventually_so

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
async def storage(database: Database) -> Storage:
    """With the little fleet's configuration, in a database of each kind."""
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    for layer, text in LAYERS.items():
        await change(storage.config, layer, text)
    return storage


@pytest.fixture
def config(storage: Storage) -> ConfigFleet:
    """It."""
    return storage.config


async def change(fleet: ConfigFleet, layer: str, text: str) -> None:
    """A new revision of a layer."""
    document = Document("x.yaml", text)
    name = LayerName.parse(layer)
    await fleet.store_proposal(fleet.propose(name, read_layer(name, document), document), "alice", "begin")


@pytest.fixture
async def server(storage: Storage) -> AsyncIterator[ControllerServer]:
    """A controller with it."""
    async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as started:
        yield started


async def listed(server: ControllerServer) -> GatewayView:
    """The one gateway as operators see it."""
    async with FleetClient(server.address) as client:
        (gateway,) = await client.list_gateways()
    return gateway


async def reported(config: ConfigFleet, key: GatewayKey, revision: int) -> Report:
    """What a gateway said of a revision, once it is stored."""

    async def stored() -> Report | None:
        report = await config.store.report(key)
        return report if report is not None and report.revision == revision else None

    report = await eventually_so(stored)
    assert report is not None
    return report


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
        await change(config, "label/heat", "buffer: {flush: 30s}")
        second = (await agent.hear()).desired_configuration
        assert (second.configuration.revision, (await listed(server)).drift) == (5, "applying")
        failed = common_pb2.FailedConfiguration(configuration=second.configuration, reason="meters went silent")
        status = state(running=offer.configuration, last_received=second.configuration, last_failed=failed)
        await agent.say(AgentMessage(status=status))
        await change(config, "label/heat", "buffer: {flush: 20s}")
        assert (await agent.hear()).desired_configuration.configuration.revision == 6  # not 5 once more
        assert (await listed(server)).drift == "applying"
        report = await reported(config, GW, 5)
    assert (report.state, report.reason) == ("failed", "meters went silent")


async def test_secrets_come_beside_the_document(server: ControllerServer, config: ConfigFleet) -> None:
    """And a secret that is changed is brought though the document is the same."""
    await config.set_secret("mqtt", b"tiger", "alice", "new")
    region = REGION.replace("1883", "1883, username: gw, password_file: '${secret:mqtt}'")
    await change(config, "region/north", region)
    async with RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(AgentMessage(status=state(running=LOCAL)))
        first = (await agent.hear()).desired_configuration
        assert dict(first.secrets) == {"mqtt": b"tiger"} and b"tiger" not in first.document
        await config.set_secret("mqtt", b"lion", "alice", "newer")
        second = (await agent.hear()).desired_configuration
        assert dict(second.secrets) == {"mqtt": b"lion"}
        assert (second.document, second.configuration.revision) == (first.document, 7)


async def test_a_controller_knows_after_a_restart_what_was_reported(storage: Storage, database: Database) -> None:
    """Before the gateway is back: a controller that stops has stored the last word."""
    desired = storage.config.desired_name(GW)
    assert desired is not None
    name = common_pb2.Configuration(revision=desired[0], hash=desired[1])
    failed = common_pb2.FailedConfiguration(configuration=name, reason="why")
    for status, expected in (
        (state(running=name), "in sync"),
        (state(running=LOCAL, last_received=name, last_failed=failed), "rolled back"),
        (state(running=name, on_trial=True), "pending"),
    ):
        async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server, RawAgent(server.address) as agent:
            await agent.join()
            await agent.say(AgentMessage(status=status))
            await eventually(lambda: (gateway := server.fleet.registry.get(GW)) and gateway.status == status)  # noqa: B023
        storage = await Storage.load(database, SecretBox(b"k" * 32))
        async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server:
            gateway = await listed(server)
            assert (gateway.drift, gateway.state) == (expected, "offline")
            assert gateway.reason in ("the controller is stopping", "the connection ended without a goodbye")


async def test_many_reports_are_few_commits(server: ControllerServer, config: ConfigFleet, database: Database) -> None:
    """At most one a second, and one for the session that begins."""
    before = database.commits
    began = asyncio.get_running_loop().time()
    key = GatewayKey("p1", "gw-03")
    async with RawAgent(server.address) as agent:
        await agent.join("gw-03")
        for revision in range(1, 60):
            await agent.say(AgentMessage(status=state(running=common_pb2.Configuration(revision=revision, hash="x"))))
        await reported(config, key, 59)
    assert 1 <= database.commits - before <= asyncio.get_running_loop().time() - began + 2


async def test_an_offer_that_a_slow_agent_cannot_take_is_made_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it takes it; and not once more then."""
    monkeypatch.setattr(config_delivery, "AGAIN_S", 0.01)
    delivery = config_delivery.ConfigDelivery(storage.config, lambda: 0, lambda key, report: None)
    gateway = Registry().hello(hello("gw-01").hello, "peer", Moment(0.0, 0)).gateway
    answers = [False, False, True]
    offered: list[int] = []

    def send(message: ControllerMessage) -> bool:
        offered.append(message.desired_configuration.configuration.revision)
        return answers[len(offered) - 1]

    running = asyncio.create_task(delivery.run())
    delivery.opened(gateway, send, False)
    delivery.reported(gateway.key, gateway.session, state(running=LOCAL), None)
    await eventually(lambda: len(offered) == 3)
    delivery.reported(gateway.key, gateway.session, state(running=LOCAL, release="x"), state(running=LOCAL))
    await eventually(lambda: not delivery._due)
    assert offered == [4, 4, 4]
    running.cancel()


async def test_an_unmanaged_gateway_is_left_alone(server: ControllerServer, config: ConfigFleet) -> None:
    """Until it gets a layer of its own."""
    async with RawAgent(server.address) as agent:
        await agent.join("gw-02")
        await agent.say(AgentMessage(status=state(running=LOCAL)))
        await change(config, "park/p1", PARK.replace("3d", "4d"))
        await change(config, "gateway/p1/gw-02", LAYERS["gateway/p1/gw-01"])
        offer = (await agent.hear()).desired_configuration
        assert msgspec.json.decode(offer.document)["gateway"] == "gw-02"
