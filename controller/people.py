"""People: the users of a controller and their grants, in the database.

Invariants: a user is never removed, only disabled, so that a name in the history stays one person; there is always an
enabled user who is admin of the whole fleet, once there was one.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Row, Table, Text, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.access import FLEET, Grant, Role, Scope
from parkfleet.controller.database import Database, metadata, upsert

#: Changes of people go one after the other over all replicas: the turn of this number.
PEOPLE_TURN: Final = 0x706B6670
#: Grants of one user, and users; a list of them all stays small.
MAX_GRANTS: Final = 100
MAX_USERS: Final = 2000

#: Small letters only: Alice and alice would be two people who look like one.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.@\-]{0,63}")

USERS: Final = Table(
    "operator_user",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password", Text),
    Column("enabled", Boolean),
    Column("created_ms", BigInteger),
)
GRANTS: Final = Table(
    "operator_grant",
    metadata,
    Column("user_name", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
)


class PeopleError(Exception):
    """What was asked for cannot be done; the message says why, for the admin."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may sign in."""

    name: str
    password: str  # its hash
    enabled: bool
    created_ms: int
    grants: tuple[Grant, ...]


class People:
    """The users of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def user(self, name: str) -> User | None:
        """The user of that name."""
        async with self._database.read() as connection:
            return await _user(connection, name)

    async def password_of(self, name: str) -> tuple[str, bool] | None:
        """Hash of a user's password, and whether they are enabled. One query whether there is such a user or not."""
        found = select(USERS.c.password, USERS.c.enabled).where(USERS.c.name == name)
        async with self._database.read() as connection:
            row = (await connection.execute(found)).first()
        return (row.password, row.enabled) if row else None

    async def users(self) -> list[User]:
        """All, by name."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(USERS).order_by(USERS.c.name))).all()
            grants: dict[str, list[Grant]] = {}
            for row in await connection.execute(select(GRANTS)):
                grants.setdefault(row.user_name, []).append(Grant(Role.parse(row.role), Scope.parse(row.scope)))
        return [_made(row, tuple(sorted(grants.get(row.name, ())))) for row in rows]

    async def add(self, name: str, password: str, grants: Iterable[Grant]) -> User:
        """A new user. Raises PeopleError."""
        if not _NAME.fullmatch(name):
            raise PeopleError("a user's name is 1 to 64 small letters, digits, '_', '.', '@' or '-'")
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            if await _user(connection, name) is not None:
                raise PeopleError(f"there is a user {name} already: see `parkfleet fleet user list`")
            if len((await connection.execute(select(USERS.c.name))).all()) >= MAX_USERS:
                raise PeopleError(f"there are {MAX_USERS} users already, the limit")
            return await self._insert(connection, name, password, grants)

    async def add_first(self, name: str, password: str) -> User | None:
        """The first user, admin of the whole fleet; None when there is a user already."""
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            if (await connection.execute(select(USERS.c.name).limit(1))).first() is not None:
                return None
            return await self._insert(connection, name, password, [Grant(Role.ADMIN, FLEET)])

    async def grant(self, name: str, grant: Grant) -> None:
        """Gives a grant; given already, it stays. Raises PeopleError."""
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            user = await _need(connection, name)
            if len(user.grants) >= MAX_GRANTS:
                raise PeopleError(f"{name} has {MAX_GRANTS} grants already, the limit: grant a region instead of parks")
            await _grant(connection, name, grant)

    async def revoke(self, name: str, grant: Grant) -> None:
        """Takes a grant away. Raises PeopleError."""
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            user = await _need(connection, name)
            if grant not in user.grants:
                held = " ".join(map(str, user.grants)) or "nothing"
                raise PeopleError(f"{name} has no grant {grant}; granted is {held}")
            mine = (GRANTS.c.user_name == name, GRANTS.c.role == grant.role.word, GRANTS.c.scope == str(grant.scope))
            await connection.execute(delete(GRANTS).where(*mine))
            await _need_an_admin(connection)

    async def enable(self, name: str, enabled: bool) -> None:
        """Lets a user sign in, or no longer. Raises PeopleError."""
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            await _need(connection, name)
            await connection.execute(update(USERS).where(USERS.c.name == name).values(enabled=enabled))
            await _need_an_admin(connection)

    async def set_password(self, name: str, password: str) -> None:
        """Another password (its hash). Raises PeopleError."""
        async with self._database.write(turn=PEOPLE_TURN) as connection:
            await _need(connection, name)
            await connection.execute(update(USERS).where(USERS.c.name == name).values(password=password))

    async def _insert(self, connection: AsyncConnection, name: str, password: str, grants: Iterable[Grant]) -> User:
        row = {"name": name, "password": password, "enabled": True, "created_ms": int(self._clock() * 1000)}
        await connection.execute(insert(USERS).values(**row))
        for grant in grants:
            await _grant(connection, name, grant)
        return await _need(connection, name)


async def grants_of(connection: AsyncConnection, name: str) -> tuple[Grant, ...]:
    """The grants of a user, in order."""
    rows = await connection.execute(select(GRANTS.c.role, GRANTS.c.scope).where(GRANTS.c.user_name == name))
    return tuple(sorted(Grant(Role.parse(row.role), Scope.parse(row.scope)) for row in rows))


async def _user(connection: AsyncConnection, name: str) -> User | None:
    row = (await connection.execute(select(USERS).where(USERS.c.name == name))).first()
    return _made(row, await grants_of(connection, name)) if row else None


def _made(row: Row[Any], grants: tuple[Grant, ...]) -> User:
    return User(row.name, row.password, row.enabled, row.created_ms, grants)


async def _need(connection: AsyncConnection, name: str) -> User:
    user = await _user(connection, name)
    if user is None:
        raise PeopleError(f"there is no user {name!r}: see `parkfleet fleet user list`")
    return user


async def _grant(connection: AsyncConnection, name: str, grant: Grant) -> None:
    row = {"user_name": name, "role": grant.role.word, "scope": str(grant.scope)}
    await connection.execute(upsert(connection, GRANTS).values(**row).on_conflict_do_nothing())


async def _need_an_admin(connection: AsyncConnection) -> None:
    """Raises PeopleError, and so undoes the change, when nobody is left who may give grants."""
    left = select(USERS.c.name).join(GRANTS, GRANTS.c.user_name == USERS.c.name)
    left = left.where(USERS.c.enabled, GRANTS.c.role == Role.ADMIN.word, GRANTS.c.scope == str(FLEET)).limit(1)
    if (await connection.execute(left)).first() is None:
        raise PeopleError("nobody would be left who is admin of the whole fleet: first grant admin@fleet to another")
