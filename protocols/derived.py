"""Derivation: what is delivered of a meter, worked out per scan from what was read of it.

Most meters need none: their points are delivered as they were decoded. A Derivation is compiled once for a meter and
then turns each scan's slots into those of the delivered columns. Invariants:

- all operands come from one scan; when one of them has no value, what is made of it has none, with the same cause;
- arithmetic is decimal with 60 digits, rounded once at the end: integers and decimal factors stay exact;
- a value that does not fit its column, an unknown code and a ratio of 0 are "not available" (quality invalid).
"""

import decimal
import struct
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from parkfleet.protocols.payload.series import Column, Scan, shortest_float32
from parkfleet.protocols.profile import Derived, Factor, FactorFrom, Point, Profile, RatioName
from parkfleet.protocols.quality import WITH_VALUE, Quality
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.registers import column_of

#: More digits than a product of any five of our operands has; never traps, an absurd result is found by its size.
_CONTEXT: Final = decimal.Context(prec=60, traps=[])
_ONE: Final = Decimal(1)
_LARGEST: Final = 2**63 - 1
#: An exact result of more decimals than this becomes a float64: no meter has such a resolution.
_MAX_DECIMALS: Final = 9

Number = Callable[[int], Decimal]
#: The value of a step out of the slots; None when it is not available.
Compute = Callable[[Sequence[int]], Decimal | None]


@dataclass(frozen=True)
class Ratios:
    """A meter's transformers, as its entry in gateway.yaml says."""

    ct: Fraction | None = None  # None: the meter's own register, if its profile knows one, or no transformer
    pt: Fraction | None = None
    keep_raw: bool = False  # the secondary value too, as POINT_raw


@dataclass(frozen=True)
class Step:
    """How one delivered column comes about."""

    column: Column
    source: int = -1  # copied from this slot, or …
    needs: tuple[int, ...] = ()  # … computed out of these
    compute: Compute | None = None


@dataclass(frozen=True)
class Derivation:
    """A meter's delivered columns, and the way to them."""

    steps: tuple[Step, ...]
    read: int  # slots of a scan as it was read
    strings: tuple[int, ...]  # of the read strings, those delivered, in the order of the columns

    @property
    def columns(self) -> tuple[Column, ...]:
        """The delivered columns."""
        return tuple(step.column for step in self.steps)

    @property
    def is_identity(self) -> bool:
        """Whether a scan is delivered as it was read."""
        return [step.source for step in self.steps] == list(range(self.read))

    def scan(self, scan: Scan) -> Scan:
        """The delivered scan of one that was read."""
        slots, quality = self.derive(scan.slots, scan.quality)
        texts = tuple(scan.texts[index] for index in self.strings)
        return Scan(scan.entry, scan.ts, slots, quality, texts)

    def derive(self, slots: Sequence[int], quality: bytes) -> tuple["array[int]", bytes]:
        """(slots, quality) of the delivered columns."""
        delivered, codes = array("q", bytes(8 * len(self.steps))), bytearray(len(self.steps))
        for place, step in enumerate(self.steps):
            if step.compute is None:
                delivered[place], codes[place] = slots[step.source], quality[step.source]
                continue
            codes[place] = _worst(quality, step.needs)
            if codes[place] not in WITH_VALUE:
                continue
            value = step.compute(slots)
            slot = None if value is None else _slot(value, step.column)
            if slot is None:
                codes[place] = Quality.INVALID
            else:
                delivered[place] = slot
        return delivered, bytes(codes)


def needed_points(profile: Profile, chosen: Collection[str] = (), ratios: Ratios | None = None) -> tuple[Point, ...]:
    """The points to be read so that the chosen ones (none named: all) can be delivered, in the profile's order."""
    wanted = set(chosen or profile.delivered)
    needed = wanted.copy()
    for own in profile.quantities:
        if own.id in wanted:
            needed |= set(_helpers(profile, own, ratios or Ratios()))
    return tuple(point for point in profile.points if point.id in needed)


def make_derivation(
    profile: Profile, points: Sequence[Point], chosen: Collection[str] = (), ratios: Ratios | None = None
) -> Derivation:
    """The way from points as they are read (needed_points() at least) to what is delivered of the chosen ones."""
    return _Compiler(profile, points, ratios or Ratios()).derivation(set(chosen or profile.delivered))


def _helpers(profile: Profile, own: Point | Derived, ratios: Ratios) -> Iterator[str]:
    """The points that another is made of, itself left out."""
    yield from (part.point for part in getattr(own, "parts", ()))
    yield from (source.point for source in (own.scale_from, own.unit_from) if source)
    for name in own.ratio:
        id_ = _ratio_point(profile, name, ratios)
        if id_:
            yield id_


