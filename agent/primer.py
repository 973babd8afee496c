"""Primer: what a gateway's batches teach of its meters, for the schema, so that its key batches need not.

Made of a stretch of batches as they came, and of single ones at even times behind it: the first shows how values follow
one another, the others how far they are after a pause. Consumers decode it once; it costs a few kilobytes.
"""

from collections.abc import Sequence
from typing import Final

from parkfleet.protocols.payload.chain.coding import MAX_PRIMER_READINGS, begin_chain
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows

#: Readings that it has; more of a gateway whose meters would have fewer than so many rows each.
_READINGS: Final = 16384
_ROWS: Final = 8
#: Of what it may have at most, as a batch may have grown a little.
_MOST_READINGS: Final = MAX_PRIMER_READINGS * 9 // 10
#: Single batches.
_SINGLE: Final = 20
#: The message of a schema must pass brokers that take no more than 64 KiB, as do those of batches.
MOST_BYTES: Final = 32 * 1024
#: What a body takes beside its bytes.
_OVERHEAD: Final = 3


class PrimerBuilder:
    """Gathers batches of one schema for a time, and makes the primer of them."""

    def __init__(self, schema: Schema, first_ts: int, last_ts: int) -> None:
        """The times between which it gathers, ms UTC."""
        self.first_ts = first_ts
        self._schema = Schema(schema.entries)
        width = sum(len(entry.columns) for entry in schema.entries)
        readings = min(max(_READINGS, _ROWS * width), _MOST_READINGS)
        self._left = min(max(readings // 2, width), readings)
        self._left_single = readings - self._left
        self._each = max(self._left_single // _SINGLE, width)
        self._step = (last_ts - first_ts) // 3 // _SINGLE
        self._stretch_ends = first_ts + (last_ts - first_ts) * 2 // 3
        self._next = self._stretch_ends
        self._last_ts = last_ts
        self._stretch: dict[int, Rows] = {}
        self._single: list[list[Rows]] = []

    def add(self, rows: Sequence[Rows]) -> bool:
        """One more batch. Whether the time is over."""
        if not rows:
            return False
        ts = min(block.ts[0] for block in rows)
        if ts <= self._stretch_ends:
            part = _at_most(rows, self._left)
            self._left = self._left - _readings(part) if _readings(part) == _readings(rows) else 0  # without a gap
            for block in part:
                _append(self._stretch.setdefault(block.entry, Rows(block.entry)), block)
        elif ts >= self._next and (part := _at_most(rows, min(self._each, self._left_single))):
            self._left_single -= _readings(part)
            self._single.append(part)
            self._next = ts + self._step
        return ts >= self._last_ts

    def batches(self) -> list[list[Rows]]:
        """What it is made of."""
        stretch = [self._stretch[entry] for entry in sorted(self._stretch)]
        return [rows for rows in (stretch, *self._single) if rows]

    def build(self, most_bytes: int) -> Schema | None:
        """The schema with a primer, of at most so many bytes; None where too little came, or there is no room."""
        most = min(MOST_BYTES, most_bytes - len(self._schema.pack()) - _OVERHEAD)
        chain, primer = begin_chain(self._schema), list[bytes]()
        for rows in self.batches():
            body = chain.encode(rows)
            chain.pause()
            most -= len(body) + _OVERHEAD
            if most < 0:
                break
            primer.append(body)
        return Schema(self._schema.entries, tuple(primer)) if primer else None


def _readings(rows: Sequence[Rows]) -> int:
    return sum(max(len(block.quality), len(block.ts)) for block in rows)


def _at_most(rows: Sequence[Rows], readings: int) -> list[Rows]:
    """The first rows of each block, alike many, so that they have not more readings than that; perhaps none."""
    if _readings(rows) <= readings:
        return list(rows)
    longest = max(len(block.ts) for block in rows)
    kept = max(longest * readings // _readings(rows), 1)
    part = [_first(block, kept) for block in rows]
    return part if _readings(part) <= readings else []


def _first(block: Rows, count: int) -> Rows:
    rows = len(block.ts)
    if rows <= count:
        return block
    width, strings = len(block.quality) // rows, len(block.texts) // rows
    quality, texts = block.quality[: count * width], block.texts[: count * strings]
    return Rows(block.entry, block.ts[:count], block.slots[: count * width], quality, texts)


def _append(to: Rows, block: Rows) -> None:
    to.ts.extend(block.ts)
    to.slots.extend(block.slots)
    to.quality.extend(block.quality)
    to.texts.extend(block.texts)
