"""Profile: the register map of one meter model, as its YAML file says it.

A profile is data; what it means in bytes is in registers.py, what is computed from several points in derived.py.
Format: docs/profiles.md.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from parkfleet.protocols.ratio import Ratio, positive

Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]
Medium = Literal["power", "water", "heat", "gas", "other"]
Table = Literal["coil", "discrete", "input", "holding"]
PointType = Literal[
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bcd", "bits", "string", "bool"
]
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]
Kind = Literal["gauge", "counter", "state"]
RatioName = Literal["ct", "pt"]

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
#: The largest number a manual may give to a register: 465536, of which 400001 is the first.
_MAX_NUMBER: Final = 465536


class FactorFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A factor that stands in another register: by a table of its codes, or as a power of ten."""

    point: Identifier  # whose number before its scale is the code, or the exponent
    table: dict[int, Ratio] = {}  # code: factor; a code that is missing here makes the value not available
    power: Literal[-1, 1] | None = None  # instead: factor = 10^number (1) or 10^-number (-1: "decimals")

    def __post_init__(self) -> None:
        if bool(self.table) == (self.power is not None):
            raise ValueError("give either table (code: factor) or power (1 or -1)")
        for code, factor in self.table.items():
            positive(factor, f"the factor of code {code}")


class RatioFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The points in which the meter keeps its transformers' ratios."""

    ct: Identifier | None = None
    pt: Identifier | None = None


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quantity of a meter model. value = raw × scale + offset, exact in decimals."""

    id: Identifier
    type: PointType
    address: Annotated[int, Meta(ge=0, le=_MAX_NUMBER)]  # as the manual prints it, see the profile's base
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
    scale_from: FactorFrom | None = None  # a further factor, out of another register
    unit_from: FactorFrom | None = None  # the factor from the unit set in the meter to `unit`
    ratio: list[RatioName] = []  # transformers between the meter and what it measures
    four_quadrant: bool = False  # a power factor that says its quadrant by numbers beyond 1 and -1
    hidden: bool = False  # read for the sake of others, not delivered
    max_rate: Annotated[float, Meta(gt=0)] | None = None  # of a counter: its rating, units an hour
    priority: bool = False  # its changes do not wait for the batch: a gas alarm
    title: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.type == "bool") != (self.table in BIT_TABLES):
            raise ValueError(f"a {self.table} holds bits and needs type bool; registers take every other type")
        if self.type in FIXED_REGISTERS:
            if self.registers not in (None, FIXED_REGISTERS[self.type]):
                raise ValueError(f"a {self.type} has {FIXED_REGISTERS[self.type]} register(s): leave registers away")
        elif self.type != "string" and self.count > 4:
            raise ValueError(f"{self.type} takes at most 4 registers (64 bits)")
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
        if self.max_rate is not None and self.kind != "counter":
            raise ValueError("max_rate belongs to counters")
        if self.type == "string" and (self.is_computed or self.priority):
            raise ValueError("a string has no factor, ratio, quadrant or priority")
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
    def is_computed(self) -> bool:
        """Whether its registers alone do not say its value."""
        return bool(self.scale_from or self.unit_from or self.ratio or self.four_quadrant)

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
    """A range of registers, such as those that must not be read: no request may touch them."""

    address: Annotated[int, Meta(ge=0, le=_MAX_NUMBER)]  # as the manual prints it
    count: Annotated[int, Meta(ge=1, le=65536)]
    table: Table = "holding"

    def overlaps(self, table: Table, address: int, end: int) -> bool:
        """Whether address up to (not with) end touches the range."""
        return self.table == table and self.address < end and address < self.address + self.count


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One summand of a derived point."""

    point: Identifier
    times: Ratio = 1  # 10000 for the high half of a counter whose low half has four digits
    minus: bool = False  # subtracted


