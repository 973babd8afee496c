"""Plausibility: whether a value is one that a meter would show for such a point."""

import math
from dataclasses import dataclass
from typing import Final

from parkfleet.protocols.payload.series import Value
from parkfleet.protocols.profile import Derived, Point

#: A float32 of random bits is nearly always far outside: what is closer to 0 than this, and not 0, is no measurement.
_LEAST: Final = 1e-6
_LARGEST_COUNTER: Final = 1e9
#: By unit: (least, largest, weight of a value inside). Grids: 50 and 60 Hz, 100 to 690 V.
_RANGES: Final = {
    "Hz": (45.0, 65.0, 4.0),
    "V": (80.0, 480.0, 3.0),
    "°C": (-40.0, 200.0, 1.5),
    "K": (-100.0, 200.0, 1.0),
    "%": (0.0, 100.0, 1.0),
    "A": (-10_000.0, 10_000.0, 1.0),
    "bar": (-1.0, 400.0, 1.0),
    "kPa": (-100.0, 40_000.0, 1.0),
    "m/s": (-100.0, 5_000.0, 1.0),
    "m³/h": (-100_000.0, 100_000.0, 0.5),
    "h": (0.0, 1e6, 0.5),
}
_POWER: Final = frozenset({"W", "kW", "VA", "kVA", "var", "kvar", "GJ/h", "kg/h"})
_LARGEST_POWER: Final = 1e8
#: A register that reads 0 says little: so does every unused one.
_ZERO: Final = 0.1


@dataclass(frozen=True)
class Judgement:
    """What a value says for the profile (above 0) or against it (below)."""

    weight: float
    most: float  # what the best value of such a point would have weighed

    @property
    def plausible(self) -> bool:
        return self.weight > 0


def judge(point: Point | Derived, value: Value, quality: str) -> Judgement:
    """Judges one point's reading."""
    least, largest, most = _expected(point)
    if quality == "invalid":
        return Judgement(
            _ZERO if isinstance(point, Point) and point.invalid else -most, most
        )  # the meter's own code for "not available"
    if quality != "good" or value is None:
        return Judgement(-most, most)
    if isinstance(value, str):
        return Judgement(1.0 if value and value.isprintable() else -1.0, 1.0)
    if not math.isfinite(value) or (value and abs(value) < _LEAST):
        return Judgement(-most, most)
    if value == 0 and point.unit != "Hz":  # a phase that is not connected, a power factor of no load
        return Judgement(_ZERO, most)
    return Judgement(most if least <= value <= largest else -most, most)


def strength(point: Point | Derived) -> float:
    """How much the point's value can tell about a profile."""
    return _expected(point)[2]


def _expected(point: Point | Derived) -> tuple[float, float, float]:
    if "power_factor" in point.id:
        return -1.0, 1.0, 2.0
    if "battery" in point.id:
        return 1.0, 60.0, 1.0
    if point.kind == "counter":
        return 0.0, _LARGEST_COUNTER, 0.5
    if point.unit in _POWER:
        return -_LARGEST_POWER, _LARGEST_POWER, 0.5
    return _RANGES.get(point.unit, (-1e9, 1e9, 0.2))
