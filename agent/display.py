"""Display: what the installer reads off a meter settles what its registers mean.

For every quantity of a profile that could show the value, each address beside its own, each order of bytes, each power
of ten and each usual transformer is tried; what explains the display with the fewest deviations comes first.
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product
from typing import Final, get_args

import msgspec

from parkfleet.agent.identify import Registers
from parkfleet.agent.image import Image, moved_point
from parkfleet.agent.plausibility import judge
from parkfleet.agent.transformers import USUAL_CT, USUAL_PT, usual
from parkfleet.protocols.profile import Derived, Hole, Order, Point, Profile, RatioName
from parkfleet.protocols.ratio import fraction

#: Addresses as printed in manuals begin with 0 or with 1.
SHIFTS: Final = (0, -1, 1)
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
EXPONENTS: Final = tuple(sorted(range(-6, 7), key=abs))
#: An explanation that makes nonsense of the meter's other points is chance.
ABSURD: Final = 50
#: Fewer digits than these fit too much by chance.
SIGNIFICANT: Final = 3
_DISPLAY: Final = re.compile(r"^\s*([+-]?\d{1,20}(?:[.,]\d{1,20})?)\s*([^\d\s].{0,11}?)?\s*$")
#: unit -> (what it measures, power of ten). Of a unit that is not here only itself is meant.
_UNITS: Final = {
    f"{prefix}{unit}": (unit, power)
    for unit in ("W", "Wh", "VA", "VAh", "var", "varh", "V", "A", "J")
    for prefix, power in (("", 0), ("m", -3), ("k", 3), ("M", 6), ("G", 9))
} | {"m³": ("L", 3), "L": ("L", 0), "kg": ("kg", 0), "t": ("kg", 3)}
#: As people type them. "M" is mega: no meter shows milliwatts.
_SPELLINGS: Final = {unit.lower(): unit for unit in _UNITS if not unit.startswith("m") or unit == "m³"} | {
    "m3": "m³",
    "m3/h": "m³/h",
    "c": "°C",
    "℃": "°C",
    "hz": "Hz",
    "度": "kWh",
    "立方米": "m³",
}
#: A transformer that nobody has told of is as likely as a wrong order.
_RATIO_COST: Final = 1.0
#: A meter of 100,000 kWh at 100 kW counts 1 kWh in half a minute; one of few kWh some of its last digits.
_GROWN: Final = 1e-5
_GROWN_DIGITS: Final = 3
#: Ratios lie 4 % apart: what is read less exactly settles none.
_RATIO_SPREAD: Final = 0.02


class Shown(msgspec.Struct, frozen=True):
    """What the installer typed."""

    value: Decimal
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Shown":
        """Reads "1234.5 kWh", "230.1V" or "50". Raises ValueError with a sentence."""
        match = _DISPLAY.match(text)
        if match is None:
            raise ValueError(f"expected what the display shows, such as 1234.5kWh or 230.1V, got {text!r}")
        unit = match[2] or ""
        known = unit if unit in _UNITS else _SPELLINGS.get(unit.lower(), unit)
        return cls(Decimal(match[1].replace(",", ".")), known)

    @property
    def digits(self) -> int:
        """Significant digits."""
        return len(self.value.as_tuple().digits)

    @property
    def tolerance(self) -> float:
        """The display may round or cut, and the meter goes on counting: one of its last digit."""
        return 1.0 * 10.0 ** int(self.value.as_tuple().exponent)

    @property
    def growth(self) -> float:
        """By how much a counter may have gone on since it was read off: a minute or so."""
        return max(_GROWN_DIGITS * self.tolerance, _GROWN * abs(float(self.value)))


class Match(msgspec.Struct, frozen=True):
    """One display value explained by one quantity."""

    shown: str
    point: str
    address: int  # where it was found; of a derived one its first part's
    value: float  # what the registers say, in the profile's unit, the ratios applied
    unit: str
    exponent: int  # the profile's scale must be multiplied by this power of ten


class Explanation(msgspec.Struct, frozen=True):
    """A reading of the profile under which the display comes true."""

    profile: str
    shift: int  # all addresses of the profile
    order: Order | None  # of all values that have more than one register; None: as the profile says
    matches: tuple[Match, ...]
    cost: float  # deviations from the profile
    fit: int  # 0 to 100: how plausible it makes all the other points
    weight: float  # the same without measure: more points say more
    ct: str = ""  # the transformers before the meter, such as 200/5
    pt: str = ""
    direct: tuple[RatioName, ...] = ()  # what would change a value of which the registers say what the display shows

    @property
    def as_is(self) -> bool:
        """Whether the profile needs no change."""
        return not self.shift and self.order is None and not any(match.exponent for match in self.matches)


async def explain(registers: Registers, profiles: Sequence[Profile], shown: Sequence[Shown]) -> list[Explanation]:
    """Everything that explains most of the display values, simplest first. Raises LineDownError."""
    found: list[Explanation] = []
    for profile in profiles:
        image = Image(profile)
        await image.read(registers)
        found += _explanations(image, shown)
    most = max((len(explanation.matches) for explanation in found), default=0)
    best = [explanation for explanation in found if len(explanation.matches) == most]
    return sorted(best, key=lambda e: (e.fit < ABSURD, e.cost, -e.fit * e.weight))


def adjusted(profile: Profile, explanation: Explanation, number: int = 1) -> Profile:
    """The profile as the display says it must be, named PROFILE-site (PROFILE-site2 …)."""
    exponents = {match.unit: match.exponent for match in explanation.matches}
    shift = explanation.shift

    def point(old: Point) -> Point:
        new = moved_point(old, shift, explanation.order)
        exponent = exponents.get(old.unit, 0) if old.type not in ("string", "bits", "bool") else 0
        return msgspec.structs.replace(new, scale=new.scale * Decimal(10) ** exponent)

    lost = {old.id for old in profile.points if not 0 <= old.address + shift <= 65536 - old.count}
    return msgspec.structs.replace(
        _without(profile, lost),
        profile=f"{profile.profile[:56]}-site{number if number > 1 else ''}",
        points=[point(old) for old in profile.points if old.id not in lost],
        holes=[moved for hole in profile.holes if (moved := _moved_hole(hole, shift))],
        never_write=[both for hole in profile.never_write for both in _either(hole, shift)],
        expected=[],
        notes=f"{profile.notes} Settled by the meter's display: {sentence(explanation)}.".strip(),
    )


def sentence(explanation: Explanation) -> str:
    """The explanation for people."""
    changes = []
    if explanation.order is not None:
        changes.append(f"byte order {explanation.order}")
    if explanation.shift:
        changes.append(f"every address {explanation.shift:+d}")
    for unit, exponent in sorted({(match.unit, match.exponent) for match in explanation.matches if match.exponent}):
        changes.append(f"scale x 10^{exponent} for {unit or 'values without a unit'}")
    changes += [f"{name} {ratio}" for name, ratio in (("ct", explanation.ct), ("pt", explanation.pt)) if ratio]
    what = ", ".join(changes) or "as the profile says"
    if explanation.direct:
        names = " and ".join(explanation.direct)
        what += f", without {names}: no such transformer is before the meter, or it applies the ratio by itself"
    seen = "; ".join(f"{match.shown} is {match.point} at {match.address}" for match in explanation.matches)
    return f"{what} ({seen})"


def _explanations(image: Image, shown: Sequence[Shown]) -> Iterator[Explanation]:
    orders: tuple[Order | None, ...] = (None, *ORDERS)
    points = image.profile.points
    for shift, order in product(SHIFTS, orders):
        if order is not None and all(point.order == order for point in points if point.count > 1):
            continue  # that is what the profile says itself
        values = {own.id: value for own in image.numbers if (value := image.value(own.id, shift, order)) is not None}
        if not values:
            continue
        fit, weight = _fit(image, values)
        for ct, pt in _ratios(image, values, shown):
            matches = [match for one in shown if (match := _match(image, values, one, (shift, order), ct, pt))]
            if matches:
                cost = abs(shift) + (order is not None) + sum(_cost(match.exponent) for match in matches)
                cost += _RATIO_COST * (bool(ct) + bool(pt))
                taken = {name for match in matches for name in _takes(image, match.point)}
                direct = tuple(sorted(taken)) if not ct and not pt else ()
                found = (image.profile.profile, shift, order, tuple(matches), round(cost, 2), fit, weight)
                yield Explanation(*found, ct, pt, direct)


def _match(
    image: Image, values: dict[str, float], shown: Shown, way: tuple[int, Order | None], ct: str, pt: str
) -> Match | None:
    """The quantity that explains a display value with the smallest change of scale."""
    shift, order = way
    found: list[Match] = []
    for own in image.numbers:
        value, power = values.get(own.id), _power(shown.unit, own.unit)
        if order is not None and isinstance(own, Point) and own.count == 1:
            continue
        if power is None or value is None or own.id in _hidden(image) or (value == 0 and shown.value != 0):
            continue
        factor = _factor(own, ct, pt)
        value *= factor
        spread = 0.0 if factor == 1 else factor * _resolution(own)  # what the meter itself counts more finely
        grown = shown.growth if own.kind == "counter" else 0.0
        for exponent in EXPONENTS:
            unit = 10.0 ** (exponent - power)
            apart, least = value * unit - float(shown.value), shown.tolerance + spread * unit
            if -least <= apart <= least + grown:
                text = f"{shown.value} {shown.unit}".strip()
                found.append(Match(text, own.id, _address(image, own) + shift, value, own.unit, exponent))
                break
    return min(found, key=lambda match: abs(match.exponent), default=None)


def _ratios(image: Image, values: dict[str, float], shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """(ct, pt) that make some value one that the display shows; without any first."""
    factors = [
        (_takes(image, own.id), float(one.value) * 10.0**power / value, tolerance)
        for own in image.numbers
        for one in shown
        if (value := values.get(own.id)) and one.value and (power := _power(one.unit, own.unit)) is not None
        if (tolerance := _relative(one, own, value)) <= _RATIO_SPREAD
    ]
    pts = {""} | {usual(USUAL_PT, factor, tolerance) for names, factor, tolerance in factors if names == ["pt"]}
    cts = {""} | {
        usual(USUAL_CT, factor / float(fraction(pt or 1)), tolerance)
        for names, factor, tolerance in factors
        if "ct" in names
        for pt in (pts if "pt" in names else {""})
    }
    return sorted(product(cts, pts), key=lambda pair: (bool(pair[0]) + bool(pair[1]), pair))


def _relative(shown: Shown, own: Point | Derived, value: float) -> float:
    """How exactly a display and a register say how many times the one is the other."""
    read_off = shown.tolerance + (shown.growth if own.kind == "counter" else 0.0)
    return read_off / abs(float(shown.value)) + _resolution(own) / abs(value)


def _takes(image: Image, id: str) -> list[RatioName]:
    """The ratios that a value needs and the meter does not say itself: those the installer may have to give."""
    known = image.profile.ratio_from
    own = next(own for own in image.numbers if own.id == id)
    return [name for name in own.ratio if known is None or getattr(known, name) is None]


def _factor(own: Point | Derived, ct: str, pt: str) -> float:
    """What the transformers multiply a value by."""
    given = {"ct": ct, "pt": pt}
    factor = fraction(1)
    for name in own.ratio:
        factor *= fraction(given[name] or 1)
    return float(factor)


def _resolution(own: Point | Derived) -> float:
    """The step of a value in its registers; 0 of floats."""
    return 0.0 if isinstance(own, Derived) or own.type.startswith("float") else float(abs(own.scale))


def _fit(image: Image, values: dict[str, float]) -> tuple[int, float]:
    """How plausible the profile's numbers are, read like this; those that could not be read speak against it."""
    judged = [judge(own, values.get(own.id), "good" if own.id in values else "invalid") for own in image.numbers]
    most = sum(judgement.most for judgement in judged)
    weight = max(0.0, sum(judgement.weight for judgement in judged))
    return round(100 * weight / most) if most else 0, round(weight, 1)


