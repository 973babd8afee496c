"""Blocks: the rows of one entry in a batch: count, times, qualities, grains, values. Oracle of native/blocks.pxd.

Every function serves both ways, see rangecoder.py.
"""

from array import array
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from typing import Final

from parkfleet.protocols.payload.chain.forecast import Beside, Series
from parkfleet.protocols.payload.chain.layout import Layout
from parkfleet.protocols.payload.chain.mixing import Tables, simple
from parkfleet.protocols.payload.chain.numbers import NUMBER, SPAN, number, signed, span, tree
from parkfleet.protocols.payload.chain.rangecoder import Coder
from parkfleet.protocols.payload.chain.values import NODES, OWN, QUANTITIES, VALUE_CELLS, first_value, next_value
from parkfleet.protocols.payload.delta import MAX_DIGITS, MAX_TEXT, PATTERNS, TRIED_DIGITS, exact_decimals, float_slots
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.series import Column, Rows, has_value

EPOCH: Final = 1_767_225_600_000  # 2026-01-01 in ms: first times count from here
LARGE: Final = 1 << 62  # from it on numbers have no grain
COARSE: Final = 1 << 40  # the largest grain
LEAST_GRAIN: Final = 4
LEAST_CHANGES: Final = 4

#: Cells beside those of values.py.
PRESENT: Final = VALUE_CELLS  # 4 × 2
SAME_ROWS: Final = PRESENT + 8  # 3
ON_TIME: Final = SAME_ROWS + 3  # 5
IN_STEP: Final = ON_TIME + 5  # 2
ALL_GOOD: Final = IN_STEP + 2  # 3
AS_ABOVE: Final = ALL_GOOD + 3  # 2 × 2
AS_LEFT: Final = AS_ABOVE + 4
AS_CODED: Final = AS_LEFT + 1  # 2
SAME_TEXT: Final = AS_CODED + 2
CODING: Final = SAME_TEXT + 1  # 16
QUALITY: Final = CODING + 16  # 256
TEXT: Final = QUALITY + 256  # 256
ROWS: Final = TEXT + 256
START: Final = ROWS + NUMBER
LATE: Final = START + SPAN
STEP: Final = LATE + SPAN
GRAIN: Final = STEP + SPAN
REST: Final = GRAIN + NUMBER
LENGTH: Final = REST + NUMBER
ROWS_AGAIN: Final = LENGTH + NUMBER
AGAIN: Final = ROWS_AGAIN + NUMBER
CELLS: Final = AGAIN + SPAN

NEVER: Final = 0  # an entry has been in no batch since the key
BEFORE: Final = 1  # in one, but not in the batch before
LATELY: Final = 2  # in the batch before
AWAY: Final = 3  # in none since a pause


@dataclass(slots=True)
class Meter:
    """An entry, as the chain knows it."""

    seen: int = NEVER
    lent: bool = False  # it is another chain's
    good: int = 0  # whether all its qualities were, in the block before
    rows: int = 0
    ts: int = 0  # of the last row
    before: int = 0  # of the last row, when the block began
    step: int = 0
    series: list[Series] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)  # the last of each string column

    def copy(self) -> "Meter":
        """The same, with nothing in common."""
        new = copy(self)
        new.lent, new.series, new.texts = False, [series.copy() for series in self.series], list(self.texts)
        return new


@dataclass(slots=True)
class Before:
    """The block before in the same batch."""

    any: bool = False
    rows: int = 0
    first: int = 0
    step: int = 0
    returned: bool = False  # an entry has come again after a pause
    late: int = 0  # how far behind its step


def meet(t: Tables, m: Meter, layout: Layout) -> None:
    """Room for what is known of an entry's columns; a series' own cells begin as its quantity's are."""
    if m.series or m.texts:
        return
    for column, quantity in zip(layout.columns, layout.quantities, strict=True):
        hint = column.digits if column.type in ("float32", "float64") and 0 <= column.digits <= MAX_DIGITS else 0
        m.series.append(Series(len(t.cells), hint))
        for cells in (OWN + quantity * NODES, OWN + (QUANTITIES + quantity) * NODES):
            t.cells += t.cells[cells : cells + NODES]
    m.texts = [b""] * layout.strings


def row_count(c: Coder, t: Tables, m: Meter, before: Before, rows: int) -> int:
    """How many rows the block has."""
    knows = 2 if m.seen == AWAY else int(m.rows == 0)
    expected = before.rows if knows and before.any else m.rows
    if simple(c, t.cells, SAME_ROWS + knows, rows == expected):
        return expected
    return number(c, t.cells, ROWS_AGAIN if m.seen == AWAY else ROWS, rows)


