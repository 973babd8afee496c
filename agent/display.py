"""Display: what the installer reads off a meter settles what its registers mean.

For every point of a profile that could show the value, each address beside its own, each order of bytes and each
power of ten is tried; what explains the display with the fewest deviations from the profile comes first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Final, get_args

import msgspec

from parkfleet.agent.identify import Registers
from parkfleet.agent.plausibility import judge
from parkfleet.protocols.modbus.pdu import ModbusError, ReadRequest
from parkfleet.protocols.profile import MAX_REGISTERS, Order, Point, Profile, Table
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.readplan import WireCost, plan_requests
from parkfleet.protocols.registers import column_of, decode

#: Addresses as printed in manuals begin with 0 or with 1.
SHIFTS: Final = (0, -1, 1)
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
EXPONENTS: Final = tuple(sorted(range(-6, 7), key=abs))
#: An explanation that makes nonsense of the meter's other points is chance.
ABSURD: Final = 50
#: Fewer digits than these fit too much by chance.
SIGNIFICANT: Final = 3
_COST: Final = WireCost(request=0.04, byte=0.001)
_DISPLAY: Final = re.compile(r"^\s*([+-]?\d+(?:[.,]\d+)?)\s*([^\d\s].*?)?\s*$")
#: unit -> (what it measures, power of ten). Of a unit that is not here only itself is meant.
_UNITS: Final = {
    f"{prefix}{unit}": (unit, power)
    for unit in ("W", "Wh", "VA", "VAh", "var", "varh", "V", "A")
    for prefix, power in (("", 0), ("m", -3), ("k", 3), ("M", 6), ("G", 9))
} | {"m³": ("L", 3), "m3": ("L", 3), "L": ("L", 0), "l": ("L", 0), "m³/h": ("m³/h", 0), "m3/h": ("m³/h", 0)}

Image = Mapping[tuple[Table, int], int]


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
        return cls(Decimal(match[1].replace(",", ".")), match[2] or "")

    @property
    def digits(self) -> int:
        """Significant digits."""
        return len(self.value.as_tuple().digits)

    @property
    def tolerance(self) -> float:
        """The display may round or cut, and the meter goes on counting: one of its last digit."""
        return 1.0 * 10.0 ** int(self.value.as_tuple().exponent)


class Match(msgspec.Struct, frozen=True):
    """One display value explained by one point."""

    shown: str
    point: str
    address: int  # where it was found
    value: float  # what the registers say, in the profile's unit
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

    @property
    def as_is(self) -> bool:
        """Whether the profile needs no change."""
        return self.cost == 0


async def explain(registers: Registers, profiles: Sequence[Profile], shown: Sequence[Shown]) -> list[Explanation]:
    """Everything that explains most of the display values, simplest first. Raises LineDownError."""
    found: list[Explanation] = []
    for profile in profiles:
        image = await _around(registers, profile)
        found += _explanations(profile, image, shown)
    most = max((len(explanation.matches) for explanation in found), default=0)
    best = [explanation for explanation in found if len(explanation.matches) == most]
    return sorted(best, key=lambda e: (e.fit < ABSURD, e.cost, -e.fit * e.weight))


def adjusted(profile: Profile, explanation: Explanation) -> Profile:
    """The profile as the display says it must be, named PROFILE-site."""
    exponents = {match.unit: match.exponent for match in explanation.matches}

    def point(old: Point) -> Point:
        new = _moved(old, explanation.shift, explanation.order)
        exponent = exponents.get(old.unit, 0) if old.type not in ("string", "bits", "bool") else 0
        return msgspec.structs.replace(new, scale=new.scale * Decimal(10) ** exponent)

    points = [point(old) for old in profile.points if 0 <= old.address + explanation.shift <= 65536 - old.count]
    holes = [
        msgspec.structs.replace(hole, address=hole.address + explanation.shift)
        for hole in profile.holes
        if 0 <= hole.address + explanation.shift <= 65535
    ]
    told = f"{profile.notes} Settled by the meter's display: {sentence(explanation)}.".strip()
    name = f"{profile.profile[:58]}-site"
    return msgspec.structs.replace(profile, profile=name, points=points, holes=holes, expected=[], notes=told)


def sentence(explanation: Explanation) -> str:
    """The explanation for people."""
    changes = []
    if explanation.order is not None:
        changes.append(f"byte order {explanation.order}")
    if explanation.shift:
        changes.append(f"every address {explanation.shift:+d}")
    for unit, exponent in sorted({(match.unit, match.exponent) for match in explanation.matches if match.exponent}):
        changes.append(f"scale x 10^{exponent} for {unit or 'values without a unit'}")
    what = ", ".join(changes) or "as the profile says"
    seen = "; ".join(f"{match.shown} is {match.point} at {match.address}" for match in explanation.matches)
    return f"{what} ({seen})"


def _explanations(profile: Profile, image: Image, shown: Sequence[Shown]) -> Iterator[Explanation]:
    orders: tuple[Order | None, ...] = (None, *ORDERS)
    for shift, order in product(SHIFTS, orders):
        if order is not None and all(point.order == order for point in profile.points if point.count > 1):
            continue  # that is what the profile says itself
        matches = [match for value in shown if (match := _match(profile, image, value, shift, order))]
        if matches:
            cost = abs(shift) + (order is not None) + sum(_cost(match.exponent) for match in matches)
            fit, weight = _fit(profile, image, shift, order)
            yield Explanation(profile.profile, shift, order, tuple(matches), round(cost, 2), fit, weight)


def _match(profile: Profile, image: Image, shown: Shown, shift: int, order: Order | None) -> Match | None:
    """The point that explains a display value with the smallest change of scale."""
    found: list[Match] = []
    for point in profile.points:
        if point.type in ("string", "bits", "bool") or (order is not None and point.count == 1):
            continue
        power = _power(shown.unit, point.unit)
        value = _value(image, point, shift, order)
        if power is None or value is None or (value == 0 and shown.value != 0):
            continue
        for exponent in EXPONENTS:
            if abs(value * 10.0 ** (exponent - power) - float(shown.value)) <= shown.tolerance:
                text = f"{shown.value} {shown.unit}".strip()
                found.append(Match(text, point.id, point.address + shift, value, point.unit, exponent))
                break
    return min(found, key=lambda match: abs(match.exponent), default=None)


def _fit(profile: Profile, image: Image, shift: int, order: Order | None) -> tuple[int, float]:
    """How plausible the profile's points are, read like this; those that could not be read speak against it."""
    judged = [
        judge(point, value, "good" if value is not None else "invalid")
        for point in profile.points
        if point.type not in ("string", "bits", "bool")
        for value in [_value(image, point, shift, order)]
    ]
    most = sum(judgement.most for judgement in judged)
    weight = max(0.0, sum(judgement.weight for judgement in judged))
    return round(100 * weight / most) if most else 0, round(weight, 1)


