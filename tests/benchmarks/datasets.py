"""Datasets: real meters' readings, cut into batches, for the codec's benchmark and for training its prior.

They are no part of the repository: the folder is $PARKFLEET_DATA, else ../shared/data beside the working tree. Each is
a CSV with `ts_s`, `meter` and the meter's columns; SOURCES.md there names the sources and their licences.
"""

import csv
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from parkfleet.protocols.profile import Factor, Kind, Medium

_ROOT: Final = Path(__file__).resolve().parents[2]
#: The columns that count up; the others are gauges.
_COUNTERS: Final = {"volume_gal", "register_m3", "energy_kWh", "volume_m3", "E8_m3C", "E9_m3C"}
_FILES: Final[dict[str, tuple[str, Medium]]] = {
    "uci": ("power_uci_house_1min.csv", "power"),
    "lab3": ("power_lab3_1s_12reg.csv", "power"),
    "campus": ("water_campus_1s.csv", "water"),
    "gas": ("gas_opengrid2_1min.csv", "gas"),
    "heat": ("heat_danish_1h.csv", "heat"),
}
NAMES: Final = tuple(_FILES)


class MissingDataError(Exception):
    """The folder of data is not there; the text says how to name another."""


@dataclass(frozen=True)
class Dataset:
    """All readings of one source: scaled integers at each column's own resolution."""

    name: str
    schema: Schema
    rows: list[Rows]  # one block an entry: the whole time

    def part(self, first_ts: int, last_ts: int) -> "Dataset":
        """The rows from first_ts to before last_ts, ms UTC."""
        return replace(self, rows=[_between(block, first_ts, last_ts) for block in self.rows])

    def batches(self, seconds: int) -> Iterator[list[Rows]]:
        """Cut at the clock's multiples of so many seconds."""
        places = [0] * len(self.rows)
        ends = {block.ts[place] // (1000 * seconds) for block in self.rows for place in range(len(block.ts))}
        for window in sorted(ends):
            batch: list[Rows] = []
            for index, block in enumerate(self.rows):
                first = last = places[index]
                while last < len(block.ts) and block.ts[last] // (1000 * seconds) == window:
                    last += 1
                places[index] = last
                if last > first:
                    width = len(self.schema.entries[block.entry].columns)
                    part = slice(first * width, last * width)
                    batch.append(Rows(block.entry, block.ts[first:last], block.slots[part], block.quality[part]))
            yield batch


def _between(block: Rows, first_ts: int, last_ts: int) -> Rows:
    first, last = (bisect_left(block.ts, ts) for ts in (first_ts, last_ts))
    width = len(block.quality) // max(len(block.ts), 1)
    part = slice(first * width, last * width)
    return Rows(block.entry, block.ts[first:last], block.slots[part], block.quality[part])


def folder() -> Path:
    """Where the data stand. Raises MissingDataError."""
    named = os.environ.get("PARKFLEET_DATA")
    # A git worktree may stand one folder deeper than the clone.
    for path in [Path(named)] if named else [_ROOT.parent / "shared/data", _ROOT.parents[1] / "shared/data"]:
        if (path / "SOURCES.md").exists():
            return path
    raise MissingDataError(
        "no meter data: PARKFLEET_DATA shall name a folder with the files of tests/benchmarks/datasets.py"
    )


def load(name: str) -> Dataset:
    """A dataset by its short name. Raises MissingDataError."""
    file, medium = _FILES[name]
    with (folder() / file).open(newline="") as stream:
        lines = csv.reader(stream)
        heads = next(lines)[2:]
        table = list(lines)
    decimals = [max(_decimals(line[2 + index]) for line in table) for index in range(len(heads))]
    columns = tuple(
        Column(head.rsplit("_", 1)[0], head.rsplit("_", 1)[-1], "int", _kind(head), Factor(1, places, 0))
        for head, places in zip(heads, decimals, strict=True)
    )
    meters: dict[str, Rows] = {}
    for stamp, meter, *cells in table:
        rows = meters.setdefault(meter, Rows(len(meters)))
        rows.ts.append(1000 * int(stamp))
        rows.slots.extend(_scaled(cell, places) for cell, places in zip(cells, decimals, strict=True))
        rows.quality.extend(0 if cell else 4 for cell in cells)
    entries = tuple(Entry(meter, name, medium, columns) for meter in meters)
    return Dataset(name, Schema(entries), [_sorted(rows, len(columns)) for rows in meters.values()])


def _kind(head: str) -> Kind:
    return "counter" if head in _COUNTERS else "gauge"


def _decimals(cell: str) -> int:
    return len(cell.partition(".")[2])


def _scaled(cell: str, places: int) -> int:
    if not cell:
        return 0
    whole, _, fraction = cell.partition(".")
    return int(whole + fraction.ljust(places, "0"))


def _sorted(rows: Rows, width: int) -> Rows:
    """In time order, whatever the file's."""
    order = sorted(range(len(rows.ts)), key=rows.ts.__getitem__)
    if order == list(range(len(order))):
        return rows
    slots = array("q", [slot for row in order for slot in rows.slots[row * width : (row + 1) * width]])
    quality = bytearray(code for row in order for code in rows.quality[row * width : (row + 1) * width])
    return Rows(rows.entry, array("q", [rows.ts[row] for row in order]), slots, quality)
