"""Pure: one side's memory in codec 2, in pure Python: the oracle and fallback of native/chain.pyx.

After an error a chain must not be used again: it knows half a batch.
"""

from array import array
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from parkfleet.protocols.payload.chain.blocks import (
    AWAY,
    BEFORE,
    CELLS,
    LATELY,
    PRESENT,
    Before,
    Meter,
    meet,
    row_count,
    row_qualities,
    row_texts,
    row_times,
    row_values,
)
from parkfleet.protocols.payload.chain.layout import layouts
from parkfleet.protocols.payload.chain.mixing import Tables, simple
from parkfleet.protocols.payload.chain.prior import Prior
from parkfleet.protocols.payload.chain.rangecoder import Coder, Reader, Writer
from parkfleet.protocols.payload.chain.values import WEIGHTS
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import MAX_READINGS, Rows

#: Columns that a chain may know: bounds its memory.
MAX_SERIES = 250_000


class Chain:
    """The memory of one side, from a key batch on."""

    def __init__(self, schema: Schema, prior: Prior, most: int = MAX_READINGS) -> None:
        """most: readings that a batch may hold. Raises ValueError for a prior of another version."""
        if (len(prior.cells), len(prior.weights)) != (CELLS, WEIGHTS):
            raise ValueError("the prior is not of this version")
        self._schema = schema
        self._layouts = layouts(schema, prior.quantities)
        self._tables = Tables(list(prior.cells), list(prior.weights))
        self._meters = [Meter() for _ in schema.entries]
        self._series = 0
        self._most = most

    def copy(self) -> "Chain":
        """Another chain that knows what this one does. This one must code nothing from now on."""
        new = copy(self)
        new._tables = Tables(list(self._tables.cells), list(self._tables.weights))
        new._meters = [replace(meter, lent=True) if meter.seen else Meter() for meter in self._meters]
        return new

    def pause(self) -> None:
        """Time passes of which nobody tells: the primer's batches stand apart."""
        for m in self._meters:
            if m.seen:
                m.seen = AWAY
                for s in m.series:
                    s.away = s.seen > 0

    def encode(self, rows: Sequence[Rows], last: bool = False) -> bytes:
        """The body of a batch. Raises ValueError for rows without sense, before anything is learned from them.

        last: nothing is coded behind it; the compiled coder then keeps nothing of an entry behind its block.
        """
        self._check(rows)
        writer = Writer()
        self._run(writer, rows)
        return writer.end()

    def decode(self, body: bytes, last: bool = False) -> list[Rows]:
        """The rows of a body. Raises PayloadError, and nothing else, for whatever is none. last: see encode."""
        reader = Reader(body)
        rows = self._run(reader, ())
        reader.end()
        return rows

    def _check(self, rows: Sequence[Rows]) -> None:
        before, readings, series = -1, 0, self._series
        for block in rows:
            if not before < block.entry < len(self._meters) or not len(block.ts):
                raise ValueError(f"entry {block.entry}: blocks come by entry ascending, each with a row or more")
            before = block.entry
            layout = self._layouts[self._schema.set_of[block.entry]]
            count, width = len(block.ts), len(layout.columns)
            if len(block.slots) != count * width or len(block.quality) != count * width:
                raise ValueError(f"entry {block.entry}: its arrays do not fit together")
            if len(block.texts) != count * layout.strings:
                raise ValueError(f"entry {block.entry}: its arrays do not fit together")
            readings += count * max(width, 1)
            series += 0 if self._meters[block.entry].series else width
        if readings > self._most:
            raise ValueError(f"more than {self._most} readings in one batch")
        if series > MAX_SERIES:
            raise ValueError(f"more than {MAX_SERIES} columns in one chain")

    def _run(self, c: Coder, rows: Sequence[Rows]) -> list[Rows]:
        """A batch, both ways: its blocks."""
        waiting = {block.entry: block for block in rows}
        found: list[Rows] = []
        before, firsts = Before(), dict[int, list[int]]()
        left, was = self._most, 1
        for entry in range(len(self._meters)):
            m = self._meters[entry]
            was = simple(c, self._tables.cells, PRESENT + 2 * m.seen + was, entry in waiting)
            if was:
                if m.lent:
                    m = self._meters[entry] = m.copy()
                found.append(self._block(c, entry, waiting.get(entry), before, firsts, left))
                left -= max(len(found[-1].quality), len(found[-1].ts))
            m.seen = LATELY if was else BEFORE if m.seen == LATELY else m.seen
        return found

    def _block(
        self, c: Coder, entry: int, block: Rows | None, before: Before, firsts: dict[int, list[int]], left: int
    ) -> Rows:
        m, t = self._meters[entry], self._tables
        layout = self._layouts[self._schema.set_of[entry]]
        width = len(layout.columns)
        rows = row_count(c, t, m, before, len(block.ts) if block else 0)
        if rows < 1 or rows * max(width, 1) > left:
            raise PayloadError(f"a block has no rows, or all have more than {self._most} readings together")
        m.rows = rows
        if not m.series:
            self._series += width
            if self._series > MAX_SERIES:
                raise PayloadError(f"more than {MAX_SERIES} columns in one chain")
        meet(t, m, layout)
        if block is None:
            zeros = bytes(8 * rows)
            texts: list[str | None] = [None] * (rows * layout.strings)
            block = Rows(entry, array("q", zeros), array("q", zeros * width), bytearray(rows * width), texts)
        row_times(c, t, m, before, block.ts)
        row_qualities(c, t, m, block.quality, width)
        row_values(c, t, m, block, layout, firsts.setdefault(self._schema.set_of[entry], [0] * width))
        if block.texts:
            row_texts(c, t, m, block, layout.columns)
        return block
