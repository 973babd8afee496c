"""Replicas: two controllers in this process on one PostgreSQL, and agents that are now here, now there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

from parkfleet.controller import replica as replica_module
from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.registry import Gateway, GatewayKey
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.controller.view import GatewayView
from parkfleet.proto import common_pb2
from parkfleet.proto.session_pb2 import AgentMessage
from parkfleet.protocols.document import Document
from tests.config.fleet import LAYERS
from tests.conftest import DatabaseAt
from tests.controller.raw_agent import RawAgent, goodbye, heartbeat, hello
from tests.eventually import eventually

GW = GatewayKey("p1", "gw-01")


class Site:
    """One replica: its storage and its server."""

    def __init__(self, storage: Storage, server: ControllerServer) -> None:
        self.storage = storage
        self.server = server

    @property
    def address(self) -> str:
        """Where agents and operators reach it."""
        return self.server.address

    def knows(self, key: GatewayKey = GW) -> Gateway | None:
        """What it knows of a gateway."""
        return self.server.fleet.registry.get(key)

    def is_online(self, key: GatewayKey = GW) -> bool:
        """Whether it takes a gateway for online, wherever its session is."""
        gateway = self.knows(key)
        return gateway is not None and gateway.is_online

    async def listed(self) -> list[GatewayView]:
        """What it tells operators."""
        async with FleetClient(self.address) as client:
            return await client.list_gateways()


class Sites:
    """Replicas on one database."""

    def __init__(self, database: DatabaseAt, life: AsyncExitStack) -> None:
        self._database = database
        self._life = life

    async def start(self, name: str) -> Site:
        """One more."""
        database = await self._database.open()
        self._life.push_async_callback(database.close)
        storage = await Storage.load(database, SecretBox(b"k" * 32), name)
        server = await self._life.enter_async_context(ControllerServer("127.0.0.1:0", 10.0, storage=storage))
        await eventually(lambda: storage.bus.is_listening)
        return Site(storage, server)


@pytest.fixture
async def sites(on_postgres: DatabaseAt) -> AsyncIterator[Sites]:
    """None yet."""
    async with AsyncExitStack() as life:
        yield Sites(on_postgres, life)


async def test_each_replica_knows_the_whole_fleet(sites: Sites) -> None:
    """Who is online and where, what it runs, and when it leaves, with the reason."""
    a, b = await sites.start("a"), await sites.start("b")
    async with RawAgent(a.address) as one, RawAgent(b.address) as two:
        await one.join("gw-01")
        await two.join("gw-02")
        await one.say(AgentMessage(status=common_pb2.ReportedState(running=common_pb2.Configuration(hash="local"))))
        await one.say(heartbeat(uptime_s=7, lines=[common_pb2.LineStatus(id="bus1", up=True)]))
        await eventually(lambda: (found := b.knows()) is not None and found.heartbeat is not None)
        await eventually(lambda: a.is_online(GatewayKey("p1", "gw-02")))
        for site in (a, b):
            first, second = await site.listed()
            assert (first.gateway, first.state, first.replica) == ("gw-01", "online", "a")
            assert (second.gateway, second.state, second.replica) == ("gw-02", "online", "b")
        assert (a.server.fleet.elsewhere(GW), b.server.fleet.elsewhere(GW)) == ("", "a")  # who asks b is told
        first = (await b.listed())[0]
        assert (first.uptime_s, first.lines[0].id, first.configuration_hash) == (7, "bus1", "local")
        late = await sites.start("c")
        assert [(one.gateway, one.state) for one in await late.listed()] == [("gw-01", "online"), ("gw-02", "online")]
        await one.say(goodbye("enough"))
        for site in (b, late):
            await eventually(lambda: not site.is_online())  # noqa: B023
            assert (await site.listed())[0].reason == "enough"


async def test_watch_tells_of_other_replicas(sites: Sites) -> None:
    """As of its own."""
    a, b = await sites.start("a"), await sites.start("b")
    async with FleetClient(b.address) as client, RawAgent(a.address) as agent:
        watch = client.watch()
        await agent.join()
        await agent.say(goodbye("enough"))
        states = []
        async for view in watch:
            states.append(view.state)
            if view.reason == "enough":
                break
        assert states[-1] == "offline"


async def test_a_session_at_another_replica_ends_the_first(sites: Sites) -> None:
    """The first is told why, and its end takes nobody offline."""
    a, b = await sites.start("a"), await sites.start("b")
    async with RawAgent(a.address) as first, RawAgent(b.address) as second:
        await first.join()
        await second.join()
        assert (await first.last_words())[-1].goodbye.reason == "another session of p1/gw-01 has taken over, at b"
        assert (await first.ended())[0] is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: a.server.fleet.sessions == 0)
        known = a.knows()
        assert known is not None and (known.is_online, known.replica, known.session) == (True, "b", 0)
        async with RawAgent(a.address) as third:
            await third.join()
            assert (await second.last_words())[-1].goodbye.reason.endswith("has taken over, at a")
            await eventually(lambda: (found := b.knows()) is not None and found.replica == "a")
            assert b.is_online()


async def test_sessions_that_race_leave_one(sites: Sites) -> None:
    """Whichever wins, both replicas name the same."""
    a, b = await sites.start("a"), await sites.start("b")
    async with AsyncExitStack() as guests:
        agents = [await guests.enter_async_context(RawAgent(site.address)) for site in (a, b) * 4]
        await asyncio.gather(*(agent.say(hello("gw-01")) for agent in agents))
        await eventually(lambda: a.server.fleet.sessions + b.server.fleet.sessions == 1)
        await eventually(lambda: (one := a.knows()) and (two := b.knows()) and one.replica == two.replica)
        known = [site.knows() for site in (a, b)]
        assert all(found is not None and found.is_online for found in known)


async def test_a_change_reaches_gateways_of_every_replica(sites: Sites) -> None:
    """Whichever replica the operator has spoken to."""
    a, b = await sites.start("a"), await sites.start("b")
    async with RawAgent(a.address) as one, RawAgent(b.address) as two:
        for agent, gateway in ((one, "gw-01"), (two, "gw-02")):
            await agent.join(gateway)
            await agent.say(AgentMessage(status=common_pb2.ReportedState(running=common_pb2.Configuration(hash="x"))))
        for layer, text in {**LAYERS, "gateway/p1/gw-02": LAYERS["gateway/p1/gw-01"]}.items():
            document = Document("x.yaml", text)
            name = LayerName.parse(layer)
            proposal = a.storage.config.propose(name, read_layer(name, document), document)
            await a.storage.config.store_proposal(proposal, "alice", "begin")
        assert (await one.hear()).desired_configuration.configuration.revision == 4
        assert (await two.hear()).desired_configuration.configuration.revision == 5
        await a.storage.config.set_secret("mqtt", b"x", "alice", "new")
        await eventually(lambda: "mqtt" in b.storage.config.secrets)


async def test_changes_made_at_two_replicas_at_once_are_seen_in_one_order(sites: Sites) -> None:
    """Each replica ends with the same, though each had to hear of half of them."""
    a, b = await sites.start("a"), await sites.start("b")

    async def change(site: Site, number: int) -> None:
        layer = LayerName.parse(f"label/l{number}")
        document = Document("x.yaml", f"buffer: {{flush: {number + 1}s}}")
        proposal = site.storage.config.propose(layer, read_layer(layer, document), document)
        await site.storage.config.store_proposal(proposal, "alice", "x")

    await asyncio.gather(*(change((a, b)[number % 2], number) for number in range(40)))
    await eventually(lambda: len(a.storage.config.heads()) == len(b.storage.config.heads()) == 40)
    assert a.storage.config.heads() == b.storage.config.heads()


async def test_a_replica_that_is_silent_has_its_gateways_taken_offline(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; and when it lives after all, they are online again without a new session."""
    monkeypatch.setattr(replica_module, "DEAD_S", 1.0)
    a, b = await sites.start("a"), await sites.start("b")
    async with RawAgent(a.address) as agent:
        await agent.join()
        await eventually(b.is_online)
        held = a.storage.fleet._in_order
        await held.acquire()  # a hangs: it writes nothing
        await eventually(lambda: not b.is_online())
        known = b.knows()
        assert known is not None and known.reason == "its controller a is gone"
        held.release()
        await eventually(b.is_online)
        assert a.is_online() and a.server.fleet.sessions == 1


async def test_a_claim_whose_success_nobody_heard_of_is_given_back(sites: Sites) -> None:
    """The gateway is offline for all, until its agent comes again."""
    a, b = await sites.start("a"), await sites.start("b")
    gateway = a.server.fleet.registry.prepare(hello("gw-01").hello, "x", a.server.fleet.now())
    await a.storage.fleet.claim([gateway])
    await eventually(b.is_online)

    a.storage.bus._wait("fleet", None)  # what a lost connection to the database brings about
    await eventually(lambda: not b.is_online())
    async with RawAgent(a.address) as agent:
        await agent.join()
        await eventually(b.is_online)
