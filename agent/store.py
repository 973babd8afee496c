"""Store: batches in one SQLite database, one BLOB a batch.

What is looked at (batches) stands apart from the bytes (bodies): an acknowledgement and a count touch few pages.

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
from shutil import disk_usage
from typing import Final, Literal

from parkfleet.protocols.payload.intervals import IntervalSet

#: What this agent writes (PRAGMA user_version); agent/migrations.py leads up to it.
SCHEMA_VERSION: Final = 3
#: "pfbf": marks the file as a ParkFleet buffer (PRAGMA application_id).
APPLICATION_ID: Final = 0x70666266
#: `acked_ms` of a batch that waits. No NULL: a time takes as many bytes, so SQLite overwrites it in place, and an
#: acknowledgement does not write the body again.
WAITING: Final = 2**47 - 1
#: A page of the database that is free is kept for reuse; so much room per batch beside its bytes is reckoned with.
ROW_OVERHEAD: Final = 64
#: A file of up to so many pages (32 MiB) is checked when it is opened. A larger one would hold up the start (half a
#: minute on an SD card): there damage shows when it is met, and `parkfleet agent buffer verify` looks for it.
CHECKED_PAGES: Final = 8192
#: At this part of the limit acknowledged batches go, and what waits is thinned; at the limit the oldest goes.
THIN_AT: Final = 0.9


class StoreError(Exception):
    """The database cannot be used; the message is a sentence for the operator."""


class NewerStoreError(StoreError):
    """A newer agent wrote the file: it is left as it is."""


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
    level: int = 0  # of thinning: 0 as the meters gave it, 1 by the minute, 2 and more without some kinds of points

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

    def stored(self, of: StoredBatch, seq: int) -> StoredBatch:
        """As a part of a stored batch, from a seq on."""
        own = self.codec, self.body, self.parts, self.readings, self.first_ts, self.last_ts
        return StoredBatch(of.epoch, seq, self.count, of.schema_id, *own, of.level)


_COLUMNS: Final = "seq, count, schema_id, codec, body, parts, readings, first_ts, last_ts, thinned"
_SPARE: Final = "NOT EXISTS (SELECT 1 FROM batches WHERE schema_id = schemas.id)"
_BATCHES: Final = "batches CROSS JOIN bodies USING (seq)"  # in this order: bodies by their seq


@dataclass(frozen=True)
class Rewrite:
    """New rows in the place of waiting ones whose seqs follow each other."""

    old: Sequence[StoredBatch]
    new: Sequence[tuple[int | None, Recoded]]  # with their first seqs; None for the next that was never given
    schema_id: int
    schema: bytes = b""  # packed, where it is a new one
    level: int = 0
    thinned: int = 0  # readings that stand no more by themselves


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

    epoch: int = 0
    last_seq: int = 0
    batches: int = 0  # not acknowledged
    readings: int = 0
    bytes: int = 0
    oldest_ts: int = 0  # ms UTC of the oldest reading that waits; 0 when none does
    kept_batches: int = 0  # acknowledged, kept for replay
    kept_bytes: int = 0
    dropped_batches: int = 0  # dropped unacknowledged, since the file was made
    dropped_readings: int = 0
    thinned_readings: int = 0  # that stand no more by themselves, since the file was made
    used: int = 0  # bytes of the file in use
    limit: int = 0  # bytes that may be


@dataclass(frozen=True)
class Loss:
    """Readings that stand no more by themselves, or not at all, before the broker had them."""

    kind: Literal["thinned", "dropped"]
    seq: int  # of the first batch
    count: int
    readings: int


class Store:
    """One database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        retain_s: float,
        max_bytes: int,
        min_free: int = 0,
        folder: Path | None = None,
    ) -> None:
        self._db = connection
        self._retain_ms = int(retain_s * 1000)
        self._max_bytes = max_bytes
        self._min_free = min_free
        self._folder = folder
        self._ceiling = 0  # bytes of the file when its disk became too full; 0: it is not
        self._acknowledged: dict[int, int] = {}  # first seq -> count of what the broker has and the disk not yet knows
        self.losses: list[Loss] = []  # since somebody last took them from here
        row = self._db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
        if row is None:
            raise ForeignStoreError("it has no epoch")
        self.epoch = int(row[0])

    @classmethod
    def open(cls, path: Path, retain_s: float, max_bytes: int, min_free: int = 0) -> "Store":
        """Opens or makes the database. Raises StoreError, ForeignStoreError for a file that must be moved aside.

        max_bytes: what may be in use in the file; min_free: bytes that the file leaves free on its disk.
        """
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
            return cls(connection, retain_s, max_bytes, min_free, path.parent)
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

    def append(self, batch: NewBatch, rewrite: Rewrite | None = None) -> int:
        """Stores a batch and returns its seq. Raises sqlite3.Error: then nothing has changed.

        rewrite: done in the same transaction: it costs no sync of its own.
        """
        acknowledged = list(self._acknowledged.items())
        now = int(time.time() * 1000)
        with _transaction(self._db):
            self._add_schema(batch.schema_id, batch.schema)
            seq = self._insert(None, 1, batch, batch.schema_id, 0)
            self._mark(acknowledged, now)
            thinned = self._rewrite(rewrite) and rewrite.thinned if rewrite else 0
            dropped = self._make_room(now)
        self._acknowledged.clear()
        if rewrite and thinned:
            count = sum(batch.count for batch in rewrite.old)
            self.losses.append(Loss("thinned", rewrite.old[0].seq, count, thinned))
        self.losses += dropped
        return seq

    def _insert(self, seq: int | None, count: int, row: NewBatch | Recoded, schema_id: int, level: int) -> int:
        """A waiting row; returns its seq, the next that was never given for None."""
        parts = row.parts if isinstance(row, Recoded) else b""
        cursor = self._db.execute(
            "INSERT INTO batches"
            " (seq, count, acked_ms, schema_id, codec, readings, first_ts, last_ts, thinned, size)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                seq,
                count,
                WAITING,
                schema_id,
                row.codec,
                row.readings,
                row.first_ts,
                row.last_ts,
                level,
                len(row.body) + len(parts),
            ),
        )
        assert cursor.lastrowid is not None
        self._db.execute("INSERT INTO bodies (seq, parts, body) VALUES (?, ?, ?)", (cursor.lastrowid, parts, row.body))
        return cursor.lastrowid

    def waiting(self, span: Span, limit: int) -> list[StoredBatch]:
        """Batches of a span that are not acknowledged, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM {_BATCHES} WHERE acked_ms = ? AND seq > ? AND seq <= ? ORDER BY seq",
            (WAITING, span.after, span.upto),
        )
        found = (StoredBatch(self.epoch, *row) for row in rows if row[0] not in self._acknowledged)
        return list(islice(found, limit))

    def waiting_of_level(self, level: int, limit: int) -> list[StoredBatch]:
        """The oldest waiting batches of a level of thinning."""
        query = f"SELECT {_COLUMNS} FROM {_BATCHES} WHERE acked_ms = {WAITING} AND thinned = ? ORDER BY seq"
        found = (StoredBatch(self.epoch, *row) for row in self._db.execute(query, (level,)))
        return list(islice((batch for batch in found if batch.seq not in self._acknowledged), limit))

    def has_kept(self) -> bool:
        """Whether acknowledged batches are there, which go first."""
        return bool(self._db.execute(f"SELECT 1 FROM batches WHERE acked_ms < {WAITING} LIMIT 1").fetchone())

    def kept(self, first: int, last: int, limit: int) -> list[StoredBatch]:
        """Acknowledged batches that cover a seq from first to last, oldest first."""
        query = f"SELECT {_COLUMNS}, acked_ms FROM {_BATCHES} WHERE {_TOUCHING} ORDER BY seq"
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

    def newest_schema(self) -> bytes:
        """The packed schema of the newest batch that was not thinned; empty when there is none."""
        query = (
            "SELECT packed FROM schemas WHERE id ="
            " (SELECT schema_id FROM batches WHERE thinned = 0 ORDER BY seq DESC LIMIT 1)"
        )
        row = self._db.execute(query).fetchone()
        return bytes(row[0]) if row else b""

    def spare_schemas(self) -> list[int]:
        """Ids of schemas of which there is no batch."""
        return [schema for (schema,) in self._db.execute(f"SELECT id FROM schemas WHERE {_SPARE}")]

    def forget_schema(self, schema_id: int) -> None:
        """Deletes a schema of which there is no batch. Raises sqlite3.Error."""
        self._db.execute(f"DELETE FROM schemas WHERE id = ? AND {_SPARE}", (schema_id,))

    def acknowledge(self, batches: Iterable[tuple[int, int]]) -> None:
        """Takes acknowledgements, each (first seq, count) as it was sent; written with the next append or flush."""
        self._acknowledged.update(batches)

    def rewrite(self, rewrite: Rewrite) -> bool:
        """Rewrites in a transaction of its own; False when an old row is no more as it was. Raises sqlite3.Error."""
        with _transaction(self._db):
            return self._rewrite(rewrite)

    def _rewrite(self, rewrite: Rewrite) -> bool:
        """A reading is never in neither of old and new rows, and never in both: the caller has a transaction open."""
        for batch in rewrite.old:
            if batch.seq in self._acknowledged or not self._waits(batch):
                return False
        if rewrite.schema:
            self._add_schema(rewrite.schema_id, rewrite.schema)
        self._db.executemany("DELETE FROM batches WHERE seq = ?", [(batch.seq,) for batch in rewrite.old])
        for seq, row in rewrite.new:
            self._insert(seq, row.count, row, rewrite.schema_id, rewrite.level)
        if rewrite.thinned:
            self._count("thinned_readings", rewrite.thinned)
        return True

    def _add_schema(self, schema_id: int, packed: bytes) -> None:
        self._db.execute("INSERT OR IGNORE INTO schemas (id, packed) VALUES (?, ?)", (schema_id, packed))

    def _count(self, name: str, count: int) -> None:
        self._db.execute(
            "INSERT INTO facts (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER)",
            (name, str(count)),
        )

    def flush(self) -> None:
        """Writes what is known of acknowledgements. Raises sqlite3.Error."""
        if self._acknowledged:
            with _transaction(self._db):
                self._mark(list(self._acknowledged.items()), int(time.time() * 1000))
            self._acknowledged.clear()

    def stats(self) -> StoreStats:
        """Counts. Reads no body."""
        waiting = self._sums(f"acked_ms = {WAITING}")
        pending = list(self._acknowledged)
        for start in range(0, len(pending), 500):  # acknowledged, but not yet written so
            marks = ",".join(map(str, pending[start : start + 500]))
            waiting = [have - gone for have, gone in zip(waiting, self._sums(f"seq IN ({marks})"), strict=True)]
        oldest = self.waiting(Span(), 1)
        kept = self._sums(f"acked_ms < {WAITING}")
        counts = dict(self._db.execute("SELECT name, value FROM facts WHERE name LIKE '%ed_%'").fetchall())
        return StoreStats(
            epoch=self.epoch,
            last_seq=self.last_seq(),
            batches=waiting[0],
            readings=waiting[1],
            bytes=waiting[2],
            oldest_ts=oldest[0].first_ts if oldest else 0,
            kept_batches=kept[0],
            kept_bytes=kept[2],
            dropped_batches=int(counts.get("dropped_batches", 0)),
            dropped_readings=int(counts.get("dropped_readings", 0)),
            thinned_readings=int(counts.get("thinned_readings", 0)),
            limit=self.limit(),
            used=self.used(),
        )

    def rows(self, after: int, limit: int) -> list[tuple[StoredBatch, int]]:
        """Any batches with a seq above `after`, oldest first, with their acked_ms."""
        query = f"SELECT {_COLUMNS}, acked_ms FROM {_BATCHES} WHERE seq > ? ORDER BY seq LIMIT ?"
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
        query = f"SELECT count(*), total(readings), total(size) FROM batches WHERE {condition}"
        return [int(number) for number in self._db.execute(query).fetchone()]

    def _waits(self, batch: StoredBatch) -> bool:
        query = "SELECT count(*) FROM batches WHERE seq = ? AND count = ? AND acked_ms = ?"
        return bool(self._db.execute(query, (batch.seq, batch.count, WAITING)).fetchone()[0])

    def _mark(self, batches: list[tuple[int, int]], now: int) -> None:
        """Only what still is as it was sent: what has been joined since goes again, and is a duplicate in part."""
        self._db.executemany(
            "UPDATE batches SET acked_ms = ? WHERE seq = ? AND count = ?", [(now, *batch) for batch in batches]
        )

    def _make_room(self, now: int) -> list[Loss]:
        """Deletes what is past `retain`, then acknowledged batches, then, over the limit, the oldest that wait."""
        self._db.execute("DELETE FROM batches WHERE acked_ms < ?", (now - self._retain_ms,))
        limit, used = self.limit(), self.used()
        if used <= THIN_AT * limit:
            return []
        waiting = f"acked_ms = {WAITING}"
        rows = self._db.execute(f"SELECT seq, count, size, readings, {waiting} FROM batches ORDER BY {waiting}, seq")
        victims: list[tuple[int]] = []
        dropped: list[Loss] = []
        for seq, count, size, readings, waits in rows:
            if used <= (limit if waits else THIN_AT * limit):
                break
            victims.append((seq,))
            used -= size + ROW_OVERHEAD
            if waits:
                dropped.append(Loss("dropped", seq, count, readings))
        self._db.executemany("DELETE FROM batches WHERE seq = ?", victims)
        if dropped:
            self._count("dropped_batches", sum(row.count for row in dropped))
            self._count("dropped_readings", sum(row.readings for row in dropped))
        return dropped

    def limit(self) -> int:
        """Bytes that may be in use: max_bytes; the file does not grow while its disk has less than min_free left."""
        if not self._folder:
            return self._max_bytes
        room = disk_usage(self._folder).free - self._min_free
        if room > 0:
            self._ceiling = 0
            return min(self._max_bytes, self._size() + room)
        self._ceiling = self._ceiling or self._size()
        return min(self._max_bytes, self._ceiling)

    def used(self) -> int:
        """Bytes of pages in use."""
        return self._size() - self._pragma("freelist_count") * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _size(self) -> int:
        return self._pragma("page_count") * self._pragma("page_size")


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
    connection.execute("PRAGMA wal_autocheckpoint = 2000")  # pages, 8 MB: the fewer, the less is written twice
    connection.execute("PRAGMA cache_size = -1024")  # KiB: the buffer is written once and read once
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if pages <= CHECKED_PAGES else "ok"
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
        raise NewerStoreError(
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
