"""ConfigStore: the controller's memory of its configuration: revisions, secrets, what gateways reported.

Invariants: a row of config_change is never changed nor removed; numbers grow in the order in which changes are seen,
and none comes twice; a secret's value is in the database only encrypted, and only its last one; every write is one
transaction, on the disk when it returns.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.bus import Bus
from parkfleet.controller.config_layers import LayerName, Revision
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.database import NUMBER, Database, metadata, upsert
from parkfleet.controller.registry import GatewayKey

_change: Final = Table(
    "config_change",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("subject", Text),  # region/…, park/…, label/…, gateway/…, or secret/NAME
    Column("tree", Text),  # JSON; of a secret: whether it is there
    Column("author", Text),
    Column("reason", Text),
    Column("at_ms", BigInteger),
)
_secret: Final = Table("config_secret", metadata, Column("name", Text, primary_key=True), Column("box", LargeBinary))
_report: Final = Table(
    "config_report",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("park", Text),
    Column("gateway", Text),
    Column("at_ms", BigInteger),
    Column("report", Text),  # JSON
)
_is_secret: Final = _change.c.subject.like("secret/%")

#: Reports of one gateway that are kept, the newest; they come with changes, not with heartbeats.
KEPT_REPORTS: Final = 200
#: Changes are numbered one after the other, whichever replica makes them: a number for Database.write().
CHANGE_TURN: Final = 0x706B6363
#: What replicas tell each other on the bus when there is a change.
TOPIC: Final = "config"


class ConflictError(Exception):
    """Somebody else has changed the layer meanwhile; the message is for the author."""


class Moment(NamedTuple):
    """A state of the fleet's configuration: up to a number, or up to a time (ms UTC)."""

    number: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SecretChange:
    """A change of a secret, without its value."""

    number: int
    name: str
    present: bool
    author: str
    reason: str
    at_ms: int


#: What there is one number of.
AnyChange: TypeAlias = Revision | SecretChange


@dataclass(frozen=True, slots=True)
class Report:
    """What a gateway said it runs, and since when."""

    at_ms: int
    revision: int  # 0: its local file
    hash: str
    state: str  # of its last word about a configuration: running, trial, failed
    reason: str = ""


