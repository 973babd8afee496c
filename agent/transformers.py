"""Transformer: the ratios that current and voltage transformers have, and what a meter behind one should not say."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from parkfleet.agent.plan import MeterPlan
from parkfleet.protocols.ratio import Ratio, fraction

if TYPE_CHECKING:
    from parkfleet.agent.reading import PointReading

#: Primary currents in A: the preferred ones of IEC 61869-2, their decimal multiples, and those sold between them.
_PRIMARY_A: Final = (
    *(30, 40, 50, 60, 75, 80, 100, 120, 125, 150, 160, 200, 250, 300, 400, 500, 600, 750, 800, 1000, 1200, 1250),
    *(1500, 1600, 2000, 2500, 3000, 4000, 5000, 6000),
)
#: Primary voltages in V of medium-voltage networks.
_PRIMARY_V: Final = (3000, 3300, 6000, 6600, 10_000, 10_500, 11_000, 15_000, 20_000, 22_000, 30_000, 33_000, 35_000)
#: Ratios as the plates have them, those that are commoner first; several may be equal (1000/5 is 200/1).
USUAL_CT: Final = {f"{one}/{two}": Fraction(one, two) for two in (5, 1) for one in _PRIMARY_A}
USUAL_PT: Final = {f"{one}/{two}": Fraction(one, two) for two in (100, 110) for one in _PRIMARY_V}
#: A secondary side carries 5 A (or 1 A), for hours 1.2 times that; more than twice is no secondary side.
_SECONDARY_A: Final = 5.0
_BEYOND: Final = 2.0


def usual(table: dict[str, Fraction], factor: float, tolerance: float) -> str:
    """The commonest ratio that is a factor, by a relative tolerance; "" for none."""
    return next((plate for plate, ratio in table.items() if abs(factor / float(ratio) - 1) <= tolerance), "")


def doubts(plan: MeterPlan, points: "tuple[PointReading, ...]") -> Iterator[str]:
    """What of a reading speaks against the ratio that is configured for its meter, in sentences."""
    ratio = plan.config.ct
    if ratio is None or fraction(ratio) <= 1:
        return
    limit = _BEYOND * _secondary(ratio)
    for point, said in zip(plan.points, points, strict=True):
        value = said.value
        if point.ratio == ["ct"] and isinstance(value, int | float) and abs(value) > limit:
            yield (
                f"{point.id} reads {value:g} {point.unit}, and a transformer's secondary side has at most"
                f" {limit / _BEYOND:g} A: this meter seems to report primary values already, and with ct {ratio}"
                " they count twice. Compare with a clamp; leave ct away if so"
            )
            return


def _secondary(ratio: Ratio) -> float:
    """The secondary current that a ratio is written with, 5 A where it does not say."""
    _, stroke, secondary = str(ratio).partition("/")
    return float(secondary) if stroke else _SECONDARY_A
