"""The recorder: what is stored of gateways, how seldom, and what becomes of it when the database is away."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller import recorder as recorder_module
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import Report
from parkfleet.controller.database import Database
from parkfleet.controller.recorder import Recorder
from parkfleet.controller.registry import Gateway, GatewayKey, Moment, Registry
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.proto import common_pb2
from tests.conftest import DatabaseAt
from tests.controller.raw_agent import RawAgent, heartbeat, hello
from tests.eventually import eventually

NOW = Moment(1.0, 1000)


class Kept:
    """A recorder with a registry of its own."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.registry = Registry(replica=storage.bus.name)
        self.recorder = Recorder(self.registry, storage.fleet, storage.config.store)

    def joins(self, name: str) -> Gateway:
        """A gateway opens a session."""
        gateway = self.registry.hello(hello(name).hello, "peer", NOW).gateway
        self.recorder.changed(gateway)
        return gateway

    def beats(self, gateway: Gateway, uptime_s: int) -> None:
        """It sends a heartbeat."""
        beat = common_pb2.Heartbeat(uptime_s=uptime_s)
        found = self.registry.heartbeat(gateway.key, gateway.session, beat, NOW)
        assert found is not None
        self.recorder.heard(found)

    async def stored(self) -> dict[str, int]:
        """The uptime that is stored of each gateway."""
        found = [gateway async for gateway in self.storage.fleet.all()]
        return {one.key.gateway: one.heartbeat.uptime_s if one.heartbeat else -1 for one in found}


@pytest.fixture
async def kept(database: Database) -> Kept:
    """In a database of each kind."""
    return Kept(await Storage.load(database, SecretBox(b"k" * 32)))


async def test_many_changes_are_one_commit(kept: Kept) -> None:
    """And nothing new is none, but for the word that this replica lives."""
    gateways = [kept.joins(f"gw-{number}") for number in range(50)]
    for gateway in gateways:
        kept.beats(gateway, 7)
    before = kept.storage.database.commits
    await kept.recorder.flush()
    assert kept.storage.database.commits == before + 1
    await kept.recorder.flush()  # the first word made all of them news once more
    await kept.recorder.flush()
    assert kept.storage.database.commits == before + 2
    assert await kept.stored() == {f"gw-{number}": 7 for number in range(50)}


async def test_heartbeats_alone_are_stored_now_and_then(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute for each gateway, however many come; with any other change at once."""
    gateway = kept.joins("gw-1")
    kept.beats(gateway, 1)
    await kept.recorder.flush()
    await kept.recorder.flush()
    before = kept.storage.database.commits
    for uptime_s in range(2, 100):
        kept.beats(gateway, uptime_s)
        await kept.recorder.flush()
    assert (kept.storage.database.commits, await kept.stored()) == (before, {"gw-1": 1})
    monkeypatch.setattr(recorder_module, "STORE_BEAT_S", 0.0)
    kept.beats(gateway, 100)
    await kept.recorder.flush()
    assert await kept.stored() == {"gw-1": 100}


async def test_what_cannot_be_stored_is_stored_later(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was added meanwhile; and it is told while it lasts."""
    gateway = kept.joins("gw-1")
    kept.recorder.reported(gateway.key, Report(5, 1, "h", "running"))
    real = kept.storage.fleet.save

    async def fail(connection: AsyncConnection, gateways: object) -> None:
        raise OperationalError("the disk is full", None, Exception("full"))

    monkeypatch.setattr(kept.storage.fleet, "save", fail)
    await kept.recorder.flush()
    assert (kept.recorder.is_storing, await kept.stored()) == (False, {})
    assert await kept.storage.config.store.report(gateway.key) is None
    kept.joins("gw-2")
    monkeypatch.setattr(kept.storage.fleet, "save", real)
    await kept.recorder.flush()
    assert (kept.recorder.is_storing, set(await kept.stored())) == (True, {"gw-1", "gw-2"})
    assert await kept.storage.config.store.report(gateway.key) == Report(5, 1, "h", "running")


async def test_what_an_agent_says_never_keeps_others_from_being_stored(kept: Kept) -> None:
    """PostgreSQL refuses a text with a NUL in it, and with it all that stands in the same commit."""
    hostile = kept.joins("gw-1")
    kept.joins("gw-2")
    gone = kept.registry.ended(hostile.key, hostile.session, "a\0b", NOW)
    assert gone is not None
    await kept.recorder.flush()
    found = {gateway.key.gateway: gateway.reason async for gateway in kept.storage.fleet.all()}
    assert found == {"gw-1": "a\ufffdb", "gw-2": ""}


async def test_an_older_session_never_overwrites_a_newer_one(kept: Kept, database_at: DatabaseAt) -> None:
    """Whoever stores last."""
    mine = kept.joins("gw-1")
    await kept.recorder.flush()
    database = await database_at.open()
    other = Kept(await Storage.load(database, SecretBox(b"k" * 32)))
    prepared = other.registry.prepare(hello("gw-1").hello, "elsewhere", NOW)
    epochs = await other.storage.fleet.claim([prepared])
    assert epochs == {GatewayKey("p1", "gw-1"): mine.epoch + 1}
    kept.beats(mine, 9)
    kept.recorder.changed(mine)
    await kept.recorder.flush()
    (found,) = [gateway async for gateway in kept.storage.fleet.all()]
    assert (found.peer, found.epoch) == ("elsewhere", mine.epoch + 1)
    await database.close()


@asynccontextmanager
async def controller(path: Path) -> AsyncIterator[ControllerServer]:
    """On a database file."""
    database = await Database.open(f"sqlite:///{path}")
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as server:
        yield server
    await database.close()


async def test_a_backup_of_a_running_controller_is_whole(tmp_path: Path) -> None:
    """As the manual says to make it: a controller starts from it and knows the fleet."""
    async with controller(tmp_path / "controller.db") as server, RawAgent(server.address) as agent:
        await agent.join()
        await agent.say(heartbeat(uptime_s=7))
        await eventually(lambda: [gateway for gateway in server.fleet.gateways() if gateway.beat])
        with (
            closing(sqlite3.connect(tmp_path / "controller.db")) as running,
            closing(sqlite3.connect(tmp_path / "backup.db")) as backup,
        ):
            running.backup(backup)
    async with controller(tmp_path / "backup.db") as server:
        (gateway,) = server.fleet.gateways()
        assert (gateway.key.gateway, gateway.is_online) == ("gw-01", False)
        assert gateway.reason == "the controller ended without a goodbye"
