"""Derivation: what is delivered of a meter, worked out per scan from what was read of it.

Most meters need none: their points are delivered as they were decoded. A Derivation is compiled once for a meter and
then turns each scan's slots into those of the delivered columns; arithmetic.py computes their values. Invariants:

- all operands come from one scan; when one of them has no value, what is made of it has none, with the same cause;
- a value that does not fit its column, an unknown code and a ratio of 0 are "not available" (quality invalid).
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Final

import msgspec

from parkfleet.protocols.arithmetic import Formula, Multiplier, Summand, as_decimal, decimals_of, slot_of
from parkfleet.protocols.payload.series import Column, Scan
from parkfleet.protocols.profile import Derived, Factor, Point, Profile, RatioName
from parkfleet.protocols.quality import WITH_VALUE, Quality
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.registers import column_of

#: An exact result of more decimals than this becomes a float64: no meter has such a resolution.
_MAX_DECIMALS: Final = 9


#: What the id of a value before its transformers ends with.
RAW: Final = "_raw"


@dataclass(frozen=True)
class Ratios:
    """A meter's transformers, as its entry in gateway.yaml says."""

    ct: Fraction | None = None  # None: the meter's own register, if its profile knows one, or no transformer
    pt: Fraction | None = None
    keep_raw: bool = False  # the secondary value too, as POINT_raw


@dataclass(frozen=True)
class Step:
    """How one delivered column comes about: copied from a slot, or computed."""

    column: Column
    source: int = -1  # the slot
    formula: Formula | None = None  # instead

    @property
    def needs(self) -> tuple[int, ...]:
        """The slots it is made of."""
        return self.formula.needs if self.formula else (self.source,)


@dataclass(frozen=True)
class Derivation:
    """A meter's delivered columns, and the way to them."""

    steps: tuple[Step, ...]
    read: int  # slots of a scan as it was read
    strings: tuple[int, ...]  # of the read strings, those delivered, in the order of the columns

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The delivered columns: always the same tuple, so that equal meters share it."""
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
            if step.formula is None:
                delivered[place], codes[place] = slots[step.source], quality[step.source]
                continue
            codes[place] = _worst(quality, step.needs)
            if codes[place] not in WITH_VALUE:
                continue
            value = step.formula.value(slots)
            slot = None if value is None else slot_of(value, step.column)
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


class _Compiler:
    """Compiles one meter's derivation."""

    def __init__(self, profile: Profile, points: Sequence[Point], ratios: Ratios) -> None:
        self._profile = profile
        self._points = points
        self._ratios = ratios
        self._index = {point.id: index for index, point in enumerate(points)}

    def derivation(self, chosen: set[str]) -> Derivation:
        steps: list[Step] = []
        quantities: list[Point | Derived] = [*self._points, *self._profile.derived]
        for own in quantities:
            if own.id in chosen:
                steps.append(self._step(own))
                if self._ratios.keep_raw and self._transforms(own):
                    steps.append(self._step(msgspec.structs.replace(own, id=f"{own.id}{RAW}", ratio=[]), own.id))
        strings = [index for index, point in enumerate(self._points) if point.type == "string"]
        delivered = tuple(strings.index(step.source) for step in steps if step.column.type == "string")
        return Derivation(tuple(steps), len(self._points), delivered)

    def _step(self, own: Point | Derived, read_as: str = "") -> Step:
        """The step to a point; read_as: the id under which it is read, where that is another."""
        if isinstance(own, Derived):
            parts = ((self._points[self._index[part.point]], part) for part in own.parts)
            weighted = ((point, fraction(part.times) * (-1 if part.minus else 1)) for point, part in parts)
            summands = tuple(Summand.of(point, self._index[point.id], weight) for point, weight in weighted)
            return _computed(own, Formula(summands, tuple(self._multipliers(own))), own.decimals)
        index = self._index[read_as or own.id]
        if (column := self._scaled(own)) is not None:
            return Step(column, index)
        formula = Formula((Summand.of(own, index),), tuple(self._multipliers(own)), own.four_quadrant)
        return _computed(own, formula)

    def _scaled(self, point: Point) -> Column | None:
        """The column when a constant factor says it all: nothing is left to do per scan."""
        if point.scale_from or point.unit_from or point.four_quadrant:
            return None
        constant = Fraction(1)
        for name in point.ratio:
            if _ratio_point(self._profile, name, self._ratios):
                return None
            constant *= getattr(self._ratios, name) or 1
        column = column_of(point)
        if constant == 1:
            return column
        if decimals_of(constant) is None:
            return None
        factor = Factor.of(point.scale * as_decimal(constant), point.offset * as_decimal(constant))
        fits = factor.decimals <= 12 and abs(factor.multiply) <= 10**9 and abs(factor.add) <= 2**62
        return msgspec.structs.replace(column, factor=factor) if fits else None

    def _transforms(self, own: Point | Derived) -> bool:
        """Whether a transformer lies between the meter and the value of a point."""
        return any(
            getattr(self._ratios, name) is not None or _ratio_point(self._profile, name, self._ratios)
            for name in own.ratio
        )

    def _multipliers(self, own: Point | Derived) -> Iterator[Multiplier]:
        for source in (own.scale_from, own.unit_from):
            if source:
                yield Multiplier.by_code(source, self._index[source.point])
        for name in own.ratio:
            id_, constant = _ratio_point(self._profile, name, self._ratios), getattr(self._ratios, name)
            if id_:
                yield Multiplier.by_register(self._points[self._index[id_]], self._index[id_])
            elif constant is not None:
                yield Multiplier.constant(constant)


def _computed(own: Point | Derived, formula: Formula, rounded: int | None = None) -> Step:
    """The step of a computed value: an exact number where its decimals are known, or given (rounded)."""
    decimals = formula.decimals
    if decimals is not None and decimals > _MAX_DECIMALS:
        decimals = None
    if rounded is None and not formula.has_floats:
        rounded = decimals
    if rounded is not None:
        return Step(Column(own.id, own.unit, "int", own.kind, Factor(1, rounded)), formula=formula)
    digits = -1 if decimals is None else decimals
    return Step(Column(own.id, own.unit, "float64", own.kind, digits=digits), formula=formula)
