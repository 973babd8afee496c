"""Confirmed commit, with real processes: what is good is kept, what is bad heals itself, no reading is lost."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.database import Database
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.controller.view import GatewayView
from parkfleet.protocols.document import Document
from parkfleet.simulators.broker import RunningBroker, free_port
from parkfleet.simulators.processes import Child
from tests.agent.site import Site, stopped, subscribed
from tests.eventually import eventually
from tests.identity.guarded import guarded

LAYER = LayerName.parse("gateway/demo/gw-01")
TRIAL = "2s"


class Managed:
    """A site whose gateway a controller manages."""

    def __init__(self, site: Site, broker: RunningBroker, server: ControllerServer, config: ConfigFleet) -> None:
        self.site = site
        self.server = server
        self.config = config
        path = site.configure(broker.port)
        self.document = yaml.safe_load(path.read_text())
        self.document["controller"] = {"url": server.address, "trial": TRIAL}
        path.write_text(yaml.safe_dump(self.document))

    async def change(self, **keys: object) -> int:
        """A new revision of the gateway's layer, the installer's file but for these keys; its number."""
        document = Document("x.yaml", json.dumps({**self.document, **keys}))
        proposal = self.config.propose(LAYER, read_layer(LAYER, document), document)
        return (await self.config.store_proposal(proposal, "alice", "test")).number

    async def listed(self) -> GatewayView:
        """The gateway as operators see it."""
        async with FleetClient(self.server.address) as client:
            (gateway,) = await client.list_gateways()
        return gateway

    async def comes_to(self, state: str, revision: int) -> GatewayView:
        """Waits until the gateway is online, runs a revision and stands so."""
        wanted = (state, revision, "online")
        async with asyncio.timeout(40):
            while True:
                gateway = await self.listed()
                if (gateway.drift, gateway.configuration_revision, gateway.state) == wanted:
                    return gateway
                await asyncio.sleep(0.05)


@pytest.fixture
async def managed(site: Site, broker: RunningBroker, tmp_path: Path) -> AsyncIterator[Managed]:
    """With a controller in this process."""
    database = await Database.open(f"sqlite:///{tmp_path}/controller.db")
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    async with ControllerServer("127.0.0.1:0", 0.2, storage=storage) as server:
        yield Managed(site, broker, server, storage.config)
    await database.close()


async def test_a_good_change_is_confirmed_without_losing_a_reading(managed: Managed, broker: RunningBroker) -> None:
    """On trial first, then in sync; everything the meters answered arrives once."""
    async with subscribed(broker) as subscriber, managed.site.agent() as agent:
        await eventually(lambda: subscriber.batches > 2)
        first = await managed.change()
        seen = await managed.comes_to("applying", first)
        assert seen.on_trial
        await managed.comes_to("in sync", first)
        second = await managed.change(buffer={**managed.document["buffer"], "flush": "300ms"})
        gateway = await managed.comes_to("in sync", second)
        assert (gateway.drift_reason, gateway.meters_ok) == ("", 2)
        await stopped(agent, subscriber)
        assert managed.site.verdict(subscriber).ok, managed.site.verdict(subscriber)


async def test_a_change_that_cuts_the_controller_off_heals_itself(managed: Managed, broker: RunningBroker) -> None:
    """The agent goes back, is online again, and says why; it does not try the same again."""
    async with subscribed(broker) as subscriber, managed.site.agent() as agent:
        good = await managed.change()
        await managed.comes_to("in sync", good)
        bad = await managed.change(controller={"url": "127.0.0.1:9", "trial": TRIAL})
        gateway = await managed.comes_to("rolled back", good)
        assert gateway.desired_revision == bad
        assert "the controller was not seen (no session" in gateway.drift_reason or "refused" in gateway.drift_reason
        assert agent.output().count(f"configuration {bad} is on trial") == 1
        again = await managed.change(buffer={**managed.document["buffer"], "retain": "3d"})
        await managed.comes_to("in sync", again)
        await stopped(agent, subscriber)
        assert managed.site.verdict(subscriber).ok, managed.site.verdict(subscriber)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"broker": {"url": "mqtt://127.0.0.1:9"}}, "the broker acknowledged nothing"),
        ({"unit": 99}, "1 meter that answered before did not: m1"),
    ],
)
async def test_a_change_that_loses_broker_or_meter_is_undone(
    managed: Managed, broker: RunningBroker, keys: dict[str, object], why: str
) -> None:
    """And no reading is lost."""
    async with subscribed(broker) as subscriber, managed.site.agent() as agent:
        good = await managed.change()
        await managed.comes_to("in sync", good)
        if unit := keys.get("unit"):
            first, *others = managed.document["meters"]
            keys = {"meters": [{**first, "unit": unit}, *others]}
        await managed.change(**keys)
        gateway = await managed.comes_to("rolled back", good)
        assert why in gateway.drift_reason
        await stopped(agent, subscriber)
        assert managed.site.verdict(subscriber).ok, managed.site.verdict(subscriber)


async def test_what_cannot_be_applied_is_refused_at_once(managed: Managed, broker: RunningBroker) -> None:
    """Without a trial: a profile that the gateway has not, a buffer elsewhere."""
    async with subscribed(broker), managed.site.agent() as agent:
        await managed.change(meters=[{**managed.document["meters"][0], "profile": "none"}])
        gateway = await managed.comes_to("rolled back", 0)
        assert "it has mistakes" in gateway.drift_reason and "no profile 'none'" in gateway.drift_reason
        await managed.change(buffer={"path": "other.db"})
        await eventually(lambda: "would be left behind" in agent.output())
        assert "is on trial" not in agent.output()


async def test_a_disk_that_refuses_is_told(managed: Managed, broker: RunningBroker) -> None:
    """The gateway works on with what it has."""
    (managed.site.folder / "managed").write_text("where the folder should be")
    async with subscribed(broker) as subscriber, managed.site.agent():
        await managed.change()
        gateway = await managed.comes_to("rolled back", 0)
        assert "it cannot be kept: " in gateway.drift_reason
        seen = subscriber.batches
        await eventually(lambda: subscriber.batches > seen + 1)


@pytest.mark.parametrize(
    "step",
    ["before document", "renamed document", "after ledger staged", "before ledger trial", "after ledger trial"],
)
async def test_killed_while_applying(managed: Managed, broker: RunningBroker, step: str) -> None:
    """SIGKILL at a step of the way: the next start brings the gateway in sync, and nothing in the buffer is lost."""
    command = [sys.executable, "-m", "tests.agent.agent_killed_at", str(managed.site.folder / "gateway.yaml"), step]
    async with subscribed(broker) as subscriber:
        async with Child("agent", command, managed.site.folder / "killed.log") as victim:
            await eventually(lambda: subscriber.batches > 1)
            revision = await managed.change()
            assert await victim.wait() == -9, victim.output()
        async with managed.site.agent():
            await managed.comes_to("in sync", revision)


async def test_controller_killed_while_a_gateway_applies(site: Site, broker: RunningBroker, tmp_path: Path) -> None:
    """When it is back it knows what was stored, and the gateway, which went on, confirms it."""
    port = free_port()
    listen = f"127.0.0.1:{port}"
    ports = ("--enrolment", f"127.0.0.1:{free_port()}", "--operators", f"127.0.0.1:{free_port()}")
    path = site.configure(broker.port)
    layer = yaml.safe_load(path.read_text())
    layer["controller"] = {"url": listen, "trial": "15s"}
    path.write_text(yaml.safe_dump(layer))
    async with subscribed(broker) as subscriber:
        async with guarded(tmp_path, *ports, listen=listen) as first:
            code, _, err = await first.enrol(await first.token("demo"), path)
            assert code == 0, err
            async with site.agent() as agent:
                await eventually(lambda: "is online" in first.child.output())
                out = await first.fleet("config", "edit", str(LAYER), "--file", str(path), "-m", "x")
                assert "stored as revision 1" in out
                await eventually(lambda: "is on trial" in agent.output())
                first.child.kill()
                await first.child.wait()
                async with guarded(tmp_path, *ports, listen=listen) as second:
                    await eventually(lambda: "configuration 1 is confirmed" in agent.output(), 60)
                    out = await second.fleet("config", "history", str(LAYER), "--json")
                    assert [one["revision"] for one in json.loads(out)] == [1]
                await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)
