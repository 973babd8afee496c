"""Batcher: gathers scans into the open batch, column by column, until it is closed."""

from dataclasses import dataclass

from parkfleet.protocols.payload.series import Rows, Scan, has_value


@dataclass(frozen=True)
class OpenBatch:
    """What stood in the batch when it was closed."""

    rows: list[Rows]  # by entry, ascending
    readings: int  # with a value
    first_ts: int  # ms UTC
    last_ts: int


class Batcher:
    """The open batch. Holds at most what comes in one flush interval."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}
        self.scans = 0

    def add(self, scan: Scan) -> None:
        """Appends a scan; scans of one entry come in time order."""
        rows = self._rows.get(scan.entry)
        if rows is None:
            rows = self._rows[scan.entry] = Rows(scan.entry)
        rows.ts.append(scan.ts)
        rows.slots.extend(scan.slots)
        rows.quality.extend(scan.quality)
        rows.texts.extend(scan.texts)
        self.scans += 1

    def close(self) -> OpenBatch | None:
        """Ends the open batch and begins a new one; None when nothing came."""
        if not self._rows:
            return None
        rows = [self._rows[entry] for entry in sorted(self._rows)]
        self._rows, self.scans = {}, 0
        readings = sum(sum(map(has_value, row.quality)) for row in rows)
        stamps = [ts for row in rows for ts in row.ts]
        return OpenBatch(rows, readings, min(stamps), max(stamps))
