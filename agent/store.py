"""Store: batches in one SQLite database, one BLOB a batch.

Invariants:
- an epoch belongs to one database file; within it seq grows by one from 1 and is never given twice, also
  when the newest batches have been deleted (AUTOINCREMENT);
- `append` returns after the batch is on the disk (WAL, synchronous=FULL);
- acknowledgements ride on the next append's commit: losing them costs a duplicate, never a reading.

Synchronous; owned by the buffer's one thread.
"""

import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from parkfleet.protocols.payload.intervals import IntervalSet

#: What this agent writes (PRAGMA user_version); agent/migrations.py leads up to it.
SCHEMA_VERSION: Final = 2
#: "pfbf": marks the file as a ParkFleet buffer (PRAGMA application_id).
APPLICATION_ID: Final = 0x70666266
#: `acked_ms` of a batch that waits. No NULL: a time takes as many bytes, so SQLite overwrites it in place, and an
#: acknowledgement does not write the body again.
WAITING: Final = 2**47 - 1
#: A page of the database that is free is kept for reuse; so much room per batch beside its bytes is reckoned with.
ROW_OVERHEAD: Final = 64


class StoreError(Exception):
    """The database cannot be used; the message is a sentence for the operator."""


class ForeignStoreError(StoreError):
    """The file is damaged or not ours: it is moved aside, not written to."""


@dataclass(frozen=True)
class NewBatch:
    """A batch as the batcher closed and the codec encoded it."""

    schema: bytes  # the packed schema its body was encoded with
    schema_id: int
    codec: int
    body: bytes
    readings: int
    first_ts: int  # ms UTC
    last_ts: int


@dataclass(frozen=True)
class StoredBatch:
    """A batch, or several joined, on its way to the broker."""

    epoch: int
    seq: int  # of the first
    count: int
    schema_id: int
    codec: int
    body: bytes
    parts: bytes  # which rows are of which seq (payload/parts.py); empty for one batch
    readings: int
    first_ts: int  # ms UTC
    last_ts: int

    @property
    def last_seq(self) -> int:
        return self.seq + self.count - 1


@dataclass(frozen=True)
class Recoded:
    """Rows as the buffer stores them, under one seq or several."""

    count: int  # of seqs
    codec: int
    body: bytes
    parts: bytes  # empty for one seq
    readings: int  # with a value
    first_ts: int  # ms UTC
    last_ts: int


_COLUMNS: Final = "seq, count, schema_id, codec, body, parts, readings, first_ts, last_ts"


#: Rows that cover a seq from :first to :last; the one that begins at or before :first may reach into it.
_TOUCHING: Final = (
    "seq <= :last AND seq >= coalesce((SELECT max(seq) FROM batches WHERE seq <= :first), :first)"
    " AND seq + count > :first"
)


@dataclass(frozen=True)
class Span:
    """Batches of one epoch with seq above `after`, up to `upto`."""

    after: int = 0
    upto: int = 2**62


@dataclass(frozen=True)
class Holdings:
    """What is there of a request by seq: rows, as first and last seq, that are acknowledged; and what is not there."""

    kept: list[tuple[int, int]]
    gone: list[tuple[int, int]]


@dataclass(frozen=True)
class StoreStats:
    """What waits, and what is kept."""

    epoch: int
    last_seq: int
    batches: int  # not acknowledged
    readings: int
    bytes: int
    oldest_ts: int  # ms UTC of the oldest reading that waits; 0 when none does
    kept_batches: int  # acknowledged, kept for replay
    kept_bytes: int
    dropped_batches: int  # dropped unacknowledged, since the file was made
    dropped_readings: int


