"""Batcher: gathers scans into the open batch, column by column, until it is closed."""

from dataclasses import dataclass
from typing import Final

from parkfleet.protocols.payload.series import Rows, Scan
from parkfleet.protocols.quality import WITH_VALUE

#: Readings at which a batch is closed before its time: far below what a body may hold (4,000,000), 9 MB of memory.
MAX_READINGS: Final = 1_000_000


@dataclass(frozen=True)
class OpenBatch:
    """What stood in the batch when it was closed."""

    rows: list[Rows]  # by entry, ascending
    readings: int  # with a value
    first_ts: int  # ms UTC
    last_ts: int


class Batcher:
    """The open batch, and those that were full before the flush interval was over."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}
        self._readings = 0
        self._full: list[OpenBatch] = []

    def add(self, scan: Scan) -> None:
        """Appends a scan; scans of one entry come in time order."""
        rows = self._rows.get(scan.entry)
        if rows is None:
            rows = self._rows[scan.entry] = Rows(scan.entry)
        rows.ts.append(scan.ts)
        rows.slots.extend(scan.slots)
        rows.quality.extend(scan.quality)
        if scan.texts:
            rows.texts.extend(scan.texts)
        self._readings += len(scan.quality)
        if self._readings >= MAX_READINGS:
            self._full.append(self._end())

    def close(self) -> list[OpenBatch]:
        """Ends the open batch and begins a new one: what came since the last call, oldest first; empty for nothing."""
        batches, self._full = self._full, []
        return [*batches, self._end()] if self._rows else batches

    def _end(self) -> OpenBatch:
        rows = [self._rows[entry] for entry in sorted(self._rows)]
        self._rows, self._readings = {}, 0
        readings = sum(row.quality.count(code) for row in rows for code in WITH_VALUE)
        return OpenBatch(rows, readings, min(min(row.ts) for row in rows), max(max(row.ts) for row in rows))
