"""FleetStore: what must be known of gateways after a restart and at other replicas: one row a gateway, one a replica.

Invariants: a row is never overwritten by a session of a lower epoch; an epoch is given once; each replica numbers what
it writes (seq) in the order of its commits, so that another that has seen a number has seen all below it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.bus import Bus
from parkfleet.controller.database import Database, metadata, upsert
from parkfleet.controller.registry import Gateway, GatewayKey, State
from parkfleet.proto import common_pb2

_gateway: Final = Table(
    "fleet_gateway",
    metadata,
    Column("park", Text, primary_key=True),
    Column("gateway", Text, primary_key=True),
    Column("epoch", BigInteger),
    Column("online", Boolean),
    Column("since_ms", BigInteger),
    Column("last_seen_ms", BigInteger),
    Column("peer", Text),
    Column("reason", Text),
    Column("hello", LargeBinary),  # protobuf, as are the next three
    Column("beat", LargeBinary),
    Column("lines", LargeBinary),
    Column("status", LargeBinary),
    Column("replica", Text),  # that has, or had, the session
    Column("writer", Text),  # the replica that wrote the row
    Column("seq", BigInteger),  # the writer's number of that
)
_replica: Final = Table(
    "fleet_replica",
    metadata,
    Column("name", Text, primary_key=True),
    Column("beat", BigInteger),  # grows while the replica lives
)
_KEY: Final = ("park", "gateway")

#: What replicas tell each other on the bus when they have written rows: the writer's name.
TOPIC: Final = "fleet"
#: Rows that are made into gateways before others have their turn: some milliseconds.
AT_ONCE: Final = 200


class FleetStore:
    """One replica's hand on the two tables."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._db = database
        self._bus = bus
        self._seq = 0
        self._in_order = asyncio.Lock()

    @property
    def replica(self) -> str:
        """This replica's name."""
        return self._bus.name

    async def claim(self, gateways: Sequence[Gateway]) -> dict[GatewayKey, int]:
        """Sessions of these gateways, each once, begin here; each one's epoch, above all that there were."""
        async with self._in_order, self._db.write() as connection:
            rows = [{**row, "epoch": 1} for row in self._rows(gateways, self._next())]
            insert = upsert(connection, _gateway)
            new = {column.name: insert.excluded[column.name] for column in _gateway.c if column.name not in _KEY}
            new["epoch"] = _gateway.c.epoch + 1
            claim = insert.on_conflict_do_update(index_elements=_KEY, set_=new)
            given = await connection.execute(claim.returning(*_columns(*_KEY, "epoch")), rows)
            epochs = {GatewayKey(row.park, row.gateway): row.epoch for row in given}
            await self._bus.tell(connection, TOPIC, self.replica)
        return epochs

    async def save(self, connection: AsyncConnection, gateways: Sequence[Gateway]) -> None:
        """Writes gateways as they are, those that no newer session has taken. In flush() alone."""
        rows = self._rows(gateways, self._next())
        insert = upsert(connection, _gateway)
        new = {column.name: insert.excluded[column.name] for column in _gateway.c if column.name not in _KEY}
        older = _gateway.c.epoch <= insert.excluded.epoch
        await connection.execute(insert.on_conflict_do_update(index_elements=_KEY, set_=new, where=older), rows)
        await self._bus.tell(connection, TOPIC, self.replica)

    @asynccontextmanager
    async def flush(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of this replica, in the order of its others."""
        async with self._in_order, self._db.write() as connection:
            yield connection

    async def beat(self, connection: AsyncConnection, number: int) -> bool:
        """Says that this replica lives; False: it was said to be dead meanwhile, and counts again from now on."""
        mine = _replica.c.name == self.replica
        done = await connection.execute(update(_replica).where(mine).values(beat=number))
        if done.rowcount:
            return True
        await connection.execute(_replica.insert().values(name=self.replica, beat=number))
        return False

    async def beats(self) -> dict[str, int]:
        """The replicas that say they live, with their last beat."""
        async with self._db.read() as connection:
            return {row.name: row.beat for row in await connection.execute(select(_replica))}

    async def bury(self, name: str, reason: str, now_ms: int) -> list[Gateway]:
        """Takes the gateways of a replica that is dead offline; them."""
        async with self._in_order, self._db.write() as connection:
            await connection.execute(delete(_replica).where(_replica.c.name == name))
            new = {"online": False, "since_ms": now_ms, "reason": reason, "writer": self.replica, "seq": self._next()}
            theirs = update(_gateway).where(_gateway.c.replica == name, _gateway.c.online).values(new)
            rows = (await connection.execute(theirs.returning(*_gateway.c))).all()
            await self._bus.tell(connection, TOPIC, self.replica)
        return [gateway async for gateway in _gateways(rows)]

    async def leave(self) -> None:
        """This replica has no session any more, and stops."""
        async with self._db.write() as connection:
            await connection.execute(delete(_replica).where(_replica.c.name == self.replica))

    async def all(self) -> AsyncIterator[Gateway]:
        """Every gateway."""
        async for gateway in self._found(select(_gateway)):
            yield gateway

    async def marks(self) -> dict[str, int]:
        """How far each replica has come with its numbers."""
        last = select(_gateway.c.writer, func.max(_gateway.c.seq).label("seq")).group_by(_gateway.c.writer)
        async with self._db.read() as connection:
            return {row.writer: row.seq for row in await connection.execute(last)}

    async def changed(self, writer: str, after: int) -> tuple[list[Gateway], int]:
        """What a replica has written since a number of its own, and how far it has come."""
        found = select(_gateway).where(_gateway.c.writer == writer, _gateway.c.seq > after)
        async with self._db.read() as connection:
            rows = (await connection.execute(found)).all()
        mark = max((row.seq for row in rows), default=after)
        return [gateway async for gateway in _gateways(rows)], mark

    async def _found(self, found: Select[Any]) -> AsyncIterator[Gateway]:
        async with self._db.read() as connection:
            rows = (await connection.execute(found)).all()
        async for gateway in _gateways(rows):
            yield gateway

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _rows(self, gateways: Iterable[Gateway], seq: int) -> list[dict[str, Any]]:
        """In the order of their names: two replicas that write the same ones wait for each other, never in a ring."""
        return [_row(one, self.replica, seq) for one in sorted(gateways, key=lambda gateway: gateway.key)]


def _columns(*names: str) -> list[Column[Any]]:
    return [_gateway.c[name] for name in names]


def _row(gateway: Gateway, writer: str, seq: int) -> dict[str, Any]:
    return {
        "park": gateway.key.park,
        "gateway": gateway.key.gateway,
        "epoch": gateway.epoch,
        "online": gateway.is_online,
        "since_ms": gateway.since_ms,
        "last_seen_ms": gateway.last_seen_ms,
        "peer": gateway.peer,
        "reason": gateway.reason.replace("\0", "\ufffd"),  # PostgreSQL has no such text, and an agent may say it
        "hello": gateway.hello.SerializeToString(),
        "beat": gateway.beat,
        "lines": gateway.lines,
        "status": None if gateway.status is None else gateway.status.SerializeToString(),
        "replica": gateway.replica,
        "writer": writer,
        "seq": seq,
    }


async def _gateways(rows: Iterable[Row[Any]]) -> AsyncIterator[Gateway]:
    for number, row in enumerate(rows, 1):
        yield _as_gateway(row)
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)


def _as_gateway(row: Row[Any]) -> Gateway:
    return Gateway(
        key=GatewayKey(row.park, row.gateway),
        state=State.ONLINE if row.online else State.OFFLINE,
        since_ms=row.since_ms,
        last_seen_ms=row.last_seen_ms,
        peer=row.peer,
        reason=row.reason,
        session=0,
        hello=common_pb2.Hello.FromString(row.hello),
        beat=row.beat,
        lines=row.lines,
        lines_tag=common_pb2.Heartbeat.FromString(row.lines).lines_tag,
        status=None if row.status is None else common_pb2.ReportedState.FromString(row.status),
        epoch=row.epoch,
        replica=row.replica,
    )