class Store:
    """One database."""

    def __init__(self, connection: sqlite3.Connection, retain_s: float, max_bytes: int) -> None:
        self._db = connection
        self._retain_ms = int(retain_s * 1000)
        self._max_bytes = max_bytes
        self._acknowledged: dict[int, int] = {}  # first seq -> count of what the broker has and the disk not yet knows
        row = self._db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
        if row is None:
            raise ForeignStoreError("it has no epoch")
        self.epoch = int(row[0])

    @classmethod
    def open(cls, path: Path, retain_s: float, max_bytes: int) -> "Store":
        """Opens or makes the database. Raises StoreError, ForeignStoreError for a file that must be moved aside."""
        try:
            connection = _connect(str(path))
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from None
        try:
            version = check_version(connection, path)
            if version < SCHEMA_VERSION:
                connection.close()
                _migrate_in_child(path)
                connection = _connect(str(path))
            _set_up(connection)
            return cls(connection, retain_s, max_bytes)
        except sqlite3.OperationalError as error:
            connection.close()
            raise StoreError(f"cannot use {path}: {error}") from None
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ForeignStoreError(f"{path} is damaged: {error}") from None
        except BaseException:
            connection.close()
            raise

    @classmethod
    def in_memory(cls, retain_s: float, max_bytes: int) -> "Store":
        """A store of its own epoch that lives no longer than the process: for when the disk refuses."""
        from parkfleet.agent.migrations import migrate  # sqlite-utils costs 24 MB: not in the usual case

        connection = _connect(":memory:")
        migrate(connection)
        return cls(connection, retain_s, max_bytes)

    def append(self, batch: NewBatch) -> int:
        """Stores a batch and returns its seq. Raises sqlite3.Error: then nothing has changed."""
        acknowledged = list(self._acknowledged.items())
        now = int(time.time() * 1000)
        with _transaction(self._db):
            self._db.execute(
                "INSERT OR IGNORE INTO schemas (id, packed) VALUES (?, ?)", (batch.schema_id, batch.schema)
            )
            cursor = self._db.execute(
                "INSERT INTO batches (schema_id, codec, body, readings, first_ts, last_ts, acked_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (batch.schema_id, batch.codec, batch.body, batch.readings, batch.first_ts, batch.last_ts, WAITING),
            )
            self._mark(acknowledged, now)
            self._make_room(now)
        self._acknowledged.clear()
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def waiting(self, span: Span, limit: int) -> list[StoredBatch]:
        """Batches of a span that are not acknowledged, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM batches WHERE acked_ms = ? AND seq > ? AND seq <= ? ORDER BY seq",
            (WAITING, span.after, span.upto),
        )
        found = (StoredBatch(self.epoch, *row) for row in rows if row[0] not in self._acknowledged)
        return list(islice(found, limit))

    def kept(self, first: int, last: int, limit: int) -> list[StoredBatch]:
        """Acknowledged batches that cover a seq from first to last, oldest first."""
        query = f"SELECT {_COLUMNS}, acked_ms FROM batches WHERE {_TOUCHING} ORDER BY seq"
        rows = self._db.execute(query, {"first": first, "last": last})
        found = (
            StoredBatch(self.epoch, *row[:-1]) for row in rows if row[-1] < WAITING or row[0] in self._acknowledged
        )
        return list(islice(found, limit))

    def holdings(self, ranges: Iterable[tuple[int, int]]) -> Holdings:
        """What is there of some ranges of seq that were given. What waits is neither kept nor gone: it comes anyway."""
        kept, gone, highest = [], [], self.last_seq()
        for first, last in ranges:
            there = IntervalSet()
            query = f"SELECT seq, count, acked_ms FROM batches WHERE {_TOUCHING} ORDER BY seq"
            for seq, count, acked_ms in self._db.execute(query, {"first": first, "last": last}):
                there.add(seq, seq + count - 1)
                if acked_ms < WAITING or seq in self._acknowledged:
                    kept.append((seq, seq + count - 1))
            gone += there.missing(first, min(last, highest))
        return Holdings(kept, gone)

    def kept_between(self, since: int, until: int, after: int, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Acknowledged batches with readings from since to until (ms UTC), as first and last seq; and where to go on.

        Looks at `limit` rows with a seq above `after`; 0 in place of a seq to go on from says that there are no more.
        """
        query = "SELECT seq, count, first_ts, last_ts, acked_ms FROM batches WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self._db.execute(query, (after, limit)).fetchall()
        kept = [
            (seq, seq + count - 1)
            for seq, count, first_ts, last_ts, acked_ms in rows
            if last_ts >= since and first_ts <= until and (acked_ms < WAITING or seq in self._acknowledged)
        ]
        return kept, rows[-1][0] if len(rows) == limit else 0

    def last_seq(self) -> int:
        """The highest seq ever given."""
        last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
        return int(last[0]) if last else 0

    def schema(self, schema_id: int) -> bytes:
        """A packed schema by its id; empty when there is none."""
        row = self._db.execute("SELECT packed FROM schemas WHERE id = ?", (schema_id,)).fetchone()
        return bytes(row[0]) if row else b""

    def acknowledge(self, batches: Iterable[tuple[int, int]]) -> None:
        """Takes acknowledgements, each (first seq, count) as it was sent; written with the next append or flush."""
        self._acknowledged.update(batches)

    def rewrite(self, old: Sequence[StoredBatch], new: Sequence[tuple[int | None, Recoded]]) -> bool:
        """Puts new rows in the place of waiting ones of one schema; False when one of those is no more as it was.

        new: each with its first seq, or None for the next that was never given. One transaction: a reading is never in
        neither, and never in both. Raises sqlite3.Error: then nothing has changed.
        """
        with _transaction(self._db):
            for batch in old:
                if batch.seq in self._acknowledged or not self._waits(batch):
                    return False
            self._db.executemany("DELETE FROM batches WHERE seq = ?", [(batch.seq,) for batch in old])
            self._db.executemany(
                "INSERT INTO batches (seq, count, schema_id, codec, body, parts, readings, first_ts, last_ts, acked_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(seq, row.count, old[0].schema_id, *_recoded_columns(row), WAITING) for seq, row in new],
            )
        return True

    def flush(self) -> None:
        """Writes what is known of acknowledgements. Raises sqlite3.Error."""
        if self._acknowledged:
            with _transaction(self._db):
                self._mark(list(self._acknowledged.items()), int(time.time() * 1000))
            self._acknowledged.clear()

    def stats(self) -> StoreStats:
        """Counts; reads indexes only."""
        waiting = self._sums(f"acked_ms = {WAITING}")
        pending = list(self._acknowledged)
        for start in range(0, len(pending), 500):  # acknowledged, but not yet written so
            marks = ",".join(map(str, pending[start : start + 500]))
            waiting = [have - gone for have, gone in zip(waiting, self._sums(f"seq IN ({marks})"), strict=True)]
        oldest = self.waiting(Span(), 1)
        kept = self._sums(f"acked_ms < {WAITING}")
        dropped = dict(self._db.execute("SELECT name, value FROM facts WHERE name LIKE 'dropped_%'").fetchall())
        return StoreStats(
            epoch=self.epoch,
            last_seq=self.last_seq(),
            batches=waiting[0],
            readings=waiting[1],
            bytes=waiting[2],
            oldest_ts=oldest[0].first_ts if oldest else 0,
            kept_batches=kept[0],
            kept_bytes=kept[2],
            dropped_batches=int(dropped.get("dropped_batches", 0)),
            dropped_readings=int(dropped.get("dropped_readings", 0)),
        )

    def rows(self, after: int, limit: int) -> list[tuple[StoredBatch, int]]:
        """Any batches with a seq above `after`, oldest first, with their acked_ms."""
        query = f"SELECT {_COLUMNS}, acked_ms FROM batches WHERE seq > ? ORDER BY seq LIMIT ?"
        return [(StoredBatch(self.epoch, *row[:-1]), row[-1]) for row in self._db.execute(query, (after, limit))]

    def vacuum(self) -> tuple[int, int]:
        """Gives free pages back to the disk; bytes of the file before and after. Raises sqlite3.Error."""
        before = self._size()
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, self._size()

    def close(self) -> None:
        """Writes acknowledgements and closes; the file is whole without it too."""
        try:
            self.flush()
        finally:
            self._db.close()

    def _sums(self, condition: str) -> list[int]:
        """[batches, readings, bytes] of the batches of which the condition holds."""
        query = f"SELECT count(*), total(readings), total(length(body)) FROM batches WHERE {condition}"
        return [int(number) for number in self._db.execute(query).fetchone()]

    def _waits(self, batch: StoredBatch) -> bool:
        query = "SELECT count(*) FROM batches WHERE seq = ? AND count = ? AND acked_ms = ?"
        return bool(self._db.execute(query, (batch.seq, batch.count, WAITING)).fetchone()[0])

    def _mark(self, batches: list[tuple[int, int]], now: int) -> None:
        """Only what still is as it was sent: what has been joined since goes again, and is a duplicate in part."""
        self._db.executemany(
            "UPDATE batches SET acked_ms = ? WHERE seq = ? AND count = ?", [(now, *batch) for batch in batches]
        )

    def _make_room(self, now: int) -> None:
        """Deletes what is past `retain`, then the oldest until the limit holds, acknowledged ones first."""
        self._db.execute("DELETE FROM batches WHERE acked_ms < ?", (now - self._retain_ms,))
        room = self._max_bytes - self._used()
        if room >= 0:
            return
        rows = self._db.execute(
            f"SELECT seq, length(body), readings, acked_ms = {WAITING} FROM batches ORDER BY acked_ms = {WAITING}, seq"
        )
        victims, batches, readings = [], 0, 0
        for seq, size, count, unacknowledged in rows:
            if room >= 0:
                break
            victims.append((seq,))
            room += size + ROW_OVERHEAD
            if unacknowledged:
                batches, readings = batches + 1, readings + count
        self._db.executemany("DELETE FROM batches WHERE seq = ?", victims)
        for name, count in (("dropped_batches", batches), ("dropped_readings", readings)):
            self._db.execute(
                "INSERT INTO facts (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER)",
                (name, str(count)),
            )

    def _size(self) -> int:
        pages, size = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
        return pages * size

    def _used(self) -> int:
        """Bytes of pages in use."""
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


