"""Series: what a batch's columns are called, and the columns themselves.

A batch carries values only. Their names stand in a schema: a list of entries (one meter read in one
scan), each with its columns (one point). Inside a batch, every reading is a *slot*: a 64-bit integer
that holds the meter's own raw value, so that nothing is lost before a consumer asks for a number:

    integers, bcd, bits, bool   the raw integer (uint64: its two's complement)
    float32                     the 32-bit pattern, as an unsigned integer
    float64                     the 64-bit pattern, as a signed integer
    string                      0; the text stands beside the slots, in `texts`
"""

import struct
from array import array
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from parkfleet.protocols.profile import Factor, Kind
from parkfleet.protocols.quality import WITH_VALUE

#: Readings that a batch's body may hold: 32 MB of slots. Runs make small bodies large; this bounds them.
MAX_READINGS: Final = 4_000_000
_LARGEST_FLOAT32: Final = 3.4028234663852886e38

ColumnType = Literal["int", "uint64", "float32", "float64", "string"]
Value = int | float | str | None


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One point of an entry."""

    point: str
    unit: str
    type: ColumnType
    kind: Kind
    factor: Factor = Factor()  # value = (raw × multiply + add) / 10^decimals
    digits: int = -1  # of a float: the decimals its values likely have; -1: not known. A hint for encoders

    def value(self, slot: int, text: str | None = None) -> Value:
        """The value a slot stands for. A float32 becomes the shortest decimal that has its bits (230.1)."""
        if self.type == "string":
            return text
        if self.type == "float32":
            return self.factor.apply(shortest_float32(slot))
        if self.type == "float64":
            return self.factor.apply(struct.unpack("<d", struct.pack("<q", slot))[0])
        return self.factor.apply(slot & 0xFFFF_FFFF_FFFF_FFFF if self.type == "uint64" else slot)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One meter, or the part of its points that is read together."""

    meter: str
    profile: str
    medium: str
    columns: tuple[Column, ...]


@dataclass(slots=True)
class Rows:
    """All scans of one entry in one batch, in time order; row-major arrays, one row a scan."""

    entry: int  # index into the schema's entries
    ts: "array[int]" = field(default_factory=lambda: array("q"))  # ms UTC, one a row
    slots: "array[int]" = field(default_factory=lambda: array("q"))  # one a row and column
    quality: bytearray = field(default_factory=bytearray)  # one a row and column
    texts: list[str | None] = field(default_factory=list)  # one a row and string column


@dataclass(slots=True, frozen=True)
class Scan:
    """All readings a meter gave in one due cycle: one row of Rows, before it is in a batch."""

    entry: int
    ts: int  # ms UTC
    slots: "array[int]"  # one a column; 0 where the quality says there is no value
    quality: bytes  # one a column
    texts: tuple[str | None, ...] = ()  # one a string column


def has_value(quality: int) -> bool:
    """Whether a reading of this quality carries a value."""
    return quality in WITH_VALUE


def shortest_float32(bits: int) -> float:
    """The number with the fewest decimal digits whose nearest float32 has these bits (NaN and ±inf as such)."""
    (exact,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFF_FFFF))
    if exact != exact or exact in (float("inf"), float("-inf")):
        return float(exact)
    for digits in (6, 7, 8):
        short = float(f"{exact:.{digits}g}")
        # Beside the largest float32 a shortened number may lie beyond it, where pack raises.
        if abs(short) <= _LARGEST_FLOAT32 and struct.pack("<f", short) == struct.pack("<f", exact):
            return short
    return float(f"{exact:.9g}")