class Derived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity that several points make together: the sum of its parts, of one and the same scan."""

    id: Identifier
    parts: Annotated[list[Part], Meta(min_length=1, max_length=16)]
    unit: str = ""
    kind: Kind = "gauge"
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None  # rounded to so many, and an exact number then
    scale_from: FactorFrom | None = None
    unit_from: FactorFrom | None = None
    ratio: list[RatioName] = []
    priority: bool = False
    title: dict[str, str] = {}

    def __post_init__(self) -> None:
        for part in self.parts:
            positive(part.times, "times")


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Registers in which the model itself stands: its code, or its name."""

    point: Identifier  # a plain integer, or a string
    one_of: Annotated[list[int | str], Meta(min_length=1, max_length=64)]

    def holds(self, value: int | float | str) -> bool:
        """Whether what stands there is one of them: equal, or for texts the beginning, whatever the case."""
        if isinstance(value, str):
            return any(value.lower().startswith(str(own).lower()) for own in self.one_of)
        return value in self.one_of


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worked example from the source: these registers are these values."""

    point: Identifier
    value: int | float | str | bool | None  # null: not available
    registers: list[Annotated[int, Meta(ge=0, le=0xFFFF)]] = []  # of the point itself; a derived one has none
    given: dict[Identifier, list[Annotated[int, Meta(ge=0, le=0xFFFF)]]] = {}  # of the other points it needs
    source: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A meter model: its points, and what a reader of it must know."""

    profile: Identifier
    title: dict[str, str]
    medium: Medium
    source: str
    points: Annotated[list[Point], Meta(min_length=1, max_length=4096)]
    derived: Annotated[list[Derived], Meta(max_length=1024)] = []
    base: int | dict[Table, int] = 0  # the number that the manual gives to the first register of a table
    max_registers: Annotated[int, Meta(ge=1, le=MAX_REGISTERS)] = MAX_REGISTERS
    max_bits: Annotated[int, Meta(ge=1, le=MAX_BITS)] = MAX_BITS
    min_gap: Annotated[int, Meta(ge=0, le=10_000)] = 0  # milliseconds of silence it needs before each request
    holes: list[Hole] = []
    never_write: list[Hole] = []
    identity: list[Identifier] = []  # points by which a device is told from another: serial number, model
    signature: list[Signature] = []  # where the model says which it is, and what stands there; all must hold
    primary: bool = False  # it reports the transformers' primary side by itself
    ratio_from: RatioFrom | None = None
    expected: list[Expected] = []
    notes: str = ""

    def __post_init__(self) -> None:
        wrong = next(_mistakes(self), None)
        if wrong:
            raise ValueError(wrong)

    def first(self, table: Table) -> int:
        """What the profile's addresses count from in a table."""
        return self.base if isinstance(self.base, int) else self.base.get(table, 0)

    @property
    def quantities(self) -> "list[Point | Derived]":
        """Points and derived points, in their order."""
        return [*self.points, *self.derived]

    @property
    def delivered(self) -> list[str]:
        """Ids of what a meter's readings are made of."""
        return [point.id for point in self.points if not point.hidden] + [derived.id for derived in self.derived]

    @property
    def ratios(self) -> frozenset[RatioName]:
        """The ratios that any of its points needs."""
        return frozenset(name for own in self.quantities for name in own.ratio)

    def on_wire(self) -> "Profile":
        """The same with addresses counted from 0, as they go over the wire."""
        if not self.base:
            return self
        replace = msgspec.structs.replace
        return replace(
            self,
            base=0,
            points=[replace(point, address=point.address - self.first(point.table)) for point in self.points],
            holes=[replace(hole, address=hole.address - self.first(hole.table)) for hole in self.holes],
            never_write=[replace(hole, address=hole.address - self.first(hole.table)) for hole in self.never_write],
        )

    def may_write(self, table: Table, address: int, count: int = 1) -> bool:
        """Whether nothing forbids to write registers (addresses as in this profile)."""
        return not any(hole.overlaps(table, address, address + count) for hole in self.never_write)