class _transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block or the commit fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _recoded_columns(row: Recoded) -> tuple[object, ...]:
    return row.codec, row.body, row.parts, row.readings, row.first_ts, row.last_ts


def new_epoch() -> int:
    """A random number from 1 to 2^32 - 1: clocks of gateways are not to be trusted with uniqueness."""
    return secrets.randbelow(2**32 - 1) + 1


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def _set_up(connection: sqlite3.Connection) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"the file system keeps no write-ahead log (journal mode {mode})")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -1024")  # KiB: the buffer is written once and read once
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        raise ForeignStoreError(f"it is damaged: {check}")


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's schema version; 0 for a new file. Raises ForeignStoreError, StoreError."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if application != APPLICATION_ID:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ForeignStoreError(f"{path} is a database, but not a ParkFleet buffer")
        return 0
    if version > SCHEMA_VERSION:
        raise ForeignStoreError(
            f"{path} was written by a newer agent (version {version}, this one knows {SCHEMA_VERSION})"
        )
    return version


def _migrate_in_child(path: Path) -> None:
    """Migrates in a short-lived process: what it imports would stay in this one's memory for good."""
    command = [sys.executable, "-m", "parkfleet.agent.migrations", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason told"]
        raise StoreError(f"cannot prepare {path}: {reason[-1]}")
