"""Database: what the controller must not forget, in SQLite or PostgreSQL, by one and the same code.

Invariants: a write is one transaction, on the disk when its block ends; in SQLite there is one writer at a time, in
PostgreSQL as many as there are replicas; the schema is the newest this program knows, or the database is not opened.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, Connection, Integer, MetaData, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from parkfleet.controller.errors import DatabaseError

__all__ = ["NUMBER", "UNAVAILABLE", "Database", "DatabaseError", "metadata", "shown", "upsert"]

#: Every table of the controller; the module of a store adds its own. migrations/ makes them.
metadata: Final = MetaData()

#: A number that grows by itself in both dialects, and in SQLite (with sqlite_autoincrement) is never given twice.
NUMBER: Final = BigInteger().with_variant(Integer(), "sqlite")

MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: Connections of one replica to PostgreSQL; its default server allows 100 in all.
POOL: Final = 8
#: Replicas that start together bring the schema forward one after the other: pg_advisory_xact_lock of this number.
MIGRATION_LOCK: Final = 0x706B666C
#: Another process (a backup) may hold SQLite's lock for so long. Seconds.
BUSY_S: Final = 10.0
#: A PostgreSQL that does not answer is taken for gone after so long: to connect, for one statement. Seconds.
CONNECT_S: Final = 5.0
STATEMENT_S: Final = 30.0

#: What a database that is away raises.
UNAVAILABLE: Final = (
    SQLAlchemyError,
    OSError,
    TimeoutError,
    sqlite3.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)


class Database:
    """An open database. Made by open()."""

    def __init__(self, engine: AsyncEngine, connector: "_Connector | None") -> None:
        self._engine = engine
        self._connector = connector
        self._writing = asyncio.Lock()
        self.commits = 0  # transactions that wrote, since it was opened

    @classmethod
    async def open(cls, url: str, password: str | None = None) -> Self:
        """Opens sqlite:///PATH or postgresql://USER@HOST/NAME, and brings its schema forward. Raises DatabaseError.

        PostgreSQL's URL may say whatever libpq's may (sslmode, sslrootcert, several hosts); its password comes from
        here, PGPASSWORD, PGPASSFILE or ~/.pgpass.
        """
        target = _target(url)
        connector = None
        if target.drivername.startswith("sqlite"):
            engine = create_async_engine(target)
            _prepare_sqlite(engine)
        else:
            connector = _Connector(url, password)
            # pre_ping: connections that died with a restarted server are found when they are taken, not used.
            engine = create_async_engine(
                "postgresql+asyncpg://", async_creator=connector.connect, pool_size=POOL, pool_pre_ping=True
            )
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            await _bring_forward(engine)
        except DatabaseError:
            await engine.dispose()
            raise
        except (*UNAVAILABLE, ValueError) as error:
            await engine.dispose()
            raise DatabaseError(f"cannot use the database {shown(url)}: {_cause(error)}") from None
        return cls(engine, connector)

    @property
    def dialect(self) -> str:
        """sqlite or postgresql."""
        return self._engine.dialect.name

    @property
    def is_shared(self) -> bool:
        """Whether other replicas may use it at the same time."""
        return self._connector is not None

    async def close(self) -> None:
        """Closes its connections."""
        await self._engine.dispose()

    async def connect_apart(self) -> Any:
        """A connection of asyncpg outside the pool, for LISTEN; the caller's to close. Raises one of UNAVAILABLE."""
        if self._connector is None:
            raise DatabaseError("only PostgreSQL tells its clients of changes")
        return await self._connector.connect()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose reads see one state."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self, turn: int | None = None) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed when the block ends, undone when it raises.

        turn: of all replicas' writes that name the same number one runs at a time: what they number is in the order
        in which it is seen.
        """
        if not self.is_shared:
            async with self._writing, self._engine.connect() as connection:
                await connection.execution_options(immediate=True)
                async with connection.begin():
                    yield connection
        else:
            async with self._engine.begin() as connection:
                if turn is not None:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": turn})
                yield connection
        self.commits += 1


class _Connector:
    """Makes connections to one PostgreSQL."""

    def __init__(self, url: str, password: str | None) -> None:
        self._url = url
        self._password = password

    async def connect(self) -> Any:
        """An asyncpg connection."""
        return await asyncpg.connect(
            self._url,
            password=self._password,
            timeout=CONNECT_S,
            command_timeout=STATEMENT_S,
            server_settings={"application_name": "parkfleet"},
        )


def upsert(connection: AsyncConnection, table: Any) -> Any:
    """An INSERT of the connection's dialect, which knows on_conflict_do_update and on_conflict_do_nothing."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    return insert(table)


def shown(url: str) -> str:
    """The url without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not a url)"


def _target(url: str) -> URL:
    """The url with the asynchronous driver's name. Raises DatabaseError."""
    try:
        target = make_url(url)
    except ArgumentError:
        raise DatabaseError("expected postgresql://USER@HOST/NAME or sqlite:///PATH") from None
    match target.drivername:
        case "sqlite":
            return target.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            return target.set(drivername="postgresql+asyncpg")
        case other:
            raise DatabaseError(f"{other} is not known: expected postgresql://USER@HOST/NAME or sqlite:///PATH")


def _prepare_sqlite(engine: AsyncEngine) -> None:
    """Has transactions begun by us: sqlite3's own begin is too late, and never immediate."""

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {int(BUSY_S * 1000)}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


async def _bring_forward(engine: AsyncEngine) -> None:
    """Runs the migrations that are missing, in one transaction. Raises DatabaseError when the schema is newer."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}

    def migrate(connection: Connection) -> None:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise DatabaseError(
                f"the database is of a newer ParkFleet (its schema is {current}, the newest known here is "
                f"{scripts.get_current_head()}), and is never brought backward: start that version again, or restore "
                "the backup that was made before it"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with engine.connect() as connection:
        await connection.execution_options(immediate=True)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            await connection.run_sync(migrate)


def _cause(error: BaseException) -> str:
    """The driver's own words."""
    words = str(getattr(error, "orig", None) or error).strip().splitlines()
    return words[0] if words else type(error).__name__
