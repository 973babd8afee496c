"""Thinning: readings of every second become readings of every minute, when there is no room for all. Pure.

Of meters that are read more slowly it is a longer window. Within one a counter and a state keep their last value, as
the meter gave it; a gauge becomes three columns, POINT_mean, POINT_min, POINT_max (docs/payload.md, Thinned batches).
Later whole kinds of points may go.
"""

import math
import struct
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from parkfleet.agent.store import Recoded
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.parts import Runs, pack_parts, runs_of, seq_of_rows
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows, has_value
from parkfleet.protocols.profile import Factor, Kind
from parkfleet.protocols.quality import Quality

#: The first of these that leaves at most half of the rows: 1 min, 15 min, 1 h, 1 d.
WINDOWS_MS: Final = (60_000, 900_000, 3_600_000, 86_400_000)
_STATISTICS: Final = ("mean", "min", "max")


@dataclass(frozen=True)
class Thinned:
    """What is left, under a schema of its own."""

    schema: Schema
    row: Recoded


def thinned_schema(schema: Schema) -> Schema:
    """The columns of a schema's readings once they are thinned."""
    sets = {columns: tuple(new for column in columns for new in _columns(column)) for columns in schema.sets}
    return Schema(tuple(Entry(e.meter, e.profile, e.medium, sets[e.columns]) for e in schema.entries))