def _ratio_point(profile: Profile, name: RatioName, ratios: Ratios) -> str | None:
    """The point that says a ratio; None when the configuration does, or nothing."""
    if getattr(ratios, name) is not None or profile.ratio_from is None:
        return None
    found: str | None = getattr(profile.ratio_from, name)
    return found


def _worst(quality: bytes, needs: Sequence[int]) -> int:
    """The quality of what is made of several slots: the first cause for a missing one, or the least good."""
    codes = [quality[index] for index in needs]
    return next((code for code in codes if code not in WITH_VALUE), max(codes))


def _slot(value: Decimal, column: Column) -> int | None:
    """The slot of a column for a value; None when it does not fit."""
    if not value.is_finite():
        return None
    if column.type == "float64":
        return int.from_bytes(struct.pack(">d", float(value)), "big", signed=True)
    slot = int(_CONTEXT.to_integral_value(_CONTEXT.scaleb(value, column.factor.decimals)))
    return slot if abs(slot) <= _LARGEST else None


class _Compiler:
    """Compiles one meter's derivation."""

    def __init__(self, profile: Profile, points: Sequence[Point], ratios: Ratios) -> None:
        self._profile = profile
        self._points = points
        self._ratios = ratios
        self._index = {point.id: index for index, point in enumerate(points)}

    def derivation(self, chosen: set[str]) -> Derivation:
        steps: list[Step] = []
        for point in self._points:
            if point.id in chosen:
                steps.append(self._of_point(point))
                if self._ratios.keep_raw and self._transforms(point):
                    own = column_of(point)
                    steps.append(Step(msgspec.structs.replace(own, point=f"{point.id}_raw"), self._index[point.id]))
        steps += (self._of_derived(derived) for derived in self._profile.derived if derived.id in chosen)
        strings = [index for index, point in enumerate(self._points) if point.type == "string"]
        delivered = tuple(strings.index(step.source) for step in steps if step.column.type == "string")
        return Derivation(tuple(steps), len(self._points), delivered)

    def _of_point(self, point: Point) -> Step:
        column, index = column_of(point), self._index[point.id]
        scaled = self._scaled(point, column)
        if scaled is not None:
            return Step(scaled, index)
        factors = list(self._factors(point))
        known = _known_decimals(point)
        exact = not point.type.startswith("float")
        return self._step(column, [(index, point, _ONE)], factors, known, exact, point.four_quadrant)

    def _of_derived(self, derived: Derived) -> Step:
        column = Column(derived.id, derived.unit, "int", derived.kind)
        parts, known, exact = [], 0, True
        for part in derived.parts:
            point = self._points[self._index[part.point]]
            times = fraction(part.times) * (-1 if part.minus else 1)
            decimals, own = _decimals_of(times), _known_decimals(point)
            known = -1 if known < 0 or own < 0 or decimals is None else max(known, own + decimals)
            exact = exact and not point.type.startswith("float")
            parts.append((self._index[point.id], point, _decimal(times)))
        step = self._step(column, parts, list(self._factors(derived)), known, exact, False)
        if derived.decimals is None:
            return step
        rounded = Column(derived.id, derived.unit, "int", derived.kind, Factor(1, derived.decimals))
        return Step(rounded, -1, step.needs, step.compute)

    def _scaled(self, point: Point, column: Column) -> Column | None:
        """The column when a constant factor says it all: nothing is left to do per scan."""
        if point.scale_from or point.unit_from or point.four_quadrant:
            return None
        constant = Fraction(1)
        for name in point.ratio:
            if _ratio_point(self._profile, name, self._ratios):
                return None
            constant *= getattr(self._ratios, name) or 1
        if constant == 1:
            return column
        places = _decimals_of(constant)
        if places is None:
            return None
        factor = Factor.of(point.scale * _decimal(constant), point.offset * _decimal(constant))
        fits = factor.decimals <= 12 and abs(factor.multiply) <= 10**9 and abs(factor.add) <= 2**62
        return msgspec.structs.replace(column, factor=factor) if fits else None

    def _transforms(self, point: Point) -> bool:
        """Whether a transformer lies between the meter and the value of a point."""
        return any(
            getattr(self._ratios, name) is not None or _ratio_point(self._profile, name, self._ratios)
            for name in point.ratio
        )

    def _factors(self, own: Point | Derived) -> Iterator["_Factor"]:
        for source in (own.scale_from, own.unit_from):
            if source:
                yield _looked_up(source, self._index[source.point])
        for name in own.ratio:
            id_, constant = _ratio_point(self._profile, name, self._ratios), getattr(self._ratios, name)
            if id_:
                point = self._points[self._index[id_]]
                yield _read_ratio(point, self._index[id_])
            elif constant is not None:
                yield _constant(constant)

    def _step(
        self,
        column: Column,
        parts: list[tuple[int, Point, Decimal]],
        factors: list["_Factor"],
        known: int,
        exact: bool,
        folded: bool,
    ) -> Step:
        """known: decimals of the sum of the parts, -1 when not known. exact: none of them is a float."""
        digits = known
        for factor in factors:
            digits = -1 if digits < 0 or factor.decimals is None else digits + factor.decimals
        digits = digits if digits <= _MAX_DECIMALS else -1
        if exact and digits >= 0:
            column = Column(column.point, column.unit, "int", column.kind, Factor(1, digits))
        else:
            column = Column(column.point, column.unit, "float64", column.kind, digits=digits)
        needs = (*(index for index, _, _ in parts), *(factor.index for factor in factors if factor.index >= 0))
        numbers = [(index, _number_of(point), times) for index, point, times in parts]
        return Step(column, -1, needs, _computation(numbers, factors, folded))