def row_times(c: Coder, t: Tables, m: Meter, before: Before, ts: "array[int]") -> None:
    """The first as its entry's step, or the block before, says; then steps, against the regular one."""
    cells = t.cells
    knows, expected = 2, EPOCH
    if m.seen == AWAY:
        knows, expected = 3 + before.returned, signed(m.ts + m.step + before.late)
    elif m.seen:
        knows, expected = 0, signed(m.ts + m.step)
    elif before.any:
        knows, expected, m.step = 1, before.first, before.step
    if simple(c, cells, ON_TIME + knows, ts[0] == expected):
        ts[0] = expected
    else:
        place = START if knows == 2 else AGAIN if knows == 3 else LATE
        ts[0] = signed(expected + span(c, cells, place, signed(ts[0] - expected)))
    if m.seen == AWAY:
        before.returned, before.late = True, signed(ts[0] - m.ts - m.step)
    previous, odd = m.step, 0
    for row in range(1, len(ts)):
        step = signed(ts[row] - ts[row - 1])
        if simple(c, cells, IN_STEP + odd, step == m.step):
            step, odd = m.step, 0
        else:
            step, odd = signed(m.step + span(c, cells, STEP, signed(step - m.step))), 1
            if step == previous or m.step == 0:
                m.step = step
        ts[row] = signed(ts[row - 1] + step)
        previous = step
    m.before, m.ts = m.ts, ts[-1]
    before.any, before.rows, before.first, before.step = True, len(ts), ts[0], m.step


def row_qualities(c: Coder, t: Tables, m: Meter, quality: bytearray, width: int) -> None:
    """All good; or each as the one above it, as the one left of it, or its code."""
    cells = t.cells
    good = simple(c, cells, ALL_GOOD + (1 + m.good if m.seen else 0), not any(quality))
    m.good = good
    if good:
        for s in m.series:
            s.quality = 0
        return
    left = odd = 0
    for at in range(len(quality)):
        s = m.series[at % width]
        above = s.quality
        if at % width == 0:
            left, odd = above, 0
        if simple(c, cells, AS_ABOVE + 2 * odd + (left == above), quality[at] == above):
            quality[at], odd = above, 0
        else:
            odd = 1
            if left != above and simple(c, cells, AS_LEFT, quality[at] == left):
                quality[at] = left
            else:
                quality[at] = tree(c, cells, QUALITY, 8, quality[at])
        left = s.quality = quality[at]


def _choose_coding(column: Column, slots: list[int], before: int) -> tuple[int, list[int]]:
    """The coding of the block before while it is exact, otherwise the hint's or the fewest digits, then patterns."""
    for digits in (before, column.digits, *TRIED_DIGITS):
        if 0 <= digits <= MAX_DIGITS and (numbers := exact_decimals(column, slots, digits)) is not None:
            return digits, numbers
    return PATTERNS, [slot & 0xFFFF_FFFF for slot in slots] if column.type == "float32" else slots


def _find_grain(numbers: Sequence[int], grain: int, rest: int) -> tuple[int, int]:
    """The largest step that all numbers keep; stays as it was while that fits; 1 and 0 where none pays."""
    if any(not -LARGE < value < LARGE for value in numbers):
        # The compiled one stops looking where no grain is left: 1 and 0 all the same.
        return 1, 0
    if not numbers:
        return grain, rest
    first = numbers[0]
    found = gcd(*(value - first for value in numbers))
    if grain > 1 and found % grain == 0 and (first - rest) % grain == 0:
        return grain, rest
    changes = sum(a != b for a, b in pairwise(numbers))
    if changes >= LEAST_CHANGES and LEAST_GRAIN <= found <= COARSE:
        return found, first % found
    return 1, 0


def _column_coding(c: Coder, t: Tables, s: Series, is_float: bool, coding: int, grain: int, rest: int) -> None:
    """Whether coding, grain and rest are as before; what they are. The numbers before are said anew in them."""
    cells = t.cells
    if simple(c, cells, AS_CODED + (s.seen > 0), (coding, grain, rest) == (s.coding, s.grain, s.rest)):
        return
    coding = tree(c, cells, CODING, 4, coding) if is_float else s.coding
    unknown = is_float and coding > MAX_DIGITS and coding != PATTERNS
    grain = number(c, cells, GRAIN, grain)
    rest = number(c, cells, REST, rest)
    if unknown:
        raise PayloadError("unknown coding of a float column")
    if not 1 <= grain <= COARSE or not 0 <= rest < grain:
        raise PayloadError("a column has an impossible grain")
    s.last, s.first, s.mean = (
        0 if coding != s.coding else signed(signed(known * s.grain + s.rest) - rest) // grain
        for known in (s.last, s.first, s.mean)
    )
    s.change = s.change_before = 0
    s.coding, s.grain, s.rest = coding, grain, rest