def _cost(exponent: int) -> float:
    """A thousand is a unit taken wrongly, likelier than other powers."""
    return 0.0 if not exponent else 1.0 + 0.1 * abs(exponent)


def shows(shown: Shown, unit: str) -> bool:
    """Whether a value in this unit may be what the display shows."""
    return _power(shown.unit, unit) is not None


def _power(shown: str, point: str) -> int | None:
    """Power of ten from the point's unit to the display's; None when they do not measure the same."""
    if not shown or shown == point:
        return 0
    kind, power = _UNITS.get(shown, (shown, 0))
    other, others = _UNITS.get(point, (point, 0))
    return power - others if kind == other else None


def _hidden(image: Image) -> set[str]:
    """Points that no display shows: parts and codes."""
    return {point.id for point in image.profile.points if point.hidden}


def _address(image: Image, own: Point | Derived) -> int:
    """Where a value lies."""
    places = {point.id: point.address for point in image.profile.points}
    return own.address if isinstance(own, Point) else places[own.parts[0].point]


def _moved_hole(hole: Hole, shift: int) -> Hole | None:
    """The range at another place; None where that is no address."""
    if not 0 <= hole.address + shift <= 65536 - hole.count:
        return None
    return msgspec.structs.replace(hole, address=hole.address + shift)


def _either(hole: Hole, shift: int) -> list[Hole]:
    """A range that nobody may write, where it is and where it may be: the display settles what is read, not that."""
    moved = _moved_hole(hole, shift) if shift else None
    return [hole, moved] if moved else [hole]


def _without(profile: Profile, lost: set[str]) -> Profile:
    """The profile without whatever refers to points that are not there; its points are for the caller."""
    if not lost:
        return profile
    replace = msgspec.structs.replace
    return replace(
        profile,
        points=[point for point in profile.points if point.id not in lost],
        derived=[own for own in profile.derived if not any(part.point in lost for part in own.parts)],
        identity=[id for id in profile.identity if id not in lost],
        signature=[own for own in profile.signature if own.point not in lost],
        expected=[],
    )
