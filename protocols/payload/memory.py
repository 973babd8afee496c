"""Memory: which batches a consumer has, over restarts and over several consumers that share a subscription.

Invariants:
- a seq is taken once, whoever takes it: `take` is one transaction;
- a seq between the lowest and the highest known of an epoch that is neither taken nor given up is a gap;
- of all that share a memory, one asks for a gap, and asks again after a pause that doubles.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet

#: Epochs remembered for a gateway, each a buffer that it lost or was given: the oldest is forgotten.
MAX_EPOCHS: Final = 256
#: Ranges remembered in an epoch: with more the gateway counts in no order, and is rejected.
MAX_RANGES: Final = 65_536
#: The pause between two requests for a gap doubles so often.
MAX_DOUBLINGS: Final = 7

Range = tuple[int, int]  # first and last seq, both included


class Source(NamedTuple):
    """Whose seqs."""

    park: str
    gateway: str
    epoch: int


class Overdue(NamedTuple):
    """Gaps in one epoch that nothing has come for in a while."""

    source: Source
    gaps: list[Range]


class Memory(Protocol):
    """What a consumer needs of a store. SqliteMemory is one; another keeps it in the platform's own database."""

    def missing(self, source: Source, first: int, last: int) -> list[Range]:
        """What of first to last has not been taken, ascending."""

    def take(self, source: Source, ranges: Iterable[Range], now: float) -> list[Range]:
        """Marks ranges as taken, atomically; returns what of them had not been taken before."""

    def expect(self, source: Source, first: int, last: int, now: float) -> None:
        """These exist, and could not be taken: they are a gap, as is what has not come before them."""

    def overdue(self, age: float, now: float) -> list[Overdue]:
        """The gaps for which nothing has come in `age` seconds; the same one again only after pauses that double."""

    def give_up(self, source: Source, ranges: Iterable[Range]) -> None:
        """These are gone for good, and no gap any more. Should one come after all, it is taken."""


_TABLES: Final = """
CREATE TABLE IF NOT EXISTS epochs (
    id INTEGER PRIMARY KEY, park TEXT NOT NULL, gateway TEXT NOT NULL, epoch INTEGER NOT NULL,
    base INTEGER NOT NULL,     -- the first seq that is ours to miss
    highest INTEGER NOT NULL,  -- the highest seq taken, or expected
    missing INTEGER NOT NULL,  -- seqs in gaps
    moved REAL NOT NULL,       -- when a gap was last seen, or came smaller; seconds
    asks INTEGER NOT NULL,     -- requests since then
    UNIQUE (park, gateway, epoch)
);
CREATE INDEX IF NOT EXISTS gaps ON epochs (missing) WHERE missing > 0;
CREATE TABLE IF NOT EXISTS ranges (
    epoch INTEGER NOT NULL REFERENCES epochs(id), gone INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (epoch, gone, first)
) WITHOUT ROWID;
"""


class _Epoch(NamedTuple):
    id: int
    base: int
    highest: int


