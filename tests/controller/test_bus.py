"""The bus: what one replica says is heard by the others, also after the line was cut."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from parkfleet.controller.bus import Bus
from parkfleet.controller.database import UNAVAILABLE, Database
from tests.conftest import DatabaseAt
from tests.eventually import eventually
from tests.postgres import Postgres


class Listener:
    """A replica that writes down what it hears."""

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.bus = Bus(database, name)
        self.heard: list[list[str] | None] = []
        self.failures = 0  # calls that are to fail
        self.bus.subscribe("topic", self.hear)

    async def hear(self, ids: list[str] | None) -> None:
        """Takes a word, or fails as a database would."""
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.heard.append(ids)

    async def say(self, ids: str, topic: str = "topic") -> None:
        """Tells the others."""
        async with self.database.write() as connection:
            await self.bus.tell(connection, topic, ids)

    @property
    def ids(self) -> list[str]:
        """All that it heard, one after the other."""
        return [one for ids in self.heard if ids is not None for one in ids]


Replicas = Callable[[str], AbstractAsyncContextManager[Listener]]


@pytest.fixture
async def replica(on_postgres: DatabaseAt) -> AsyncIterator[Replicas]:
    """Makes listeners on one database."""

    @asynccontextmanager
    async def running(name: str) -> AsyncIterator[Listener]:
        database = await on_postgres.open()
        listener = Listener(database, name)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(listener.bus.run())
            await eventually(lambda: listener.heard == [None])
            yield listener
            task.cancel()
        await database.close()

    yield running


async def test_words_are_heard_in_order_by_the_others(replica: Replicas) -> None:
    """Not by who said them; other topics are nobody's business."""
    async with replica("a") as a, replica("b") as b:
        for number in range(200):
            await a.say(str(number))
        await a.say("x", topic="other")
        await a.say("last")
        await eventually(lambda: b.ids[-1:] == ["last"])
        assert b.ids == [*map(str, range(200)), "last"]
        assert a.heard == [None]


async def test_a_word_is_not_heard_of_what_was_not_committed(replica: Replicas) -> None:
    """It goes out with its transaction, or not at all."""
    async with replica("a") as a, replica("b") as b:
        with suppress(ZeroDivisionError):
            async with a.database.write() as connection:
                await a.bus.tell(connection, "topic", "undone")
                raise ZeroDivisionError
        await a.say("done")
        await eventually(lambda: bool(b.ids))
        assert b.ids == ["done"]


async def test_a_listener_that_was_cut_off_looks_at_everything(
    replica: Replicas, postgres: Postgres, on_postgres: DatabaseAt
) -> None:
    """It listens again by itself, and what was said meanwhile is not lost."""
    async with replica("a") as a, replica("b") as b:
        name = on_postgres.url.rsplit("/", 1)[1]
        killed = await postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'LISTEN%'"
        )
        assert len(killed) == 2
        await eventually(lambda: b.heard.count(None) == 2)
        await a.say("again")
        await eventually(lambda: b.ids == ["again"])


async def test_a_word_that_could_not_be_followed_is_told_again(replica: Replicas) -> None:
    """As a look at everything, until that is a success."""
    async with replica("a") as a, replica("b") as b:
        b.failures = 2
        await a.say("1")
        await eventually(lambda: b.heard == [None, None])


async def test_nobody_is_heard_with_sqlite(tmp_path: Path) -> None:
    """There is nobody else."""
    database = await Database.open(f"sqlite:///{tmp_path}/controller.db")
    listener = Listener(database, "a")
    await listener.say("x")
    await listener.bus.run()
    assert (listener.heard, listener.bus.is_listening) == ([], True)
    await database.close()


def test_errors_of_a_database_that_is_away_are_known() -> None:
    """Whatever a driver makes of a lost connection."""
    assert issubclass(ConnectionResetError, UNAVAILABLE)