class ConfigStore:
    """The configuration's tables. The database is the caller's to close; bus tells other replicas of changes."""

    def __init__(self, database: Database, box: SecretBox, bus: Bus | None = None) -> None:
        self._db = database
        self._box = box
        self._bus = bus

    async def append(
        self, layer: LayerName, tree: dict[str, object], author: str, reason: str, at_ms: int, base: int
    ) -> Revision:
        """A new revision of a layer that was at revision base (0: it had none). Raises ConflictError."""
        async with self._db.write(turn=CHANGE_TURN) as connection:
            head = await _revision_in(connection, _newest(str(layer), Moment()))
            if (head.number if head else 0) != base:
                assert head is not None
                raise ConflictError(
                    f"{layer} was changed meanwhile: revision {head.number} by {head.author} ({head.reason}), yours "
                    f"is made from {base}. See `parkfleet fleet config diff {layer}`, and change the new one"
                )
            text = json.dumps(tree, ensure_ascii=False)
            number, at_ms = await self._insert(connection, str(layer), text, author, reason, at_ms)
        return Revision(number, layer, tree, author, reason, at_ms)

    async def head(self, layer: LayerName, moment: Moment | None = None) -> Revision | None:
        """The revision that holds, or held at a moment; None when there was none."""
        async with self._db.read() as connection:
            return await _revision_in(connection, _newest(str(layer), moment or Moment()))

    async def revision(self, number: int) -> Revision | None:
        """The revision with a number; None when there is none, or it is of a secret."""
        async with self._db.read() as connection:
            return await _revision_in(connection, select(_change).where(_change.c.number == number, ~_is_secret))

    async def heads(self) -> list[Revision]:
        """The newest revision of every layer, the oldest first."""
        newest = select(func.max(_change.c.number)).where(~_is_secret).group_by(_change.c.subject)
        found = select(_change).where(_change.c.number.in_(newest)).order_by(_change.c.number)
        async with self._db.read() as connection:
            return [_as_revision(row) for row in await connection.execute(found)]

    async def changes_after(self, number: int) -> list[AnyChange]:
        """All changes since the one of that number, the oldest first."""
        found = select(_change).where(_change.c.number > number).order_by(_change.c.number)
        async with self._db.read() as connection:
            rows = await connection.execute(found)
            return [_as_secret(row) if row.subject.startswith("secret/") else _as_revision(row) for row in rows]

    async def history(self, layer: LayerName, limit: int) -> list[Revision]:
        """The revisions of a layer, the newest first."""
        found = select(_change).where(_change.c.subject == str(layer)).order_by(_change.c.number.desc()).limit(limit)
        async with self._db.read() as connection:
            return [_as_revision(row) for row in await connection.execute(found)]

    async def set_secret(self, name: str, value: bytes | None, author: str, reason: str, at_ms: int) -> SecretChange:
        """Keeps a secret, or forgets it (None)."""
        async with self._db.write(turn=CHANGE_TURN) as connection:
            text = json.dumps(value is not None)
            number, at_ms = await self._insert(connection, f"secret/{name}", text, author, reason, at_ms)
            if value is None:
                await connection.execute(delete(_secret).where(_secret.c.name == name))
            else:
                row = upsert(connection, _secret).values(name=name, box=self._box.seal(name, value))
                await connection.execute(
                    row.on_conflict_do_update(index_elements=["name"], set_={"box": row.excluded.box})
                )
        return SecretChange(number, name, value is not None, author, reason, at_ms)

    async def secret(self, name: str) -> bytes | None:
        """A secret's value. Raises SecretError when it cannot be opened with this key."""
        box = await self.sealed(name)
        return None if box is None else self.unsealed(name, box)

    async def sealed(self, name: str) -> bytes | None:
        """A secret as it is stored."""
        async with self._db.read() as connection:
            found = await connection.execute(select(_secret.c.box).where(_secret.c.name == name))
            box: bytes | None = found.scalar_one_or_none()
        return box

    async def check_key(self) -> None:
        """Raises SecretError when what is sealed was sealed with another key: better now than at the first delivery."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_secret).limit(1))).one_or_none()
        if row is not None:
            self._box.open(row.name, row.box)

    def unsealed(self, name: str, box: bytes) -> bytes:
        """The value of what sealed() gave. Raises SecretError when it cannot be opened with this key."""
        return self._box.open(name, box)

    async def secrets(self, moment: Moment | None = None) -> dict[str, SecretChange]:
        """The last change of every secret that is there, or was at a moment, by name."""
        newest = _until(select(func.max(_change.c.number)).where(_is_secret), moment or Moment())
        found = select(_change).where(_change.c.number.in_(newest.group_by(_change.c.subject)))
        async with self._db.read() as connection:
            rows = await connection.execute(found.order_by(_change.c.subject))
            changes = [_as_secret(row) for row in rows]
        return {change.name: change for change in changes if change.present}

    async def add_reports(self, connection: AsyncConnection, reports: Mapping[GatewayKey, Report]) -> None:
        """Keeps what gateways reported, in a transaction of the caller's."""
        rows = []
        for key, report in reports.items():
            words = {"revision": report.revision, "hash": report.hash, "state": report.state, "reason": report.reason}
            text = json.dumps(words, ensure_ascii=False)
            rows.append({"park": key.park, "gateway": key.gateway, "at_ms": report.at_ms, "report": text})
        if rows:
            await connection.execute(insert(_report).inline(), rows)
            await connection.execute(
                _OLD_REPORTS, [{"of_park": key.park, "of_gateway": key.gateway} for key in reports]
            )

    async def report(self, key: GatewayKey, at_ms: int | None = None) -> Report | None:
        """What a gateway reported last, up to a time (ms UTC)."""
        found = select(_report.c.at_ms, _report.c.report).where(_report.c.park == key.park)
        found = found.where(_report.c.gateway == key.gateway)
        if at_ms is not None:
            found = found.where(_report.c.at_ms <= at_ms)
        async with self._db.read() as connection:
            rows = await connection.execute(found.order_by(_report.c.at_ms.desc(), _report.c.number.desc()).limit(1))
            row = rows.one_or_none()
        return None if row is None else Report(row.at_ms, **json.loads(row.report))

    async def at_of(self, number: int) -> int | None:
        """When a change was made, ms UTC; None when there is none of that number."""
        async with self._db.read() as connection:
            found = await connection.execute(select(_change.c.at_ms).where(_change.c.number == number))
            at_ms: int | None = found.scalar_one_or_none()
        return at_ms

    async def _insert(
        self, connection: AsyncConnection, subject: str, tree: str, author: str, reason: str, at_ms: int
    ) -> tuple[int, int]:
        """The new change's number and time: never before the one before it, though the clock may be set back."""
        last = await connection.execute(select(_change.c.at_ms).order_by(_change.c.number.desc()).limit(1))
        at_ms = max(at_ms, last.scalar_one_or_none() or 0)
        row = {"subject": subject, "tree": tree, "author": author, "reason": reason, "at_ms": at_ms}
        done = await connection.execute(insert(_change).values(row).returning(_change.c.number))
        number: int = done.scalar_one()
        if self._bus is not None:
            await self._bus.tell(connection, TOPIC, str(number))
        return number, at_ms


_of: Final = _report.alias()
_kept: Final = (
    select(_of.c.number)
    .where(_of.c.park == bindparam("of_park"), _of.c.gateway == bindparam("of_gateway"))
    .order_by(_of.c.number.desc())
)
#: Of each gateway those beyond the newest that are kept.
_OLD_REPORTS: Final = delete(_report).where(
    _report.c.park == bindparam("of_park"),
    _report.c.gateway == bindparam("of_gateway"),
    _report.c.number <= _kept.limit(1).offset(KEPT_REPORTS).scalar_subquery(),
)


def _newest(subject: str, moment: Moment) -> Select[Any]:
    return (
        _until(select(_change).where(_change.c.subject == subject), moment).order_by(_change.c.number.desc()).limit(1)
    )


def _until(found: Select[Any], moment: Moment) -> Select[Any]:
    if moment.number is not None:
        return found.where(_change.c.number <= moment.number)
    if moment.at_ms is not None:
        return found.where(_change.c.at_ms <= moment.at_ms)
    return found


async def _revision_in(connection: AsyncConnection, found: Select[Any]) -> Revision | None:
    row = (await connection.execute(found)).one_or_none()
    return None if row is None else _as_revision(row)


def _as_revision(row: Row[Any]) -> Revision:
    return Revision(row.number, LayerName.parse(row.subject), json.loads(row.tree), row.author, row.reason, row.at_ms)


def _as_secret(row: Row[Any]) -> SecretChange:
    name = row.subject.removeprefix("secret/")
    return SecretChange(row.number, name, bool(json.loads(row.tree)), row.author, row.reason, row.at_ms)
