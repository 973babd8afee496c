"""Room: which waiting batches to rewrite next, so that they take less: joined in an outage, thinned when it is tight.

Decides and encodes; the store writes what comes of it, in the transaction of the next append.
"""

from collections.abc import Sequence
from typing import Final

from parkfleet.agent.joining import join
from parkfleet.agent.store import THIN_AT, Rewrite, Span, Store, StoredBatch
from parkfleet.agent.thinning import select, thin, window_for
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.parts import Runs, unpack_parts
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.profile import Kind

#: Batches are joined when so many small ones wait one behind the other: a batch is rewritten once, not again and again.
JOIN_ROWS: Final = 32
#: Bytes of a joined body: the longest that a slow link (64 kbit/s) keeps a fresh batch waiting is 4 s.
JOIN_BYTES: Final = 32 * 1024
#: Readings in one rewrite: it holds the buffer's thread for as long as they take, a second on a small box.
READINGS_AT_ONCE: Final = 200_000
#: Thinned in one step, if they are small: some minutes together, or there is nothing to thin.
THIN_ROWS: Final = 64


class Room:
    """One store's."""

    def __init__(self, store: Store, keep: Sequence[Kind], joined: int = READINGS_AT_ONCE) -> None:
        """keep: kinds of points, the one to keep longest first. joined: readings of a joined batch, at most."""
        self._joined = joined
        self._store = store
        self._keep = keep
        self._schemas: dict[int, Schema] = {}
        self._joined_to = 0  # up to this seq there is nothing to join

    def next(self, *, quiet: bool) -> Rewrite | None:
        """The next rewrite, or None. quiet: nobody reads the buffer just now. Raises PayloadError, sqlite3.Error."""
        if self._store.used() > THIN_AT * self._store.limit() and not self._store.has_kept():
            return self._thin()
        return self._join() if quiet else None

    def _join(self) -> Rewrite | None:
        group: list[StoredBatch] = []
        size = readings = 0
        for batch in self._store.waiting(Span(self._joined_to), 2 * JOIN_ROWS):
            fits = size + len(batch.body) <= JOIN_BYTES and readings + batch.readings <= self._joined
            if not (fits and _follows(group, batch)):
                if len(group) >= JOIN_ROWS or (len(group) > 1 and not fits):
                    break
                self._joined_to = batch.seq - 1
                group, size, readings = [], 0, 0
            group.append(batch)
            size += len(batch.body)
            readings += batch.readings
        else:
            if len(group) < JOIN_ROWS:
                return None
        joined = join(self._schema(group[0].schema_id), group)
        self._joined_to = group[-1].last_seq
        if joined is None:
            return None
        return Rewrite(group, [(group[0].seq, joined)], group[0].schema_id, level=group[0].level)

    def _thin(self) -> Rewrite | None:
        """The oldest of the lowest level goes on. None when nothing comes of that: then the oldest is dropped."""
        for level in range(len(self._keep)):
            group = self._group(level)
            if group and (rewrite := self._thinner(level, group)):
                return rewrite
        return None

    def _thinner(self, level: int, group: list[StoredBatch]) -> Rewrite | None:
        schema = self._schema(group[0].schema_id)
        joined = join(schema, group)
        if joined is None:  # times that run back
            group = group[:1]
            joined = join(schema, group)
            assert joined is not None
        rows = decode(joined.codec, schema, joined.body)
        runs = _runs(joined.parts, joined.count, rows)
        if level == 0:
            window = window_for(rows)
            if window is None or (joined.last_ts - joined.first_ts < 2 * window and len(group) < THIN_ROWS):
                return None
            thinned = thin(schema, rows, runs, joined.count, window)
        else:
            thinned = select(schema, rows, runs, joined.count, self._keep[: len(self._keep) - level])
        gone = sum(batch.readings for batch in group) - thinned.row.readings
        packed = thinned.schema.pack()
        return Rewrite(group, [(group[0].seq, thinned.row)], thinned.schema.id, packed, level + 1, gone)

    def _group(self, level: int) -> list[StoredBatch]:
        """The oldest waiting rows of a level whose seqs follow each other."""
        group: list[StoredBatch] = []
        readings = 0
        for batch in self._store.waiting_of_level(level, THIN_ROWS):
            if group and (readings + batch.readings > READINGS_AT_ONCE or not _follows(group, batch)):
                break
            group.append(batch)
            readings += batch.readings
        return group

    def _schema(self, schema_id: int) -> Schema:
        if schema_id not in self._schemas:
            self._schemas = {schema_id: Schema.unpack(self._store.schema(schema_id))}  # mostly one is in use
        return self._schemas[schema_id]


def _follows(group: Sequence[StoredBatch], batch: StoredBatch) -> bool:
    """Whether a batch may be joined behind a group."""
    if not group:
        return True
    last = group[-1]
    return (last.last_seq + 1, last.schema_id, last.level) == (batch.seq, batch.schema_id, batch.level)


def _runs(parts: bytes, count: int, rows: list[Rows]) -> list[Runs]:
    return unpack_parts(parts, count, rows) if count > 1 else [[(1, len(block.ts))] for block in rows]