def row_values(c: Coder, t: Tables, m: Meter, block: Rows, layout: Layout, firsts: list[int]) -> None:
    """All numbers of a block, row by row. firsts: of the column set, in this batch."""
    width = len(layout.columns)
    numbers: list[list[int]] = []  # by column, of the rows that have a value, last first
    for index, (column, s) in enumerate(zip(layout.columns, m.series, strict=True)):
        if column.type == "string":
            numbers.append([])
            continue
        is_float = column.type in ("float32", "float64")
        own: list[int] = []
        coding, grain, rest = s.coding, s.grain, s.rest
        if not c.decoding:
            qualities = block.quality[index::width]
            own = [slot for slot, code in zip(block.slots[index::width], qualities, strict=True) if has_value(code)]
            if is_float:
                coding, own = _choose_coding(column, own, coding)
            if coding != s.coding:
                grain, rest = 1, 0
            grain, rest = _find_grain(own, grain, rest)
        _column_coding(c, t, s, is_float, coding, grain, rest)
        numbers.append([signed(value - s.rest) // s.grain for value in reversed(own)])
    valued = [index for index, column in enumerate(layout.columns) if column.type != "string"]
    for row in range(len(block.ts)):
        _row(c, t, m, block, row, layout, valued, numbers, firsts)
    if c.decoding:
        _floats_to_slots(m, block, layout.columns)


def _row(
    c: Coder,
    t: Tables,
    m: Meter,
    block: Rows,
    row: int,
    layout: Layout,
    valued: list[int],
    numbers: list[list[int]],
    firsts: list[int],
) -> None:
    ts, start = block.ts[row], row * len(layout.columns)
    beside = Beside(ts >> 10, signed(ts - m.before) >> 10)
    for index in valued:
        if not has_value(block.quality[start + index]):
            beside.pass_by(0, 0, 0)
            continue
        s, kind, quantity = m.series[index], layout.kinds[index], layout.quantities[index]
        value = 0 if c.decoding else numbers[index].pop()
        if s.seen:
            value = next_value(c, t, s, kind, quantity, beside, value)
        else:
            value = firsts[index] = first_value(c, t, s, quantity, beside, firsts[index], value)
        if c.decoding:
            block.slots[start + index] = signed(value * s.grain + s.rest)


def _floats_to_slots(m: Meter, block: Rows, columns: Sequence[Column]) -> None:
    """Decoding: the integers of float columns become slots."""
    width = len(columns)
    for index, (column, s) in enumerate(zip(columns, m.series, strict=True)):
        if column.type in ("float32", "float64"):
            rows = [at for at in range(index, len(block.slots), width) if has_value(block.quality[at])]
            for at, slot in zip(rows, float_slots(column, [block.slots[at] for at in rows], s.coding), strict=True):
                block.slots[at] = slot


def row_texts(c: Coder, t: Tables, m: Meter, block: Rows, columns: Sequence[Column]) -> None:
    """Column by column: whether a text is as the one before it; its length and bytes."""
    strings = [index for index, column in enumerate(columns) if column.type == "string"]
    for string, index in enumerate(strings):
        for row in range(len(block.ts)):
            if has_value(block.quality[row * len(columns) + index]):
                at = row * len(strings) + string
                data = b"" if c.decoding else _as_bytes(block.texts[at] or "")
                if not simple(c, t.cells, SAME_TEXT, data == m.texts[string]):
                    m.texts[string] = _text(c, t, data)
                if c.decoding:
                    block.texts[at] = _decoded(m.texts[string])


def _text(c: Coder, t: Tables, data: bytes) -> bytes:
    length = number(c, t.cells, LENGTH, len(data))
    if length > MAX_TEXT:
        raise PayloadError(f"a text is longer than {MAX_TEXT} bytes")
    data = data.ljust(length, b"\0")
    return bytes(tree(c, t.cells, TEXT, 8, byte) for byte in data)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PayloadError("a text is no UTF-8") from None


def _as_bytes(text: str) -> bytes:
    """UTF-8; what is too long is cut between two characters rather than that a batch is lost."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= MAX_TEXT else data[:MAX_TEXT].decode("utf-8", "ignore").encode()