def window_for(rows: Sequence[Rows]) -> int | None:
    """The window, in ms, that would make fewer rows of these; None when none does."""
    total = sum(len(block.ts) for block in rows)
    for window in WINDOWS_MS:
        if 2 * sum(len({ts // window for ts in block.ts}) for block in rows) <= total:
            return window
    return None


def thin(schema: Schema, rows: Sequence[Rows], runs: Sequence[Runs], count: int, window: int) -> Thinned:
    """Rows of a batch that covers `count` seqs, thinned to one in each window (ms) of the clock and meter."""
    target = thinned_schema(schema)
    blocks, parts = [], []
    for block, own in zip(rows, runs, strict=True):
        thinned, kept = _thin_block(schema.entries[block.entry].columns, block, own, window)
        blocks.append(thinned)
        parts.append(kept)
    return Thinned(target, _recoded(target, blocks, parts, count, own_values(target, blocks)))


def select(schema: Schema, rows: Sequence[Rows], runs: Sequence[Runs], count: int, kinds: Collection[Kind]) -> Thinned:
    """Of rows that are thinned already, only the columns of some kinds; meters that have none vanish."""
    indexes = [[i for i, column in enumerate(e.columns) if column.kind in kinds] for e in schema.entries]
    places = {entry: place for place, entry in enumerate(i for i, kept in enumerate(indexes) if kept)}
    target = Schema(
        tuple(
            Entry(e.meter, e.profile, e.medium, tuple(e.columns[i] for i in kept))
            for e, kept in zip(schema.entries, indexes, strict=True)
            if kept
        )
    )
    blocks, parts = [], []
    for block, own in zip(rows, runs, strict=True):
        if block.entry in places:
            blocks.append(_select_block(schema.entries[block.entry].columns, block, indexes[block.entry], places))
            parts.append(own)
    return Thinned(target, _recoded(target, blocks, parts, count, own_values(target, blocks)))


def _columns(column: Column) -> list[Column]:
    if column.kind != "gauge" or column.type == "string":
        return [column]
    names = [f"{column.point}_{name}" for name in _STATISTICS]
    mean = Column(names[0], column.unit, column.type, column.kind, column.factor, column.digits)
    if column.type in ("int", "uint64"):
        factor = column.factor
        if factor.decimals < 12:  # one digit more than the meter has: a mean lies between its steps
            finer = Factor(factor.multiply, factor.decimals + 1, factor.add * 10)
            mean = Column(names[0], column.unit, "int", column.kind, finer, column.digits)
    rest = [Column(name, column.unit, column.type, column.kind, column.factor, column.digits) for name in names[1:]]
    return [mean, *rest]


def _thin_block(columns: tuple[Column, ...], block: Rows, runs: Runs, window: int) -> tuple[Rows, Runs]:
    """A block with one row a window, and its runs: a row belongs to the seq of its last reading."""
    thinned = Rows(block.entry)
    kept: list[tuple[int, int]] = []
    seq, left = -1, 0
    seqs = seq_of_rows(runs)
    before = 0
    for start, end in _windows(block.ts, window):
        for _ in range(start, end):
            seq = next(seqs)
        left = seq
        kept += [(left - before, 0)] if left > before else []
        if left >= before:
            kept.append((1, 1))
            before = left + 1
        else:  # a second window that ended in the same seq
            length, rows = kept[-1]
            kept[-1] = (length, rows + 1)
        thinned.ts.append(block.ts[end - 1])
        _thin_rows(thinned, columns, block, start, end)
    total = sum(length for length, _ in runs)
    kept += [(total - before, 0)] if total > before else []
    return thinned, runs_of(kept)


def _windows(stamps: "array[int]", window: int) -> Iterator[tuple[int, int]]:
    """Index ranges of rows within the same window of the clock."""
    start = 0
    for index in range(1, len(stamps) + 1):
        if index == len(stamps) or stamps[index] // window != stamps[start] // window:
            yield start, index
            start = index


def _thin_rows(target: Rows, columns: tuple[Column, ...], block: Rows, start: int, end: int) -> None:
    """Appends one row that stands for the rows start to end (not included)."""
    width = len(columns)
    strings = [i for i, column in enumerate(columns) if column.type == "string"]
    for i, column in enumerate(columns):
        places = [row * width + i for row in range(start, end)]
        valued = [place for place in places if has_value(block.quality[place])]
        if column.type == "string":
            row = (valued[-1] - i) // width if valued else end - 1
            target.slots.append(0)
            target.quality.append(block.quality[row * width + i])
            target.texts.append(block.texts[row * len(strings) + strings.index(i)] if valued else None)
        elif column.kind != "gauge":
            place = (valued or places)[-1]
            target.slots.append(block.slots[place] if valued else 0)
            target.quality.append(block.quality[place])
        else:
            slots = [block.slots[place] for place in valued]
            suspect = any(block.quality[place] == Quality.SUSPECT for place in valued)
            quality = (Quality.SUSPECT if suspect else Quality.GOOD) if valued else block.quality[places[-1]]
            target.slots.extend(_statistics(column, slots) if valued else (0, 0, 0))
            target.quality.extend((quality, quality, quality))


def _statistics(column: Column, slots: list[int]) -> tuple[int, int, int]:
    """Mean, least and greatest of a gauge, as slots of its three columns."""
    if column.type in ("int", "uint64"):
        raws = [slot & 0xFFFF_FFFF_FFFF_FFFF for slot in slots] if column.type == "uint64" else slots
        scale = 10 if column.factor.decimals < 12 else 1
        mean = (2 * scale * sum(raws) + len(raws)) // (2 * len(raws))  # to nearest, exactly
        least, greatest = min(raws), max(raws)
        rising = (least, greatest) if column.factor.multiply >= 0 else (greatest, least)
        return (_signed(min(max(mean, -(2**63)), 2**63 - 1)), *map(_signed, rising))  # type: ignore[return-value]
    code = ("<f", "<I") if column.type == "float32" else ("<d", "<q")
    floats = [(struct.unpack(code[0], struct.pack(code[1], _fitted(slot, code[1])))[0], slot) for slot in slots]
    numbers = sorted(pair for pair in floats if not math.isnan(pair[0]))
    if not numbers:
        return slots[-1], slots[-1], slots[-1]
    low, high = (numbers[0], numbers[-1]) if column.factor.multiply >= 0 else (numbers[-1], numbers[0])
    finite = [number for number, _ in numbers if math.isfinite(number)] or [numbers[-1][0]]
    (middle,) = struct.unpack(code[1], struct.pack(code[0], math.fsum(finite) / len(finite)))
    return middle, low[1], high[1]


def _fitted(slot: int, code: str) -> int:
    return slot & 0xFFFF_FFFF if code == "<I" else slot


def _signed(number: int) -> int:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    return number - 2**64 if number >> 63 else number


def _select_block(columns: tuple[Column, ...], block: Rows, kept: list[int], places: dict[int, int]) -> Rows:
    chosen = Rows(places[block.entry])
    width = len(columns)
    strings = [i for i, column in enumerate(columns) if column.type == "string"]
    chosen.ts.extend(block.ts)
    for row in range(len(block.ts)):
        chosen.slots.extend(block.slots[row * width + i] for i in kept)
        chosen.quality.extend(block.quality[row * width + i] for i in kept)
        chosen.texts.extend(block.texts[row * len(strings) + k] for k, i in enumerate(strings) if i in kept)
    return chosen


def own_values(schema: Schema, blocks: Sequence[Rows]) -> int:
    """Readings of thinned blocks that are the meter's own: counters and states with a value."""
    count = 0
    for block in blocks:
        own = [column.kind != "gauge" or column.type == "string" for column in schema.entries[block.entry].columns]
        count += sum(has_value(code) and own[i % len(own)] for i, code in enumerate(block.quality))
    return count


def _recoded(schema: Schema, rows: Sequence[Rows], runs: Sequence[Runs], count: int, readings: int) -> Recoded:
    stamps = [ts for block in rows for ts in (block.ts[0], block.ts[-1])]
    parts = pack_parts(runs) if count > 1 else b""
    first, last = min(stamps, default=0), max(stamps, default=0)
    return Recoded(count, CODEC, encode(schema, rows), parts, readings, first, last)
