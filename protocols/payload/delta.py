"""Delta: codec 1 in pure Python, the oracle and fallback of native/series.pyx. Format: docs/payload.md.

Columnar: for each entry the times, the qualities, then each column's values as differences. What does not change
costs two bytes a column, whatever the number of rows. Both sides remember, for each column of a column set, how its
values were coded and what the first of them was in the block before: the next of many equal meters begins near it.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Final

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import MAX_READINGS, Column, Rows, has_value
from parkfleet.protocols.payload.varint import MASK, Reader, fold, put, unfold

#: Bytes of a text. 64 registers are 128 bytes; each may be no UTF-8 and become a U+FFFD of three.
MAX_TEXT: Final = 512
#: How a block's qualities are coded.
ALL_GOOD, ALL_SAME, BY_COLUMN, BY_ROW = 0, 1, 2, 3
#: How a float column's values are coded: 0 to MAX_DIGITS, integers of 10^-d; or their bit patterns.
MAX_DIGITS: Final = 9
PATTERNS: Final = 15
#: Digits an encoder tries when a column names none, or wrong ones: more never pay for themselves beside PATTERNS.
TRIED_DIGITS: Final = range(7)
#: Below it every integer is a double.
EXACT: Final = 2**53
#: Bytes by which a column says that its coding changes.
CHANGE_BYTES: Final = 2
_LOWEST: Final = -(2**63)


class _Memory:
    """What both sides know of a column set from the blocks before, column by column."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.codings = [column.digits if 0 <= column.digits <= MAX_DIGITS else 0 for column in columns]
        self.firsts = [0] * len(columns)
        self.has_floats = any(_is_float(column) for column in columns)

    def change(self, index: int, coding: int) -> None:
        """From here on the column is coded otherwise."""
        self.codings[index], self.firsts[index] = coding, 0


@dataclass
class _Before:
    """What both sides know from the block before."""

    entry: int = -1
    rows: int = 0
    first: int = 0  # ms UTC: its first row
    step: int = 0  # ms: between its last two rows
    memories: dict[int, _Memory] = field(default_factory=dict)  # by column set

    def memory(self, schema: Schema, entry: int) -> _Memory:
        """The memory of an entry's column set."""
        index = schema.set_of[entry]
        if index not in self.memories:
            self.memories[index] = _Memory(schema.entries[entry].columns)
        return self.memories[index]