def _mistakes(profile: Profile) -> Iterator[str]:
    """What is wrong between the parts of a profile."""
    seen: set[str] = set()
    ids = [own.id for own in profile.quantities]
    twice = sorted({id_ for id_ in ids if id_ in seen or seen.add(id_)})  # type: ignore[func-returns-value]
    if twice:
        yield f"point ids must be unique, twice here: {', '.join(twice)}"
    for point in profile.points:
        if not 0 <= point.address - profile.first(point.table) <= 65536 - point.count:
            yield f"{point.id} lies outside of the addresses from 0 to 65535 (its address minus base)"
        if point.table not in BIT_TABLES and point.count > profile.max_registers:
            yield f"{point.id} is longer than max_registers"
        if any(hole.overlaps(point.table, point.address, point.end) for hole in profile.holes):
            yield f"{point.id} lies in a hole that must not be read"
    for hole in (*profile.holes, *profile.never_write):
        if not 0 <= hole.address - profile.first(hole.table) <= 65536 - hole.count:
            yield f"the range from {hole.address} lies outside of the addresses from 0 to 65535 (minus base)"
    for own in profile.quantities:
        if own.ratio and f"{own.id}_raw" in seen:
            yield f"{own.id}_raw is the name of what a meter with raw: true delivers beside {own.id}: use another"
    yield from _references(profile)
    yield from _examples(profile)


def _references(profile: Profile) -> Iterator[str]:
    """What is wrong with the points that others are made of."""
    points = {point.id: point for point in profile.points}
    for own in profile.quantities:
        for key, source in (("scale_from", own.scale_from), ("unit_from", own.unit_from)):
            helper = points.get(source.point) if source else None
            if source and (helper is None or helper.type in ("string", "float32", "float64") or helper.is_computed):
                yield f"{key} of {own.id} needs a plain integer point, {source.point} is none of this profile"
    for derived in profile.derived:
        for part in derived.parts:
            summand = points.get(part.point)
            if summand is None or summand.type == "string" or summand.is_computed:
                yield f"{derived.id} needs a plain number as its part, {part.point} is none of this profile"
    for id_ in profile.identity:
        if id_ not in points:
            yield f"identity names the unknown point {id_}"
    for signature in profile.signature:
        own_point = points.get(signature.point)
        if own_point is None or own_point.is_computed or own_point.factor != Factor() or "float" in own_point.type:
            yield f"signature needs a string or a plain integer without scale, {signature.point} is none"
        elif any(isinstance(value, str) != (own_point.type == "string") for value in signature.one_of):
            yield f"signature: {signature.point} is a {own_point.type}, one_of must be the same"
    for name in ("ct", "pt"):
        found = getattr(profile.ratio_from, name) if profile.ratio_from else None
        if found and (found not in points or points[found].type == "string" or points[found].is_computed):
            yield f"ratio_from: {name} needs a plain number, {found} is none of this profile"
    if profile.primary and (profile.ratios or profile.ratio_from):
        yield "a meter that reports primary values (primary: true) has no ratio and no ratio_from"


def _examples(profile: Profile) -> Iterator[str]:
    """What is wrong with the worked examples, as far as it shows before they are worked out."""
    points, derived = {point.id: point for point in profile.points}, {point.id for point in profile.derived}
    for example in profile.expected:
        if example.point not in points and example.point not in derived:
            yield f"expected names the unknown point {example.point}"
            continue
        own = {example.point: example.registers} if example.point in points else {}
        if example.point in derived and example.registers:
            yield f"expected: {example.point} is derived: give the registers of its parts under given"
        for id_, registers in (*own.items(), *example.given.items()):
            if id_ not in points:
                yield f"expected: given names the unknown point {id_}"
            elif len(registers) != points[id_].count:
                yield f"expected: {id_} has {points[id_].count} register(s)"
