"""Delta: codec 1 in pure Python, the oracle and fallback of native/series.pyx. Format: docs/payload.md.

Columnar: for each entry the times, the qualities, then each column's values as differences. What does not change
costs a byte or two a column, whatever the number of rows.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Rows, has_value
from parkfleet.protocols.payload.varint import MASK, Reader, fold, put, unfold

#: Readings a body may hold: 32 MB of slots. Runs make small bodies large; this bounds them.
MAX_READINGS: Final = 4_000_000
MAX_TEXT: Final = 256  # bytes; 64 registers are 128
ALL_GOOD, ALL_SAME, RUNS = 0, 1, 2
INTEGERS, BITS, TEXTS, DECIMALS = 0, 1, 2, 16  # DECIMALS + d: integers of 10^-d
MAX_DIGITS: Final = 9


def encode(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """The body of a batch. rows: by entry ascending, each with at least one row."""
    out = bytearray()
    put(out, len(rows))
    entry, base = -1, 0
    for block in rows:
        columns = schema.entries[block.entry].columns
        put(out, block.entry - entry - 1)
        put(out, len(block.ts))
        _put_times(out, block.ts, base)
        entry, base = block.entry, block.ts[0]
        count = len(columns)
        qualities = [code for index in range(count) for code in block.quality[index::count]]
        _put_qualities(out, qualities)
        strings = [index for index, column in enumerate(columns) if column.type == "string"]
        for index, column in enumerate(columns):
            present = [row for row, code in enumerate(block.quality[index::count]) if has_value(code)]
            if not present:
                continue
            if column.type == "string":
                texts = block.texts[strings.index(index) :: len(strings)]
                _put_texts(out, [texts[row] or "" for row in present])
            else:
                slots = block.slots[index::count]
                _put_values(out, column, [slots[row] for row in present])
    return bytes(out)


def decode(schema: Schema, body: bytes) -> list[Rows]:
    """The rows of a body. Raises PayloadError, and nothing else, for whatever is none."""
    reader = Reader(body)
    blocks = reader.varint()
    if blocks > len(schema.entries):
        raise PayloadError(f"{blocks} blocks for {len(schema.entries)} entries")
    rows: list[Rows] = []
    entry, base, readings = -1, 0, 0
    for _ in range(blocks):
        entry += reader.varint() + 1
        if entry >= len(schema.entries):
            raise PayloadError(f"entry {entry} is not in the schema")
        columns = schema.entries[entry].columns
        count = reader.varint()
        readings += count * max(len(columns), 1)
        if not count or readings > MAX_READINGS:
            raise PayloadError(f"a block of {count} rows: from 1, and at most {MAX_READINGS} readings together")
        rows.append(_take_block(reader, entry, columns, count, base))
        base = rows[-1].ts[0]
    if reader.rest:
        raise PayloadError(f"{reader.rest} bytes too many behind the last block")
    return rows


def _take_block(reader: Reader, entry: int, columns: Sequence[Column], count: int, base: int) -> Rows:
    width = len(columns)
    ts = _take_times(reader, count, base)
    quality = bytearray(count * width)
    codes = _take_qualities(reader, count * width)
    strings = [index for index, column in enumerate(columns) if column.type == "string"]
    slots = array("q", bytes(8 * count * width))
    texts: list[str | None] = [None] * (count * len(strings))
    for index, column in enumerate(columns):
        own = codes[index * count : (index + 1) * count]
        quality[index::width] = own
        present = [row for row, code in enumerate(own) if has_value(code)]
        if not present:
            continue
        if column.type == "string":
            for row, text in zip(present, _take_texts(reader, len(present)), strict=True):
                texts[row * len(strings) + strings.index(index)] = text
        else:
            for row, slot in zip(present, _take_values(reader, column, len(present)), strict=True):
                slots[row * width + index] = slot
    return Rows(entry, ts, slots, quality, texts)


def _put_times(out: bytearray, ts: Sequence[int], base: int) -> None:
    """The first as a difference to the block before, then differences of differences: regular times are zeros."""
    put(out, fold(ts[0] - base))
    steps = [b - a for a, b in pairwise(ts)]
    _put_runs(out, [b - a for a, b in pairwise([0, *steps])])


def _take_times(reader: Reader, count: int, base: int) -> "array[int]":
    now = base + unfold(reader.varint())
    step, ts = 0, [now]
    for change in _take_runs(reader, count - 1):
        step = _signed(step + change)
        now = _signed(now + step)
        ts.append(now)
    return array("q", [_signed(stamp) for stamp in ts])


def _put_qualities(out: bytearray, codes: Sequence[int]) -> None:
    if not any(codes):
        out.append(ALL_GOOD)
        return
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code:
            runs[-1][0] += 1
        else:
            runs.append([1, code])
    if len(runs) == 1:
        out += bytes([ALL_SAME, runs[0][1]])
        return
    out.append(RUNS)
    for length, code in runs:
        put(out, length)
        out.append(code)


def _take_qualities(reader: Reader, count: int) -> bytes:
    kind = reader.byte()
    if kind == ALL_GOOD:
        return bytes(count)
    if kind == ALL_SAME:
        return bytes([reader.byte()]) * count
    if kind != RUNS:
        raise PayloadError(f"unknown coding of qualities {kind}")
    codes = bytearray()
    while len(codes) < count:
        length = reader.varint()
        if not 1 <= length <= count - len(codes):
            raise PayloadError("a run of qualities has no sound length")
        codes += bytes([reader.byte()]) * length
    return bytes(codes)


def _put_values(out: bytearray, column: Column, slots: list[int]) -> None:
    if column.type not in ("float32", "float64"):
        out.append(INTEGERS)
        _put_deltas(out, slots)
        return
    digits, integers = _as_decimals(column, slots)
    if digits < 0:
        out.append(BITS)
        size = 4 if column.type == "float32" else 8
        before = 0
        for slot in slots:
            put(out, int.from_bytes(((slot ^ before) & (1 << 8 * size) - 1).to_bytes(size, "little"), "big"))
            before = slot
    else:
        out.append(DECIMALS + digits)
        _put_deltas(out, integers)


def _take_values(reader: Reader, column: Column, count: int) -> Iterator[int]:
    kind = reader.byte()
    is_float = column.type in ("float32", "float64")
    if kind == INTEGERS and not is_float:
        yield from _take_deltas(reader, count)
    elif kind == BITS and is_float:
        size = 4 if column.type == "float32" else 8
        slot = 0
        for _ in range(count):
            turned = reader.varint()
            if turned >> 8 * size:
                raise PayloadError("a float has more bits than its type")
            slot ^= int.from_bytes(turned.to_bytes(size, "little"), "big")
            yield slot if size == 4 else _signed(slot)
    elif DECIMALS <= kind <= DECIMALS + MAX_DIGITS and is_float:
        for integer in _take_deltas(reader, count):
            if abs(integer) >= 2**53:
                raise PayloadError("a decimal is beyond 2^53")
            yield _to_bits(column, integer / 10 ** (kind - DECIMALS))
    else:
        raise PayloadError(f"unknown coding {kind} of a column of type {column.type}")


def _as_decimals(column: Column, slots: list[int]) -> tuple[int, list[int]]:
    """(d, integers) when every value's bits come back from integer / 10^d; d = -1 when for no d."""
    layout = ("<I", "<f") if column.type == "float32" else ("<q", "<d")
    values = [struct.unpack(layout[1], struct.pack(layout[0], slot))[0] for slot in slots]
    limit = 2.0**53
    for digits in dict.fromkeys([column.digits, *range(7)]):
        if not 0 <= digits <= MAX_DIGITS:
            continue
        power = 10**digits
        if all(abs(value) * power < limit for value in values):  # also false for NaN
            integers = [round(value * power) for value in values]
            if all(_to_bits(column, n / power) == slot for n, slot in zip(integers, slots, strict=True)):
                return digits, integers
    return -1, []


