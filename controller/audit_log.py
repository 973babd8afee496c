"""AuditLog: the audit log in the database: appends one after the other over all replicas, and reads.

Invariants: an entry follows on the one before it, whoever of several replicas wrote that; an entry is on the disk when
append() returns; the database itself refuses to change or remove one (migrations/versions/0003_operators.py).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, Column, Row, Table, Text, and_, exists, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.audit_chain import AuditEntry, AuditFact, AuditResult, Head, append
from parkfleet.controller.database import Database, metadata

#: Replicas write one after the other: the turn of this number.
AUDIT_TURN: Final = 0x706B6661
#: Entries of one page: fifty of the longest (nine texts of 500 characters) stay below the bound of a message.
MAX_PAGE: Final = 50

#: An entry as it stands in the database and in an export, whoever wrote it there: ChainCheck says whether it is good.
Record: TypeAlias = dict[str, Any]

ENTRIES: Final = Table(
    "audit_entry",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger),
    *(Column(name, Text) for name in ("actor", "via", "peer", "action", "target", "scope", "reason", "result")),
    Column("detail", Text),
    Column("begun_by", BigInteger),
    Column("previous", Text),
    Column("hash", Text),
)


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries are asked for; empty values ask for all."""

    since_ms: int = 0
    actor: str = ""
    scopes: Sequence[str] | None = None  # None: all
    action: str = ""  # the beginning of it
    result: str = ""
    before: int = 0  # number; 0: from the newest
    limit: int = 50


class AuditLog:
    """The log of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def append(self, fact: AuditFact) -> AuditEntry:
        """Tells of a fact, on the disk when it returns."""
        async with self._database.write(turn=AUDIT_TURN) as connection:
            entry = append(await _head(connection), fact, int(self._clock() * 1000))
            await connection.execute(insert(ENTRIES).values(**_row(entry)))
            return entry

    async def head(self) -> Head:
        """The end of the log."""
        async with self._database.read() as connection:
            return await _head(connection)

    async def page(self, after: int, limit: int = MAX_PAGE) -> list[Record]:
        """Entries after a number, in order."""
        found = select(ENTRIES).where(ENTRIES.c.number > after).order_by(ENTRIES.c.number).limit(limit)
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(found)]

    async def find(self, query: AuditQuery) -> list[Record]:
        """Entries that match, the newest first; a beginning whose end is told of later is left away."""
        later = ENTRIES.alias()
        ended = and_(ENTRIES.c.result == AuditResult.BEGUN.value, exists().where(later.c.begun_by == ENTRIES.c.number))
        found = select(ENTRIES).where(~ended, ENTRIES.c.at_ms >= query.since_ms)
        if query.before:
            found = found.where(ENTRIES.c.number < query.before)
        if query.scopes is not None:
            found = found.where(ENTRIES.c.scope.in_(query.scopes))
        for name in ("actor", "result"):
            if value := getattr(query, name):
                found = found.where(ENTRIES.c[name] == value)
        if query.action:
            found = found.where(ENTRIES.c.action.startswith(query.action, autoescape=True))
        found = found.order_by(ENTRIES.c.number.desc()).limit(min(query.limit, MAX_PAGE))
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(found)]


async def _head(connection: AsyncConnection) -> Head:
    last = select(ENTRIES.c.number, ENTRIES.c.hash).order_by(ENTRIES.c.number.desc()).limit(1)
    row = (await connection.execute(last)).first()
    return Head(*row) if row else Head()


def _row(entry: AuditEntry) -> dict[str, Any]:
    row = entry.as_json()
    row["begun_by"] = row.pop("of")
    return row


def _record(row: Row[Any]) -> Record:
    record = dict(row._mapping)
    record["of"] = record.pop("begun_by")
    return record