@dataclass(frozen=True)
class _Factor:
    """A factor of a computed value."""

    index: int  # the slot it comes from; -1: constant
    of: Callable[[int], Fraction | None]  # the slot -> the factor; None when it says none
    decimals: int | None  # at most so many has it; None: not known


def _computation(numbers: list[tuple[int, Number, Decimal]], factors: list[_Factor], folded: bool) -> Compute:
    def compute(slots: Sequence[int]) -> Decimal | None:
        value = Decimal(0)
        for index, number, times in numbers:
            value = _CONTEXT.add(value, _CONTEXT.multiply(number(slots[index]), times))
        for factor in factors:
            found = factor.of(slots[factor.index])
            if found is None:
                return None
            value = _CONTEXT.multiply(value, Decimal(found.numerator))
            if found.denominator != 1:
                value = _CONTEXT.divide(value, Decimal(found.denominator))
        return _folded(value) if folded else value

    return compute


def _folded(value: Decimal) -> Decimal | None:
    """A power factor out of its four-quadrant coding: beyond 1 it comes back (leading), 1.05 is 0.95."""
    if abs(value) > 2:
        return None
    if abs(value) <= 1:
        return value
    return (2 if value > 0 else -2) - value


def _constant(factor: Fraction) -> _Factor:
    """A factor that is always the same."""
    return _Factor(-1, lambda _: factor, _decimals_of(factor))


def _looked_up(source: FactorFrom, index: int) -> _Factor:
    """A factor by a code, or a power of ten."""
    if source.power is None:
        table = {code: fraction(factor) for code, factor in source.table.items()}
        places = [_decimals_of(factor) for factor in table.values()]
        known = [place for place in places if place is not None]
        return _Factor(index, table.get, max(known) if len(known) == len(places) else None)
    sign = source.power

    def power(exponent: int) -> Fraction | None:
        return Fraction(10) ** (sign * exponent) if abs(exponent) <= 18 else None

    return _Factor(index, power, None)


def _read_ratio(point: Point, index: int) -> _Factor:
    """A ratio as the meter's own register says it."""
    number = _number_of(point)

    def ratio(slot: int) -> Fraction | None:
        value = number(slot)
        return Fraction(value) if 0 < value <= 10**9 else None

    known = _known_decimals(point)
    return _Factor(index, ratio, None if known < 0 or point.type.startswith("float") else known)


def _number_of(point: Point) -> Number:
    """The exact value of a point's slot."""
    factor = point.factor
    multiply, add, shift = Decimal(factor.multiply), Decimal(factor.add), -factor.decimals
    plain = factor == Factor()

    def scaled(raw: Decimal) -> Decimal:
        return raw if plain else _CONTEXT.scaleb(_CONTEXT.add(_CONTEXT.multiply(raw, multiply), add), shift)

    match point.type:
        case "float32":
            return lambda slot: scaled(Decimal(repr(shortest_float32(slot))))
        case "float64":
            return lambda slot: scaled(Decimal(repr(struct.unpack("<d", struct.pack("<q", slot))[0])))
        case "uint64":
            return lambda slot: scaled(Decimal(slot & 0xFFFF_FFFF_FFFF_FFFF))
        case _:
            return lambda slot: scaled(Decimal(slot))


def _known_decimals(point: Point) -> int:
    """Decimals of a point's value; -1 when it is a float of which nobody knows."""
    if not point.type.startswith("float"):
        return point.factor.decimals
    return -1 if point.decimals is None else point.decimals + point.factor.decimals


def _decimals_of(number: Fraction) -> int | None:
    """Decimals of a fraction; None when they do not end (1/3) or are more than 12."""
    return next((places for places in range(13) if 10**places % number.denominator == 0), None)


def _decimal(number: Fraction) -> Decimal:
    return _CONTEXT.divide(Decimal(number.numerator), Decimal(number.denominator))