def _to_bits(column: Column, value: float) -> int:
    """The slot of a float; what float32 cannot hold becomes infinity, as in C."""
    if column.type == "float64":
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        return 0xFF80_0000 if value < 0 else 0x7F80_0000


def _put_deltas(out: bytearray, numbers: Sequence[int]) -> None:
    before = 0
    changes = []
    for number in numbers:
        changes.append(number - before)
        before = number
    _put_runs(out, changes)


def _take_deltas(reader: Reader, count: int) -> Iterator[int]:
    number = 0
    for change in _take_runs(reader, count):
        number = _signed(number + change)
        yield number


def _put_runs(out: bytearray, changes: Sequence[int]) -> None:
    """Folded changes; a 0 is followed by how many more zeros follow it."""
    at = 0
    while at < len(changes):
        put(out, fold(changes[at]))
        if fold(changes[at]) == 0:
            zeros = at + 1
            while zeros < len(changes) and fold(changes[zeros]) == 0:
                zeros += 1
            put(out, zeros - at - 1)
            at = zeros - 1
        at += 1


def _take_runs(reader: Reader, count: int) -> Iterator[int]:
    while count > 0:
        change = unfold(reader.varint())
        yield change
        count -= 1
        if change == 0:
            zeros = reader.varint()
            if zeros > count:
                raise PayloadError("a run is longer than its column")
            for _ in range(zeros):
                yield 0
            count -= zeros


def _put_texts(out: bytearray, texts: Sequence[str]) -> None:
    """0 for "as before", otherwise the length of its UTF-8 plus one and the bytes."""
    before: str | None = None
    for text in texts:
        if text == before:
            put(out, 0)
        else:
            data = text.encode("utf-8", "replace")[:MAX_TEXT]
            put(out, len(data) + 1)
            out += data
        before = text


def _take_texts(reader: Reader, count: int) -> Iterator[str]:
    text = ""
    for _ in range(count):
        length = reader.varint()
        if length > MAX_TEXT + 1:
            raise PayloadError(f"a text of {length - 1} bytes: at most {MAX_TEXT}")
        if length:
            text = reader.take(length - 1).decode("utf-8", "replace")
        yield text


def _signed(number: int) -> int:
    number &= MASK
    return number - (1 << 64) if number >> 63 else number
