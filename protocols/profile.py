"""Profile: the register map of one meter model, as its YAML file says it.

A profile is data; what it means in bytes is in registers.py. Format: docs/profiles.md.
"""

from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]
Medium = Literal["power", "water", "heat", "gas", "other"]
Table = Literal["coil", "discrete", "input", "holding"]
PointType = Literal[
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bcd", "bits", "string", "bool"
]
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]
Kind = Literal["gauge", "counter", "state"]

#: Registers a type occupies; the others say it themselves (`registers`).
FIXED_REGISTERS: Final = {
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "int64": 4,
    "uint64": 4,
    "float32": 2,
    "float64": 4,
    "bool": 1,
}
BIT_TABLES: Final = frozenset({"coil", "discrete"})
#: What one request may ask for, by the Modbus application protocol (v1.1b3, 6.1 to 6.4).
MAX_REGISTERS: Final = 125
MAX_BITS: Final = 2000


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quantity of a meter model. value = raw × scale + offset, exact in decimals."""

    id: Identifier
    type: PointType
    address: Annotated[int, Meta(ge=0, le=65535)]  # 0-based, as it goes over the wire
    table: Table = "holding"
    order: Order = "ABCD"  # of the bytes of a 32-bit value; 64-bit values alike, register by register
    registers: Annotated[int, Meta(ge=1, le=64)] | None = None  # for bcd, bits and string
    bit: Annotated[int, Meta(ge=0, le=63)] = 0  # for bits: the lowest bit, 0 is the least significant
    width: Annotated[int, Meta(ge=1, le=32)] = 1  # for bits: how many
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None  # of a float: the meter's own resolution
    unit: str = ""
    kind: Kind = "gauge"
    invalid: list[int] = []  # raw values by which the meter says "not available"
    title: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.type == "bool") != (self.table in BIT_TABLES):
            raise ValueError(f"a {self.table} holds bits and needs type bool; registers take every other type")
        if self.type in FIXED_REGISTERS:
            if self.registers not in (None, FIXED_REGISTERS[self.type]):
                raise ValueError(f"a {self.type} has {FIXED_REGISTERS[self.type]} register(s): leave registers away")
        elif self.type != "string" and self.count > 4:
            raise ValueError(f"{self.type} takes at most 4 registers (64 bits)")
        if self.address + self.count > 65536:
            raise ValueError("the point ends beyond address 65535")
        if self.type == "bits" and self.bit + self.width > 16 * self.count:
            raise ValueError(f"bits {self.bit}..{self.bit + self.width - 1} do not fit in {self.count} register(s)")
        if not self.scale or not self.scale.is_finite() or not self.offset.is_finite():
            raise ValueError("scale must be a number other than 0, offset a number")
        if not (_is_moderate(self.scale, 10**9) and _is_moderate(self.offset, 2**62)):
            raise ValueError("scale must be at most 1000000000, offset at most 2^62, each with at most 12 decimals")
        if self.type in ("string", "bool", "bits") and (self.scale != 1 or self.offset):
            raise ValueError(f"a {self.type} has no scale or offset")
        if self.decimals is not None and not self.type.startswith("float"):
            raise ValueError("decimals belongs to floats; an integer's resolution is its scale")
        factor = self.factor
        if factor.decimals > 12 or abs(factor.multiply) > 10**9 or abs(factor.add) > 2**62:
            raise ValueError("scale and offset need more digits than 12 decimals: use fewer")

    @property
    def count(self) -> int:
        """Registers (or bits, in a coil or discrete table) the point occupies."""
        return FIXED_REGISTERS.get(self.type) or self.registers or 1

    @property
    def end(self) -> int:
        """The address behind the point's last register."""
        return self.address + self.count

    @property
    def factor(self) -> "Factor":
        """scale and offset as integers."""
        return Factor.of(self.scale, self.offset)


def _is_moderate(number: Decimal, limit: int) -> bool:
    """Whether a number can be made an integer: 1E+999999 would be one with a million digits."""
    exponent = int(number.as_tuple().exponent)
    return abs(number) <= limit and len(number.as_tuple().digits) <= 28 and -28 <= exponent <= 18


class Factor(msgspec.Struct, frozen=True, array_like=True):
    """value = (raw × multiply + add) / 10^decimals: scale and offset without a rounding error."""

    multiply: int = 1
    decimals: int = 0
    add: int = 0

    @classmethod
    def of(cls, scale: Decimal, offset: Decimal) -> "Factor":
        """The smallest such integers for a decimal scale and offset."""
        exponents = [int(number.normalize().as_tuple().exponent) for number in (scale, offset) if number]
        decimals = max(0, *(-exponent for exponent in exponents)) if exponents else 0
        power = Decimal(10) ** decimals
        return cls(int(scale * power), decimals, int(offset * power))

    def apply(self, raw: float) -> float:
        """The value of a raw integer or float; integers stay integers where nothing is divided."""
        value = raw * self.multiply + self.add
        return value / 10**self.decimals if self.decimals else value


class Hole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Registers that must not be read: no request may touch them."""

    address: Annotated[int, Meta(ge=0, le=65535)]
    count: Annotated[int, Meta(ge=1, le=65536)]
    table: Table = "holding"

    def overlaps(self, point: Point) -> bool:
        """Whether reading the point would touch the hole."""
        return self.table == point.table and self.address < point.end and point.address < self.address + self.count


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worked example from the source: these registers are these values."""

    point: Identifier
    registers: list[Annotated[int, Meta(ge=0, le=0xFFFF)]]
    value: int | float | str | bool | None  # null: not available
    source: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A meter model: its points, and what a reader of it must know."""

    profile: Identifier
    title: dict[str, str]
    medium: Medium
    source: str
    points: Annotated[list[Point], Meta(min_length=1, max_length=4096)]
    max_registers: Annotated[int, Meta(ge=1, le=MAX_REGISTERS)] = MAX_REGISTERS
    max_bits: Annotated[int, Meta(ge=1, le=MAX_BITS)] = MAX_BITS
    holes: list[Hole] = []
    expected: list[Expected] = []
    notes: str = ""

    def __post_init__(self) -> None:
        ids = {point.id for point in self.points}
        if len(ids) < len(self.points):
            seen: set[str] = set()
            twice = sorted({p.id for p in self.points if p.id in seen or seen.add(p.id)})  # type: ignore[func-returns-value]
            raise ValueError(f"point ids must be unique, twice here: {', '.join(twice)}")
        for point in self.points:
            if point.table not in BIT_TABLES and point.count > self.max_registers:
                raise ValueError(f"{point.id} is longer than max_registers")
            if any(hole.overlaps(point) for hole in self.holes):
                raise ValueError(f"{point.id} lies in a hole that must not be read")
        sizes = {point.id: point.count for point in self.points}
        for example in self.expected:
            if example.point not in ids:
                raise ValueError(f"expected names the unknown point {example.point}")
            if len(example.registers) != sizes[example.point]:
                raise ValueError(f"expected: {example.point} has {sizes[example.point]} register(s)")