def encode(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """The body of a batch. rows: by entry ascending, each with at least one row. Raises ValueError for other rows."""
    out = bytearray()
    put(out, len(rows))
    before = _Before()
    readings = 0
    for block in rows:
        columns = schema.entries[block.entry].columns
        readings += _check(block, columns, before)
        if readings > MAX_READINGS:
            raise ValueError(f"more than {MAX_READINGS} readings in one batch")
        same = len(block.ts) == before.rows
        put(out, (block.entry - before.entry - 1) << 1 | same)
        if not same:
            put(out, len(block.ts))
        _put_times(out, block.ts, before)
        before.entry, before.rows = block.entry, len(block.ts)
        _put_qualities(out, block.quality, len(columns))
        _put_columns(out, block, columns, before.memory(schema, block.entry))
    return bytes(out)


def decode(schema: Schema, body: bytes) -> list[Rows]:
    """The rows of a body. Raises PayloadError, and nothing else, for whatever is none."""
    reader = Reader(body)
    blocks = reader.varint()
    if blocks > len(schema.entries):
        raise PayloadError("more blocks than the schema has entries")
    rows: list[Rows] = []
    before = _Before()
    readings = 0
    for _ in range(blocks):
        head = reader.varint()
        before.entry += (head >> 1) + 1
        if before.entry >= len(schema.entries):
            raise PayloadError("an entry is not in the schema")
        columns = schema.entries[before.entry].columns
        before.rows = before.rows if head & 1 else reader.varint()
        readings += before.rows * max(len(columns), 1)
        if not before.rows or readings > MAX_READINGS:
            raise PayloadError(f"a block has no rows, or all have more than {MAX_READINGS} readings together")
        ts = _take_times(reader, before)
        quality = _take_qualities(reader, before.rows, len(columns))
        rows.append(Rows(before.entry, ts, array("q", bytes(8 * len(quality))), quality))
        _take_columns(reader, rows[-1], columns, before.memory(schema, before.entry))
    if reader.rest:
        raise PayloadError("bytes too many behind the last block")
    return rows


def _check(block: Rows, columns: Sequence[Column], before: _Before) -> int:
    """Readings of a block (at least one a row). Raises ValueError for one that cannot be encoded."""
    rows, width = len(block.ts), len(columns)
    strings = sum(column.type == "string" for column in columns)
    if block.entry <= before.entry or not rows:
        raise ValueError(f"entry {block.entry}: blocks come by entry ascending, each with a row or more")
    if len(block.slots) != rows * width or len(block.quality) != rows * width or len(block.texts) != rows * strings:
        raise ValueError(f"entry {block.entry}: its arrays do not fit together")
    return rows * max(width, 1)


def _put_times(out: bytearray, ts: Sequence[int], before: _Before) -> None:
    """The first as a difference to the block before, then differences of steps: regular times are zeros."""
    put(out, fold(ts[0] - before.first))
    steps = [before.step, *[b - a for a, b in pairwise(ts)]]
    _put_changes(out, [b - a for a, b in pairwise(steps)])
    before.first, before.step = ts[0], _signed(steps[-1])


def _take_times(reader: Reader, before: _Before) -> "array[int]":
    before.first = _signed(before.first + unfold(reader.varint()))
    steps = list(accumulate(_take_changes(reader, before.rows - 1), initial=before.step))
    before.step = _signed(steps[-1])
    return array("q", map(_signed, accumulate(steps[1:], initial=before.first)))


def _put_qualities(out: bytearray, quality: bytearray, width: int) -> None:
    """All good, all the same, or runs: down the columns (a sick point) or along the rows (a meter that fell silent)."""
    if not any(quality):
        out.append(ALL_GOOD)
    elif len(set(quality)) == 1:
        out += bytes([ALL_SAME, quality[0]])
    else:
        by_column = _quality_runs(BY_COLUMN, [code for index in range(width) for code in quality[index::width]])
        by_row = _quality_runs(BY_ROW, quality)
        out += min(by_column, by_row, key=len)


def _quality_runs(kind: int, codes: Iterable[int]) -> bytearray:
    out = bytearray([kind])
    for code, run in groupby(codes):
        put(out, sum(1 for _ in run))
        out.append(code)
    return out


def _take_qualities(reader: Reader, rows: int, width: int) -> bytearray:
    count = rows * width
    kind = reader.byte()
    if kind == ALL_GOOD:
        return bytearray(count)
    if kind == ALL_SAME:
        return bytearray([reader.byte()]) * count
    if kind not in (BY_COLUMN, BY_ROW):
        raise PayloadError("unknown coding of qualities")
    codes = bytearray()
    while len(codes) < count:
        length = reader.varint()
        if not 1 <= length <= count - len(codes):
            raise PayloadError("a run of qualities has no sound length")
        codes += bytes([reader.byte()]) * length
    if kind == BY_ROW:
        return codes
    quality = bytearray(count)
    for index in range(width):
        quality[index::width] = codes[index * rows : (index + 1) * rows]
    return quality


def _put_columns(out: bytearray, block: Rows, columns: Sequence[Column], memory: _Memory) -> None:
    """First which float columns change their coding, then the values of each column."""
    changes, values = bytearray(), bytearray()
    changed, last, string = 0, -1, 0
    strings = sum(column.type == "string" for column in columns)
    for index, column in enumerate(columns):
        present = _present(block.quality, index, len(columns))
        if column.type == "string":
            texts = block.texts[string::strings]
            string += 1
            _put_texts(values, [texts[row] or "" for row in present])
        elif present:
            own = block.slots[index :: len(columns)]
            numbers = [own[row] for row in present]
            if _is_float(column):
                coding, numbers = _choose(column, numbers, memory.codings[index], memory.firsts[index])
                if coding != memory.codings[index]:
                    put(changes, index - last - 1)
                    changes.append(coding)
                    changed, last = changed + 1, index
                    memory.change(index, coding)
            values += _deltas(numbers, memory.firsts[index])
            memory.firsts[index] = numbers[0]
    if memory.has_floats:
        put(out, changed)
        out += changes
    out += values


def _take_columns(reader: Reader, block: Rows, columns: Sequence[Column], memory: _Memory) -> None:
    if memory.has_floats:
        _take_codings(reader, columns, memory)
    strings = sum(column.type == "string" for column in columns)
    block.texts = [None] * (len(block.ts) * strings)
    string = 0
    for index, column in enumerate(columns):
        present = _present(block.quality, index, len(columns))
        if column.type == "string":
            for row, text in zip(present, _take_texts(reader, len(present)), strict=True):
                block.texts[row * strings + string] = text
            string += 1
        elif present:
            numbers = _take_deltas(reader, len(present), memory.firsts[index])
            memory.firsts[index] = numbers[0]
            slots = _slots(column, numbers, memory.codings[index]) if _is_float(column) else numbers
            for row, slot in zip(present, slots, strict=True):
                block.slots[row * len(columns) + index] = slot


def _take_codings(reader: Reader, columns: Sequence[Column], memory: _Memory) -> None:
    """The columns whose coding changes, each with its new one."""
    index = -1
    for _ in range(reader.varint()):  # ends with the columns at the latest
        index += reader.varint() + 1
        if index >= len(columns) or not _is_float(columns[index]):
            raise PayloadError("a coding is for no float column")
        coding = reader.byte()
        if coding > MAX_DIGITS and coding != PATTERNS:
            raise PayloadError("unknown coding of a float column")
        memory.change(index, coding)


def _present(quality: bytearray, index: int, width: int) -> Sequence[int]:
    """The rows in which a column has a value."""
    own = quality[index::width]
    return range(len(own)) if not any(own) else [row for row, code in enumerate(own) if has_value(code)]


def _is_float(column: Column) -> bool:
    return column.type in ("float32", "float64")


def _choose(column: Column, slots: list[int], before: int, first: int) -> tuple[int, list[int]]:
    """(coding, integers): the coding of the block before where it is exact decimals, otherwise what is shortest."""
    values = _floats(column, slots)
    if before != PATTERNS and (integers := _decimals(column, slots, values, before)) is not None:
        return before, integers
    patterns = [slot & 0xFFFF_FFFF for slot in slots] if column.type == "float32" else slots
    same = before == PATTERNS
    size = len(_deltas(patterns, first if same else 0)) + (0 if same else CHANGE_BYTES)
    for digits in (column.digits, *TRIED_DIGITS):
        if 0 <= digits <= MAX_DIGITS and (integers := _decimals(column, slots, values, digits)) is not None:
            if len(_deltas(integers, 0)) + CHANGE_BYTES <= size:
                return digits, integers
            break
    return PATTERNS, patterns


def _decimals(column: Column, slots: list[int], values: Sequence[float], digits: int) -> list[int] | None:
    """Integers of 10^-digits from which every slot comes back to the bit; None where one would not."""
    power = 10.0**digits
    if not all(abs(value) * power < EXACT for value in values):  # also for NaN
        return None
    integers = [round(value * power) for value in values]
    return integers if _slots(column, integers, digits) == [slot & _mask(column) for slot in slots] else None


def exact_decimals(column: Column, slots: list[int], digits: int) -> list[int] | None:
    """Integers of 10^-digits from which each slot of a float column comes back to the bit; None where one would not."""
    return _decimals(column, slots, _floats(column, slots), digits)


def float_slots(column: Column, integers: list[int], coding: int) -> list[int]:
    """The slots of a float column's integers. Raises PayloadError beyond 2^53."""
    return _slots(column, integers, coding)


def _slots(column: Column, integers: list[int], coding: int) -> list[int]:
    """The slots of a float column's integers; float64 as signed numbers, in which _decimals compares them too."""
    if coding == PATTERNS:
        return [number & 0xFFFF_FFFF for number in integers] if column.type == "float32" else integers
    if not all(-EXACT < number < EXACT for number in integers):
        raise PayloadError("a decimal is beyond 2^53")
    power = 10.0**coding
    values = [number / power for number in integers]
    size = "f" if column.type == "float32" else "d"
    pattern = "I" if column.type == "float32" else "q"
    return list(struct.unpack(f"<{len(values)}{pattern}", struct.pack(f"<{len(values)}{size}", *values)))


def _mask(column: Column) -> int:
    return 0xFFFF_FFFF if column.type == "float32" else -1


def _floats(column: Column, slots: list[int]) -> tuple[float, ...]:
    if column.type == "float32":
        return struct.unpack(f"<{len(slots)}f", struct.pack(f"<{len(slots)}I", *[n & 0xFFFF_FFFF for n in slots]))
    return struct.unpack(f"<{len(slots)}d", struct.pack(f"<{len(slots)}q", *slots))


def _deltas(numbers: Sequence[int], before: int) -> bytearray:
    out = bytearray()
    _put_changes(out, [b - a for a, b in pairwise([before, *numbers])])
    return out


def _take_deltas(reader: Reader, count: int, before: int) -> list[int]:
    return [_signed(number) for number in accumulate(_take_changes(reader, count), initial=before)][1:]


def _put_changes(out: bytearray, changes: Sequence[int]) -> None:
    """Each folded, plus one; but two zeros or more are 0 and their number less one, and -2^63 is 0 and 0."""
    for folded, run in groupby(map(fold, changes)):
        count = sum(1 for _ in run)
        if folded == 0 and count > 1:
            out.append(0)
            put(out, count - 1)
        elif folded == MASK:
            out += bytes(2 * count)
        else:
            for _ in range(count):
                put(out, folded + 1)


def _take_changes(reader: Reader, count: int) -> list[int]:
    changes: list[int] = []
    while len(changes) < count:
        token = reader.varint()
        if token:
            changes.append(unfold(token - 1))
            continue
        more = reader.varint()
        if more >= count - len(changes):
            raise PayloadError("a run is longer than its column")
        changes += [0] * (more + 1) if more else [_LOWEST]
    return changes


def _put_texts(out: bytearray, texts: Sequence[str]) -> None:
    """0 for "as before" (at first: empty), otherwise the length of its UTF-8 plus one and the bytes."""
    before = b""
    for text in texts:
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_TEXT:  # no point has so much: cut between two characters rather than lose the batch
            data = data[:MAX_TEXT].decode("utf-8", "ignore").encode()
        if data == before:
            put(out, 0)
        else:
            put(out, len(data) + 1)
            out += data
        before = data


def _take_texts(reader: Reader, count: int) -> Iterator[str]:
    text = ""
    for _ in range(count):
        length = reader.varint()
        if length > MAX_TEXT + 1:
            raise PayloadError(f"a text is longer than {MAX_TEXT} bytes")
        if length:
            try:
                text = reader.take(length - 1).decode()
            except UnicodeDecodeError:
                raise PayloadError("a text is no UTF-8") from None
        yield text


def _signed(number: int) -> int:
    number &= MASK
    return number - (1 << 64) if number >> 63 else number
