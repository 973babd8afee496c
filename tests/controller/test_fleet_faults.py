"""What a controller may suffer, with real processes and a simulated fleet: nothing acknowledged is lost, and the fleet
comes to run what it should."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from parkfleet.controller.client import FleetError
from parkfleet.controller.view import GatewayView
from parkfleet.simulators.broker import free_port
from parkfleet.simulators.fleet.balancer import Balancer
from parkfleet.simulators.fleet.gateway import SimulatedGateway
from tests.controller.fleet_site import REGION, Operator, gateways, operator, prepare, running, same_authority
from tests.eventually import eventually
from tests.identity.guarded import Guarded, guarded
from tests.postgres import Postgres, database_name

BESIDE = ("--enrolment", "127.0.0.1:0", "--operators", "127.0.0.1:0", "--web", "off")


def all_run(fleet: list[SimulatedGateway], revision: int) -> bool:
    """Whether each gateway has confirmed a revision, or a later one."""
    return all(gateway.confirmed >= revision for gateway in fleet)


def in_sync(listed: list[GatewayView], number: int) -> bool:
    """Whether operators see so many gateways online and running what they should."""
    return len(listed) == number and all(one.online and one.drift == "in sync" for one in listed)


@pytest.mark.timeout(300)
async def test_controller_killed_while_200_gateways_apply_a_change(tmp_path: Path) -> None:
    """The change that was acknowledged is there afterwards, and every gateway comes to run it, told once."""
    await prepare(tmp_path / "data", 200)
    listen = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as life:
        first = await life.enter_async_context(guarded(tmp_path, *BESIDE, listen=listen))
        fleet = gateways(first.data, 200, lambda: listen, trial_s=1.0)
        await life.enter_async_context(running(fleet))
        async with operator(first) as alice:
            await alice.sees(lambda listed: in_sync(listed, 200), 120)
            changed = await alice.set(REGION, "buffer.max_bytes", "7GiB")
            await eventually(lambda: any(gateway.state.running.revision == changed for gateway in fleet))
            first.child.kill()
        await eventually(lambda: not any(gateway.status.connected for gateway in fleet))
        second = await life.enter_async_context(guarded(tmp_path, *BESIDE, listen=listen))
        await eventually(lambda: all_run(fleet, changed), 120)
        async with operator(second) as alice:
            await alice.sees(lambda listed: in_sync(listed, 200), 120)
            assert (await alice.history(REGION))[0] == changed
            again = await alice.set(REGION, "buffer.max_bytes", "8GiB")
            await eventually(lambda: all_run(fleet, again), 120)
        assert max(gateway.received.count(changed) for gateway in fleet) <= 2


class Replicas:
    """Two controllers on one PostgreSQL, and a load balancer before them."""

    def __init__(self, folder: Path, postgres: Postgres, url: str, life: AsyncExitStack, balancer: Balancer) -> None:
        self._folder = folder
        self._life = life
        self._password = folder / "password"
        self._password.write_text(f"{postgres.password}\n")
        self._database = ("--database", url, "--database-password-file", str(self._password))
        self.balancer = balancer
        self.running: dict[str, Guarded] = {}

    async def start(self, name: str) -> Guarded:
        """One more; each of the same authority as the first."""
        folder = self._folder / name
        if self.running:
            same_authority(next(iter(self.running.values())).data, folder / "data")
        folder.mkdir(exist_ok=True)
        controller = await self._life.enter_async_context(guarded(folder, *BESIDE, *self._database))
        host, _, port = controller.sessions.rpartition(":")
        self.balancer.targets.append((host, int(port)))
        self.running[name] = controller
        return controller

    @property
    def address(self) -> str:
        """Where gateways dial."""
        return f"127.0.0.1:{self.balancer.port}"


@asynccontextmanager
async def replicas(folder: Path, postgres: Postgres, name: str, number: int) -> AsyncIterator[Replicas]:
    """Two of them, with a configuration for so many gateways."""
    url = await postgres.create(database_name(name))
    await prepare(folder / "a" / "data", number, url, postgres.password)
    async with AsyncExitStack() as life:
        balancer = await life.enter_async_context(Balancer())
        site = Replicas(folder, postgres, url, life, balancer)
        await site.start("a")
        await site.start("b")
        yield site


@pytest.mark.timeout(300)
async def test_one_of_two_replicas_killed(tmp_path: Path, postgres: Postgres, request: pytest.FixtureRequest) -> None:
    """Its gateways come back at the other; who cannot is offline, and the reason says why."""
    (tmp_path / "a").mkdir()
    async with replicas(tmp_path, postgres, request.node.name, 60) as site, AsyncExitStack() as life:
        a, b = site.running["a"], site.running["b"]
        fleet = gateways(a.data, 60, lambda: site.address)
        await life.enter_async_context(running(fleet))
        bob = await life.enter_async_context(operator(b))
        await bob.sees(lambda listed: in_sync(listed, 60), 120)
        assert len({one.replica for one in await bob.listed()}) == 2, "the balancer has given each replica its part"
        site.balancer.targets = [target for target in site.balancer.targets if str(target[1]) in b.sessions]
        a.child.kill()
        await eventually(lambda: all(gateway.status.connected for gateway in fleet), 120)
        await bob.sees(lambda listed: in_sync(listed, 60) and len({one.replica for one in listed}) == 1, 120)
        changed = await bob.set(REGION, "buffer.max_bytes", "7GiB")
        await eventually(lambda: all_run(fleet, changed), 120)


@pytest.mark.timeout(300)
async def test_gateways_of_a_killed_replica_that_do_not_come_back_are_offline(
    tmp_path: Path, postgres: Postgres, request: pytest.FixtureRequest
) -> None:
    """With the reason, until they do."""
    (tmp_path / "a").mkdir()
    async with replicas(tmp_path, postgres, request.node.name, 4) as site, AsyncExitStack() as life:
        a, b = site.running["a"], site.running["b"]
        fleet = gateways(a.data, 4, lambda: site.address)
        site.balancer.targets = [target for target in site.balancer.targets if str(target[1]) in a.sessions]
        await life.enter_async_context(running(fleet))
        bob = await life.enter_async_context(operator(b))
        await bob.sees(lambda listed: in_sync(listed, 4), 120)
        a.child.kill()
        await bob.sees(lambda listed: all(not one.online for one in listed), 120)
        reasons = {one.reason for one in await bob.listed()}
        assert len(reasons) == 1 and reasons.pop().endswith("is gone")
        host, _, port = b.sessions.rpartition(":")
        site.balancer.targets = [(host, int(port))]
        await bob.sees(lambda listed: in_sync(listed, 4), 120)


@pytest.mark.timeout(300)
async def test_postgresql_restarted_under_two_replicas(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Sessions live on; what cannot be stored is refused, not acknowledged; afterwards all is as it should be."""
    (tmp_path / "a").mkdir()
    with Postgres() as postgres:
        async with replicas(tmp_path, postgres, request.node.name, 60) as site, AsyncExitStack() as life:
            a, b = site.running["a"], site.running["b"]
            fleet = gateways(a.data, 60, lambda: site.address)
            early, late = fleet[:50], fleet[50:]
            await life.enter_async_context(running(early))
            alice = await life.enter_async_context(operator(a))
            bob = await life.enter_async_context(operator(b))
            await bob.sees(lambda listed: sum(one.online and one.drift == "in sync" for one in listed) == 50, 120)
            before = await alice.set(REGION, "buffer.max_bytes", "7GiB")
            await eventually(lambda: all_run(early, before), 120)
            sessions = [gateway.status.session for gateway in early]
            postgres.stop()
            with pytest.raises(FleetError):
                await alice.set(REGION, "buffer.max_bytes", "8GiB")
            await life.enter_async_context(running(late))
            beats = [gateway.status.heartbeats for gateway in early]
            await eventually(lambda: all(g.status.heartbeats > n for g, n in zip(early, beats, strict=True)))
            await eventually(lambda: all("database is away" in gateway.status.told for gateway in late))
            assert len(await bob.listed()) == 60
            postgres.start()
            changed = await _changed(alice, "9GiB")
            await eventually(lambda: all_run(fleet, changed), 120)
            for who in (alice, bob):
                await who.sees(lambda listed: in_sync(listed, 60), 120)
                assert (await who.history(REGION))[:2] == [changed, before]
            assert [gateway.status.session for gateway in early] == sessions


async def _changed(who: Operator, size: str) -> int:
    """A change that is made again until it is acknowledged, as a person would: the database is coming back."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await who.set(REGION, "buffer.max_bytes", size)
            except FleetError:
                await asyncio.sleep(0.1)