class SqliteMemory:
    """One SQLite file, or `:memory:`; several processes may share the file."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        """Opens or makes it. Raises sqlite3.Error."""
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def missing(self, source: Source, first: int, last: int) -> list[Range]:
        """See Memory."""
        epoch = self._find(source)
        return [(first, last)] if epoch is None else self._ranges(epoch.id, first, last).missing(first, last)

    def take(self, source: Source, ranges: Iterable[Range], now: float) -> list[Range]:
        """See Memory. Raises PayloadError for a gateway that counts in no order."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            fresh = [new for first, last in ranges for new in self._take(source, first, last, now)]
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return fresh

    def expect(self, source: Source, first: int, last: int, now: float) -> None:
        """See Memory. A gap that grows is asked for no later."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            epoch = self._find(source) or self._begin(source, first, now)
            if last > epoch.highest:
                query = "UPDATE epochs SET highest = ?, moved = iif(missing, moved, ?) WHERE id = ?"
                self._db.execute(query, (last, now, epoch.id))
                self._count(epoch._replace(highest=last))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def overdue(self, age: float, now: float) -> list[Overdue]:
        """See Memory. The pause of a gap doubles from `age` on, up to 2^MAX_DOUBLINGS times that."""
        found = []
        query = "SELECT id, park, gateway, epoch, base, highest, asks FROM epochs WHERE missing > 0 AND moved <= ?"
        for row in self._db.execute(query, (now - age,)).fetchall():
            # Of several that look at the same moment one changes the row, and that one asks.
            claimed = self._db.execute(
                f"UPDATE epochs SET asks = min(asks + 1, {MAX_DOUBLINGS}), moved = ? + ? * ((1 << asks) - 1)"
                " WHERE id = ? AND asks = ? AND moved <= ?",
                (now, age, row[0], row[6], now - age),
            )
            if claimed.rowcount:
                found.append(Overdue(Source(*row[1:4]), self._gaps(_Epoch(row[0], row[4], row[5]))))
        return found

    def give_up(self, source: Source, ranges: Iterable[Range]) -> None:
        """See Memory."""
        epoch = self._find(source)
        if epoch is None:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for first, last in ranges:
                self._add(epoch.id, max(first, epoch.base), min(last, epoch.highest), gone=True)
            self._count(epoch)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _take(self, source: Source, first: int, last: int, now: float) -> list[Range]:
        epoch = self._find(source) or self._begin(source, first, now)
        fresh = self._ranges(epoch.id, first, last).missing(first, last)
        if not fresh:
            return []
        self._add(epoch.id, first, last, gone=False)
        after = epoch._replace(highest=max(epoch.highest, last))
        if after.highest > epoch.highest:
            self._db.execute("UPDATE epochs SET highest = ? WHERE id = ?", (after.highest, epoch.id))
        if fresh != [(epoch.highest + 1, last)]:  # a gap opens, or closes
            self._count(after)
            self._db.execute("UPDATE epochs SET moved = ?, asks = 0 WHERE id = ?", (now, epoch.id))
        return fresh

    def _find(self, source: Source) -> _Epoch | None:
        query = "SELECT id, base, highest FROM epochs WHERE park = ? AND gateway = ? AND epoch = ?"
        row = self._db.execute(query, source).fetchone()
        return _Epoch(*row) if row else None

    def _begin(self, source: Source, first: int, now: float) -> _Epoch:
        """A new epoch. Of a gateway that was not known, what was before `first` is not ours to miss."""
        where = "WHERE park = ? AND gateway = ?"
        known = self._db.execute(f"SELECT id FROM epochs {where} ORDER BY id", source[:2]).fetchall()
        for old in known[: max(0, len(known) + 1 - MAX_EPOCHS)]:
            self._db.execute("DELETE FROM ranges WHERE epoch = ?", old)
            self._db.execute("DELETE FROM epochs WHERE id = ?", old)
        base = 1 if known else first
        cursor = self._db.execute(
            "INSERT INTO epochs (park, gateway, epoch, base, highest, missing, moved, asks)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, 0)",
            (*source, base, base - 1, now),
        )
        assert cursor.lastrowid is not None
        return _Epoch(cursor.lastrowid, base, base - 1)

    def _ranges(self, epoch: int, first: int, last: int, gone: tuple[int, ...] = (0,)) -> IntervalSet:
        """Ranges that touch first to last."""
        found = IntervalSet()
        for kind in gone:
            # The one that begins at or before `first`, and those that begin within.
            query = (
                "SELECT first, last FROM ranges WHERE epoch = ?1 AND gone = ?2 AND first <= ?4 AND first >="
                " coalesce((SELECT max(first) FROM ranges WHERE epoch = ?1 AND gone = ?2 AND first <= ?3), ?3)"
            )
            for low, high in self._db.execute(query, (epoch, kind, first, last)):
                found.add(low, high)
        return found

    def _add(self, epoch: int, first: int, last: int, *, gone: bool) -> None:
        """Merges first to last into the ranges. Raises PayloadError when they become too many."""
        if first > last:
            return
        touching = self._ranges(epoch, first - 1, last + 1, (int(gone),))
        touching.add(first, last)
        self._db.execute(
            "DELETE FROM ranges WHERE epoch = ? AND gone = ? AND first BETWEEN ? AND ?",
            (epoch, gone, min(low for low, _ in touching), last + 1),
        )
        self._db.executemany(
            "INSERT INTO ranges (epoch, gone, first, last) VALUES (?, ?, ?, ?)",
            [(epoch, gone, low, high) for low, high in touching],
        )

    def _count(self, epoch: _Epoch) -> None:
        """Notes how many seqs are missing. Raises PayloadError for too many gaps."""
        gaps = self._gaps(epoch)
        if len(gaps) > MAX_RANGES:
            raise PayloadError(f"more than {MAX_RANGES} gaps in one epoch")
        missing = sum(last - first + 1 for first, last in gaps)
        self._db.execute("UPDATE epochs SET missing = ? WHERE id = ?", (missing, epoch.id))

    def _gaps(self, epoch: _Epoch) -> list[Range]:
        known = self._ranges(epoch.id, epoch.base, epoch.highest, (0, 1))
        return known.missing(epoch.base, epoch.highest)
