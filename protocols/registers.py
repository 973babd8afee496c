"""Registers: what a point's registers mean, both ways, slow and clear.

`decode` turns registers into a slot (see payload/series.py) and a quality, `encode` a slot into registers
(simulated meters, tests). native/ has the fast decoder; this one is its oracle.

Orders, for a 32-bit value whose big-endian bytes are A B C D (C D is the second register of the ABCD order):
ABCD big-endian, CDAB low word first, BADC bytes swapped in each register, DCBA little-endian. Longer values
follow the same two rules: word order reversed or not, bytes in each word swapped or not.
"""

import struct
from collections.abc import Sequence

from parkfleet.protocols.payload.series import Column, ColumnType, Value
from parkfleet.protocols.profile import Point
from parkfleet.protocols.quality import Quality

_INTEGER_BITS = {"int16": 16, "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64}


def column_of(point: Point) -> Column:
    """The column a point is in a batch."""
    factor = point.factor
    digits = -1 if point.decimals is None else point.decimals
    return Column(point.id, point.unit, _column_type(point), point.kind, factor, digits)


def decode(point: Point, words: Sequence[int]) -> tuple[int, Quality, str | None]:
    """(slot, quality, text) of a point's registers, or of its bits in a coil or discrete table.

    `invalid` codes are compared with the slot; those of a signed or float type may also be written unsigned.
    """
    if point.type == "bool":
        return int(bool(words[0])), Quality.GOOD, None
    data = to_big_endian(point, words)
    if point.type == "string":
        text = data.split(b"\0")[0].decode("utf-8", "replace").strip()
        return 0, Quality.GOOD, text
    raw = int.from_bytes(data, "big")
    if point.type == "bcd":
        slot = _from_bcd(raw)
        if slot is None:
            return 0, Quality.INVALID, None
        raw = slot  # 0x96 is 96, and must not be taken for a code 150
    elif point.type == "bits":
        raw = slot = raw >> point.bit & (1 << point.width) - 1  # the neighbours are no part of a code
    elif point.type in ("float32", "float64"):
        slot = raw if point.type == "float32" else _signed(raw, 64)
        if not _is_finite(point, raw):
            return 0, Quality.INVALID, None
    else:
        slot = _signed(raw, _INTEGER_BITS[point.type]) if point.type.startswith("int") else raw
    if slot in point.invalid or raw in point.invalid:
        return 0, Quality.INVALID, None
    return _signed(slot, 64), Quality.GOOD, None


def value_of(point: Point, words: Sequence[int]) -> Value:
    """The value that a point's registers say; None when it is not available."""
    slot, quality, text = decode(point, words)
    return column_of(point).value(slot, text) if quality == Quality.GOOD else None


def encode(point: Point, slot: int, text: str | None = None) -> list[int]:
    """The registers (or the one bit) by which a meter would say this slot. Bits outside the point are 0."""
    if point.type == "bool":
        return [int(bool(slot))]
    size = 2 * point.count
    if point.type == "string":
        return from_big_endian(point, (text or "").encode()[:size].ljust(size, b"\0"))
    raw = slot & (1 << 8 * size) - 1
    if point.type == "bcd":
        raw = int(str(slot), 16)
    elif point.type == "bits":
        raw = (slot & (1 << point.width) - 1) << point.bit
    return from_big_endian(point, raw.to_bytes(size, "big"))


def to_big_endian(point: Point, words: Sequence[int]) -> bytes:
    """The point's bytes, most significant first, out of its registers as they stood on the wire."""
    ordered = reversed(words) if point.order in ("CDAB", "DCBA") else words
    layout = "<" if point.order in ("BADC", "DCBA") else ">"
    return struct.pack(f"{layout}{point.count}H", *ordered)


def from_big_endian(point: Point, data: bytes) -> list[int]:
    """The inverse of to_big_endian."""
    layout = "<" if point.order in ("BADC", "DCBA") else ">"
    words = list(struct.unpack(f"{layout}{point.count}H", data))
    return words[::-1] if point.order in ("CDAB", "DCBA") else words


def _column_type(point: Point) -> ColumnType:
    match point.type:
        case "float32" | "float64" | "string" | "uint64" as same:
            return same
        case _:
            return "int"


def _signed(raw: int, bits: int) -> int:
    return raw - (1 << bits) if raw >= 1 << (bits - 1) else raw


def _is_finite(point: Point, raw: int) -> bool:
    exponent = 0x7F80_0000 if point.type == "float32" else 0x7FF0_0000_0000_0000
    return raw & exponent != exponent


def _from_bcd(raw: int) -> int | None:
    """The number whose decimal digits are the nibbles of raw; None when one is above 9."""
    text = f"{raw:x}"
    return int(text) if text.isdecimal() else None
