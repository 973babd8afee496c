"""Sensor: what one point of a simulated meter shows, so that the readings made of it come to the load's values.

Codes, exponents and ratios are settings of the meter: they stand still, and what they multiply is shown divided.
A derived point whose parts are all hidden has its value spread over them: whole steps of the heaviest first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from parkfleet.protocols.profile import Derived, Point, Profile
from parkfleet.protocols.ratio import fraction
from parkfleet.protocols.registers import column_of, encode
from parkfleet.simulators.naming import Source, source_of
from parkfleet.simulators.slots import to_slot

#: The transformers that a meter with registers for them is set to.
RATIOS: Final = {"ct": 20.0, "pt": 1.0}


@dataclass(frozen=True)
class Share:
    """Which part of a derived point's value a hidden point holds."""

    total: Source
    factor: Fraction  # of the derived point
    parts: tuple[tuple[Point, Fraction], ...]  # with their weights, the heaviest first
    place: int  # of this point among them

    def value(self, quantities: Mapping[str, float]) -> float:
        """The point's value in its own unit."""
        rest = Fraction(self.total.value(quantities)) / self.factor
        last, weight = self.parts[-1]
        if not _is_float(last):  # rounded once, to the finest step: a carry goes up
            step = weight * _resolution(last)
            rest = round(rest / step) * step
        for point, weight in self.parts[: self.place]:
            rest -= weight * _whole_steps(rest / weight, point)
        point, weight = self.parts[self.place]
        held = rest / weight
        return float(held if self.place == len(self.parts) - 1 else _whole_steps(held, point))


@dataclass(frozen=True)
class Sensor:
    """A point and what it shows."""

    point: Point
    source: Source
    text: str
    setting: int | None = None  # the slot of a code, exponent or ratio
    factor: Fraction = field(default=Fraction(1))  # by which a reader multiplies what stands in the registers
    share: Share | None = None

    def words(self, quantities: Mapping[str, float]) -> list[int]:
        """The point's registers."""
        if self.point.type == "string":
            return encode(self.point, 0, self.text)
        if self.setting is not None:
            return encode(self.point, self.setting)
        value = self.share.value(quantities) if self.share else self.source.value(quantities)
        return encode(self.point, to_slot(self.point, value / float(self.factor)))


def sensors_of(profile: Profile, serial_number: int) -> list[Sensor]:
    """One for each point of a profile."""
    settings = _settings(profile)
    shares = _shares(profile, settings)
    names = {own.point: str(own.one_of[0]) for own in profile.signature}
    found = []
    for point in profile.points:
        is_serial = "serial" in point.id
        source = Source("", 1.0, float(serial_number)) if is_serial else source_of(point)
        text = str(serial_number) if is_serial else names.get(point.id, profile.profile)
        factor = _factor(profile, point, settings)
        found.append(Sensor(point, source, text, settings.get(point.id), factor, shares.get(point.id)))
    return found


def _settings(profile: Profile) -> dict[str, int]:
    """The slots of the points by which others are multiplied."""
    codes: dict[str, dict[int, Fraction]] = {}
    found: dict[str, int] = {}
    for own in profile.quantities:
        for source in (own.scale_from, own.unit_from):
            if source and source.table:
                known = codes.get(source.point, source.table)  # a code that all who look there know
                codes[source.point] = {code: fraction(source.table[code]) for code in known if code in source.table}
            elif source:
                found[source.point] = 1 if source.power == -1 else 0
    for id_, table in codes.items():
        found[id_] = min(table, key=lambda code: (abs(table[code] - 1), code))
    found |= {own.point: own.one_of[0] for own in profile.signature if isinstance(own.one_of[0], int)}
    points = {point.id: point for point in profile.points}
    for name, ratio in RATIOS.items():
        if place := getattr(profile.ratio_from, name, None):
            found[place] = to_slot(points[place], ratio)
    return found


def _factor(profile: Profile, own: Point | Derived, settings: Mapping[str, int]) -> Fraction:
    """What a reader multiplies a point's value by."""
    factor = Fraction(1)
    for source in (own.scale_from, own.unit_from):
        if source and source.power is not None:
            factor *= Fraction(10) ** (source.power * settings[source.point])
        elif source:
            factor *= fraction(source.table[settings[source.point]])
    points = {point.id: point for point in profile.points}
    for name in own.ratio:
        if id_ := getattr(profile.ratio_from, name, None):
            factor *= Fraction(str(column_of(points[id_]).value(settings[id_])))
    return factor


def _shares(profile: Profile, settings: Mapping[str, int]) -> dict[str, Share]:
    """The shares of the hidden points that make a derived one; points that are delivered too show their own."""
    points = {point.id: point for point in profile.points}
    found: dict[str, Share] = {}
    for derived in profile.derived:
        if any(part.minus or not points[part.point].hidden for part in derived.parts):
            continue
        parts = [(points[part.point], fraction(part.times)) for part in derived.parts]
        parts.sort(key=lambda part: (_is_float(part[0]), -part[1] * _resolution(part[0])))
        total, factor = source_of(derived), _factor(profile, derived, settings)
        for place, (point, _) in enumerate(parts):
            found[point.id] = Share(total, factor, tuple(parts), place)
    return found


def _is_float(point: Point) -> bool:
    return point.type.startswith("float")


def _resolution(point: Point) -> Fraction:
    """The step of an integer point's value."""
    return Fraction(abs(point.factor.multiply), 10**point.factor.decimals)


def _whole_steps(value: Fraction, point: Point) -> Fraction:
    step = _resolution(point)
    return math.floor(value / step) * step
