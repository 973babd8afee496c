"""The controller's database: transactions, and a schema that goes forward only; SQLite and PostgreSQL alike."""

import asyncio

import pytest
from sqlalchemy import text

from parkfleet.controller.database import UNAVAILABLE, Database, DatabaseError
from tests.conftest import DatabaseAt
from tests.postgres import Postgres, database_name

INSERT = text("INSERT INTO config_secret (name, box) VALUES (:name, :box)")


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(text("SELECT name FROM config_secret ORDER BY name"))).scalars())


async def test_write_is_kept_or_undone_as_a_whole(database_at: DatabaseAt) -> None:
    """A block that raises leaves nothing; one that ends is there for the next who opens it."""
    database = await database_at.open()
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "kept", "box": b""})
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(INSERT, {"name": "undone", "box": b""})
            raise ZeroDivisionError
    assert database.commits == 1
    await database.close()
    database = await database_at.open()
    assert await names(database) == ["kept"]
    await database.close()


async def test_writes_beside_each_other_are_all_kept(database: Database) -> None:
    """They wait for each other where they must."""

    async def one(number: int) -> None:
        async with database.write(turn=7) as connection:
            await connection.execute(INSERT, {"name": f"{number:02}", "box": b"x"})

    await asyncio.gather(*map(one, range(30)))
    assert await names(database) == [f"{number:02}" for number in range(30)]


async def test_open_refuses_a_newer_schema(database_at: DatabaseAt) -> None:
    """A database that a newer program brought forward is told, and left as it is."""
    database = await database_at.open()
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(DatabaseError, match=r"newer ParkFleet .*9999.*never brought backward"):
        await database_at.open()


async def test_replicas_that_start_together_migrate_once(on_postgres: DatabaseAt) -> None:
    """On an empty database, each finds the schema that it needs."""
    replicas = await asyncio.gather(*(on_postgres.open() for _ in range(4)))
    assert [await names(replica) for replica in replicas] == [[]] * 4
    for replica in replicas:
        await replica.close()


async def test_a_restarted_server_is_used_again(request: pytest.FixtureRequest) -> None:
    """Errors while it is away; then no connection of before stands in the way."""
    with Postgres() as postgres:
        url = await postgres.create(database_name(request.node.name))
        database = await Database.open(url, postgres.password)
        assert await names(database) == []
        postgres.stop()
        with pytest.raises(UNAVAILABLE):
            await names(database)
        postgres.start()
        assert await names(database) == []
        await database.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "expected postgresql://"),
        ("mysql://x@y/z", "mysql is not known"),
        ("postgresql://me:secret@127.0.0.1:1/x", "cannot use the database"),
        ("postgresql://me:secret@127.0.0.1:1/x?sslmode=nonsense", "sslmode"),
        ("sqlite:////nowhere/at/all.db", "unable to open"),
    ],
)
async def test_open_says_what_is_wrong(url: str, told: str) -> None:
    """Whatever cannot be opened is one sentence, without the password."""
    with pytest.raises(DatabaseError, match=told) as caught:
        await Database.open(url)
    assert "secret" not in str(caught.value)


async def test_open_tells_a_wrong_password(postgres: Postgres, on_postgres: DatabaseAt) -> None:
    """In PostgreSQL's words, without it."""
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        await Database.open(on_postgres.url, "wrong-secret")
    assert "wrong-secret" not in str(caught.value)
