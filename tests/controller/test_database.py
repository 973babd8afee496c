"""The controller's database: transactions, and a schema that goes forward only."""

from pathlib import Path

import pytest
from sqlalchemy import text

from parkfleet.controller.database import Database, DatabaseError

INSERT = text("INSERT INTO config_secret (name, box) VALUES (:name, :box)")


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(text("SELECT name FROM config_secret ORDER BY name"))).scalars())


async def test_write_is_kept_or_undone_as_a_whole(tmp_path: Path) -> None:
    """A block that raises leaves nothing; one that ends is there for the next who opens it."""
    url = f"sqlite:///{tmp_path}/controller.db"
    database = await Database.open(url)
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "kept", "box": b""})
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(INSERT, {"name": "undone", "box": b""})
            raise ZeroDivisionError
    await database.close()
    database = await Database.open(url)
    assert await names(database) == ["kept"]
    await database.close()


async def test_open_refuses_a_newer_schema(tmp_path: Path) -> None:
    """A database that a newer program brought forward is told, and left as it is."""
    url = f"sqlite:///{tmp_path}/controller.db"
    database = await Database.open(url)
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(DatabaseError, match=r"newer ParkFleet .*9999.*never brought backward"):
        await Database.open(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "expected postgresql://"),
        ("mysql://x@y/z", "mysql is not known"),
        ("postgresql://me:secret@127.0.0.1:1/x", "cannot use the database"),
        ("sqlite:////nowhere/at/all.db", "unable to open"),
    ],
)
async def test_open_says_what_is_wrong(url: str, told: str) -> None:
    """Whatever cannot be opened is one sentence, without the password."""
    with pytest.raises(DatabaseError, match=told) as caught:
        await Database.open(url)
    assert "secret" not in str(caught.value)