def _cost(exponent: int) -> float:
    """A thousand is a unit taken wrongly, likelier than other powers."""
    return 0.0 if not exponent else 1.0 + 0.1 * abs(exponent)


def _power(shown: str, point: str) -> int | None:
    """Power of ten from the point's unit to the display's; None when they do not measure the same."""
    if not shown or shown == point:
        return 0
    kind, power = _UNITS.get(shown, (shown, 0))
    other, others = _UNITS.get(point, (point, 0))
    return power - others if kind == other else None


def _value(image: Image, point: Point, shift: int, order: Order | None) -> float | None:
    moved = _moved(point, shift, order) if 0 <= point.address + shift <= 65536 - point.count else None
    places = [(point.table, point.address + shift + n) for n in range(point.count)]
    if moved is None or any(place not in image for place in places):
        return None
    slot, quality, _ = decode(moved, [image[place] for place in places])
    value = column_of(moved).value(slot) if quality == Quality.GOOD else None
    return float(value) if isinstance(value, int | float) else None


def _moved(point: Point, shift: int, order: Order | None) -> Point:
    new = order if order is not None and point.count > 1 and point.type != "string" else point.order
    return msgspec.structs.replace(point, address=point.address + shift, order=new)


async def _around(registers: Registers, profile: Profile) -> Image:
    """The registers of a profile's points, and those beside them, as far as the meter gives them."""
    image: dict[tuple[Table, int], int] = {}
    for planned in plan_requests(profile, profile.points, registers.unit, _COST):
        request = planned.request
        first, behind = request.address, request.address + request.count
        if await _take(registers, request.table, first - 1, behind + 1, image):
            continue
        await _take(registers, request.table, first, behind, image)
        # Whoever refuses a block that begins one too early or late gives the block one place beside.
        await _take(registers, request.table, first - 1, behind - 1, image)
        await _take(registers, request.table, first + 1, behind + 1, image)
    return image


async def _take(
    registers: Registers, table: Table, first: int, behind: int, image: dict[tuple[Table, int], int]
) -> bool:
    """Reads registers [first, behind) into the image; False when the meter does not give them."""
    first, behind = max(0, first), min(65536, behind)
    if not 1 <= behind - first <= MAX_REGISTERS:
        return False
    try:
        words = await registers.ask(ReadRequest(registers.unit, table, first, behind - first))
    except ModbusError:
        return False
    image.update({(table, first + n): word for n, word in enumerate(words)})
    return True
