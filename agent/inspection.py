"""Inspection: a buffer file looked at from outside, beside the agent that writes it. Reads only.

SQLite's write-ahead log lets a reader see the last commit while the agent makes the next.
"""

import csv
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from parkfleet.agent.store import SCHEMA_VERSION, WAITING, Store, StoredBatch, StoreError, check_version
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.consumer import BatchDecoded, Reading
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.topics import Topic

#: Rows looked at in one read transaction: a long one would keep the agent's log from being emptied.
AT_ONCE: Final = 200
_CSV: Final = ("time", "meter", "point", "value", "unit", "quality", "epoch", "seq")


@dataclass(frozen=True)
class Row:
    """One row of the buffer: a batch, or several joined."""

    seq: int
    count: int
    first: str  # time of its first reading, ISO 8601 UTC
    last: str
    readings: int
    bytes: int
    acknowledged: str  # when; empty while it waits


@dataclass(frozen=True)
class Verified:
    """What a look at every batch came to."""

    batches: int
    readings: int
    problems: list[str]


class Inspection:
    """An open look at one buffer file."""

    def __init__(self, path: Path, max_bytes: int, min_free: int) -> None:
        """max_bytes, min_free: the agent's limits, for the counts.

        Raises StoreError when it is no buffer of ours, or of another version.
        """
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            version = check_version(self._db, path)
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {path}: {error}") from None
        if version < SCHEMA_VERSION:
            raise StoreError(f"{path} is of an older version ({version}): the agent brings it forward when it starts")
        self.store = Store(self._db, 0, max_bytes, min_free, path.parent)
        self._schemas: dict[int, Schema] = {}

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def batches(self) -> Iterator[tuple[StoredBatch, int]]:
        """Every batch, oldest first, with the ms UTC of its acknowledgement (WAITING while it waits)."""
        after = 0
        while found := self.store.rows(after, AT_ONCE):
            yield from found
            after = found[-1][0].seq

    def rows(self) -> Iterator[Row]:
        """What each batch is."""
        for batch, acked_ms in self.batches():
            acknowledged = "" if acked_ms == WAITING else iso(acked_ms)
            size = len(batch.body) + len(batch.parts)
            first, last = iso(batch.first_ts), iso(batch.last_ts)
            yield Row(batch.seq, batch.count, first, last, batch.readings, size, acknowledged)

    def readings(self, since: int, until: int) -> Iterator[Reading]:
        """All readings from since to until, ms UTC, both included. Raises PayloadError for a damaged batch."""
        for batch, _ in self.batches():
            if batch.last_ts < since or batch.first_ts > until:
                continue
            schema = self._schema(batch.schema_id)
            rows = decode(batch.codec, schema, batch.body)
            envelope = Envelope(batch.codec, batch.schema_id, batch.epoch, batch.seq, batch.count, 0, b"")
            decoded = BatchDecoded(Topic("", "", "batch"), envelope, schema, rows, ())
            yield from (reading for reading in decoded.readings() if since <= reading.ts <= until)

    def verify(self) -> Verified:
        """Checks the file's structure, and decodes every batch."""
        problems = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        batches = readings = 0
        for batch, _ in self.batches():
            batches += 1
            try:
                found = decode(batch.codec, self._schema(batch.schema_id), batch.body)
            except PayloadError as error:
                problems.append(f"batch {batch.seq}: {error}")
                continue
            readings += sum(len(rows.quality) for rows in found)
        return Verified(batches, readings, problems)

    def _schema(self, schema_id: int) -> Schema:
        if schema_id not in self._schemas:
            self._schemas[schema_id] = Schema.unpack(self.store.schema(schema_id))
        return self._schemas[schema_id]


def write_csv(readings: Iterator[Reading], file: TextIO) -> int:
    """Writes readings as CSV (RFC 4180) with a header; returns how many."""
    writer = csv.writer(file)
    writer.writerow(_CSV)
    count = 0
    for reading in readings:
        value = "" if reading.value is None else reading.value
        place = (reading.meter, reading.point, value, reading.unit, reading.quality, reading.epoch, reading.seq)
        writer.writerow((iso(reading.ts), *place))
        count += 1
    return count


def iso(ms: int) -> str:
    """2026-11-23T10:00:00.000Z"""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
