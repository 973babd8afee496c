"""Load: what flows through a meter at a time: physical quantities that agree with each other.

A load is a pure function of time (unix seconds) and its seed. Quantities have these names and units:

    voltage current power reactive apparent factor     V A W var VA, each also with _l1 _l2 _l3
    voltage_l12 _l23 _l31, current_n, frequency         V, A, Hz
    energy, energy_export, reactive_energy, reactive_energy_export, apparent_energy     Wh varh VAh, also with _l1 …
    flow, flow_standard, volume, volume_standard, volume_reverse, velocity       m³/h, m³, m/s
    temperature, supply, return, difference, pressure (absolute)                 °C, °C, °C, K, Pa
"""

import math
import random
from typing import Final, Protocol

from parkfleet.protocols.profile import Medium
from parkfleet.simulators.curves import DAY, HOUR, Curve, Ripple, ripples, wave, week

#: Water's heat capacity by volume in Wh/(m³·K), held constant: 4.187 kJ/(kg·K) × 1000 kg/m³ / 3.6.
WATER_HEAT: Final = 4187 / 3.6
#: Gas at standard conditions in China (GB/T 19205): 20 °C, 101.325 kPa.
STANDARD_K: Final = 293.15
STANDARD_PA: Final = 101_325.0
#: Where local time is: the parks are in China.
UTC_OFFSET: Final = 8 * HOUR
#: Counters begin up to a year before this moment (2026-01-01), by the seed.
INSTALLED_BEFORE: Final = 1_767_225_600.0

# Shares of the peak at each full hour. An industrial tenant: two shifts with a break at noon, a base load at night.
_SHIFTS: Final = (
    *(0.18, 0.17, 0.16, 0.16, 0.17, 0.20, 0.30, 0.55, 0.85, 0.97, 1.00, 0.95),
    *(0.72, 0.88, 0.98, 0.97, 0.93, 0.85, 0.70, 0.66, 0.62, 0.48, 0.30, 0.21),
)
_SHIFTS_OFF: Final = (
    *(0.16, 0.15, 0.15, 0.15, 0.15, 0.15, 0.17, 0.20, 0.26, 0.30, 0.31, 0.30),
    *(0.27, 0.28, 0.29, 0.28, 0.26, 0.24, 0.21, 0.20, 0.19, 0.18, 0.17, 0.16),
)
# Water: a night minimum that is nearly only leakage, peaks at arrival, noon and shift change.
_TAPS: Final = (
    *(0.04, 0.03, 0.03, 0.03, 0.03, 0.06, 0.25, 0.70, 0.85, 0.65, 0.60, 0.85),
    *(1.00, 0.65, 0.55, 0.55, 0.60, 0.90, 0.70, 0.45, 0.35, 0.22, 0.12, 0.06),
)
_TAPS_OFF: Final = (
    *(0.04, 0.03, 0.03, 0.03, 0.03, 0.04, 0.06, 0.10, 0.16, 0.18, 0.20, 0.22),
    *(0.22, 0.18, 0.15, 0.14, 0.14, 0.16, 0.14, 0.10, 0.08, 0.07, 0.05, 0.04),
)
# Heating: boosted before work, lowered in the night.
_HEATING: Final = (
    *(0.45, 0.44, 0.44, 0.46, 0.55, 0.80, 1.00, 0.97, 0.90, 0.82, 0.76, 0.72),
    *(0.70, 0.69, 0.69, 0.70, 0.73, 0.76, 0.74, 0.68, 0.60, 0.54, 0.49, 0.46),
)
_HEATING_OFF: Final = (
    *(0.45, 0.44, 0.44, 0.45, 0.48, 0.52, 0.55, 0.55, 0.54, 0.53, 0.52, 0.51),
    *(0.50, 0.50, 0.50, 0.50, 0.51, 0.52, 0.52, 0.51, 0.50, 0.48, 0.47, 0.46),
)
_PHASES: Final = ("l1", "l2", "l3")


class Load(Protocol):
    """What a simulated meter measures."""

    def quantities(self, time: float) -> dict[str, float]:
        """Everything there is to measure at a unix time, by the names above."""


def load_of(medium: Medium, seed: int) -> Load:
    """A load of a plausible size for one tenant."""
    random_ = random.Random(seed)
    match medium:
        case "power":
            return PowerLoad(seed, peak=random_.uniform(15e3, 60e3))
        case "water":
            return WaterLoad(seed, peak=random_.uniform(2, 12))
        case "heat":
            return HeatLoad(seed, peak=random_.uniform(40e3, 120e3))
        case "gas":
            return GasLoad(seed, peak=random_.uniform(20, 80))
        case "other":
            return NoLoad()


class NoLoad:
    """Nothing flows."""

    def quantities(self, time: float) -> dict[str, float]:
        return {}


class PowerLoad:
    """A three-phase tenant. Each phase has an active and a reactive curve; all else follows from them."""

    def __init__(self, seed: int, peak: float) -> None:
        """peak: W over all phases."""
        random_ = random.Random(f"power {seed}")
        self._since = _installed(random_)
        self._peak = peak
        shares = [random_.uniform(0.85, 1.15) for _ in _PHASES]
        self._active = [_shifts(random_, peak * share / sum(shares), 0.25) for share in shares]
        tangent = random_.uniform(0.3, 0.5)  # a power factor of about 0.9 to 0.95
        self._reactive = [_shifts(random_, peak * tangent * share / sum(shares), 0.12) for share in shares]
        self._phase = random_.uniform(0, 2 * math.pi)

    def quantities(self, time: float) -> dict[str, float]:
        """See Load."""
        found = {"frequency": wave(time, 50.0, 0.03, 137.0, self._phase)}
        for index, name in enumerate(_PHASES):
            p, q = self._active[index].rate(time), self._reactive[index].rate(time)
            u = wave(time, 231.0, 2.5, 5400.0, self._phase + index) - 4.0 * p / self._peak  # the feeder sags a little
            found |= _phase_quantities(f"_{name}", p, q, u)
            found[f"energy_{name}"] = self._active[index].integral(self._since, time)
            found[f"reactive_energy_{name}"] = self._reactive[index].integral(self._since, time)
        found |= self._totals(found)
        return found

    def _totals(self, found: dict[str, float]) -> dict[str, float]:
        u1, u2, u3 = (found[f"voltage_{name}"] for name in _PHASES)
        i1, i2, i3 = (found[f"current_{name}"] for name in _PHASES)
        p, q = (sum(found[f"{what}_{name}"] for name in _PHASES) for what in ("power", "reactive"))
        energy, reactive = (sum(found[f"{what}_{name}"] for name in _PHASES) for what in ("energy", "reactive_energy"))
        return {
            # The meter of a single phase sees all of the load at the mean voltage.
            **_phase_quantities("", p, q, (u1 + u2 + u3) / 3),
            # Phases 120° apart: chords of the voltage star, and the currents that do not cancel.
            "voltage_l12": math.sqrt(u1 * u1 + u2 * u2 + u1 * u2),
            "voltage_l23": math.sqrt(u2 * u2 + u3 * u3 + u2 * u3),
            "voltage_l31": math.sqrt(u3 * u3 + u1 * u1 + u3 * u1),
            "current_n": math.sqrt(max(0.0, i1 * i1 + i2 * i2 + i3 * i3 - i1 * i2 - i2 * i3 - i3 * i1)),
            "energy": energy,
            "energy_export": 0.0,
            "reactive_energy": reactive,
            "reactive_energy_export": 0.0,
            "apparent_energy": math.hypot(energy, reactive),  # vectorial, as many meters define it
        }


class WaterLoad:
    """A tenant's water connection with a night minimum."""

    def __init__(self, seed: int, peak: float) -> None:
        """peak: m³/h."""
        random_ = random.Random(f"water {seed}")
        self._since = _installed(random_)
        self._flow = Curve(week(_TAPS, _TAPS_OFF, peak / 1.5), ripples(random_, 0.5), UTC_OFFSET)
        self._peak = peak
        self._area = peak / 3600 / 1.5  # m²: a pipe chosen for 1.5 m/s at the peak
        self._phase = random_.uniform(0, 2 * math.pi)
        self._reverse = random_.uniform(0, 0.5)  # m³ that once flowed back

    def quantities(self, time: float) -> dict[str, float]:
        """See Load."""
        flow = self._flow.rate(time)
        return {
            "flow": flow,
            "volume": self._flow.integral(self._since, time),
            "volume_reverse": self._reverse,
            "velocity": flow / 3600 / self._area,
            "temperature": wave(time, 14.0, 1.5, DAY, self._phase),
            "pressure": STANDARD_PA + wave(time, 4.0e5, 0.1e5, 1800.0, self._phase) - 1.0e5 * (flow / self._peak) ** 2,
        }


class HeatLoad:
    """A tenant's heat connection: power and flow have their curves, the temperature difference follows."""

    def __init__(self, seed: int, peak: float) -> None:
        """peak: W."""
        random_ = random.Random(f"heat {seed}")
        self._since = _installed(random_)
        spread = random_.uniform(18, 26)  # K between supply and return
        shape = week(_HEATING, _HEATING_OFF)
        self._power = Curve([peak / 1.1 * value for value in shape], ripples(random_, 0.10), UTC_OFFSET)
        nominal = peak / 1.1 / WATER_HEAT / spread
        # The valve does most of the work and the difference shrinks a little at low load.
        self._flow = Curve([nominal * (0.2 + 0.8 * value) for value in shape], ripples(random_, 0.06), UTC_OFFSET)
        self._supply = random_.uniform(68, 82)
        self._area = nominal / 3600 / 1.0
        self._phase = random_.uniform(0, 2 * math.pi)

    def quantities(self, time: float) -> dict[str, float]:
        """See Load."""
        power, flow = self._power.rate(time), self._flow.rate(time)
        supply = wave(time, self._supply, 3.0, DAY, self._phase)
        difference = power / (flow * WATER_HEAT)
        return {
            "power": power,
            "energy": self._power.integral(self._since, time),
            "energy_export": 0.0,
            "flow": flow,
            "volume": self._flow.integral(self._since, time),
            "volume_reverse": 0.0,
            "velocity": flow / 3600 / self._area,
            "supply": supply,
            "return": supply - difference,
            "difference": difference,
            "temperature": supply,
            "pressure": STANDARD_PA + wave(time, 5.0e5, 0.1e5, 1800.0, self._phase),
        }


class GasLoad:
    """A tenant's gas connection with a volume corrector: both flows have their curves, the pressure follows."""

    def __init__(self, seed: int, peak: float) -> None:
        """peak: m³/h at standard conditions."""
        random_ = random.Random(f"gas {seed}")
        self._since = _installed(random_)
        compression = random_.uniform(1.8, 2.6)  # standard m³ in one actual m³
        swings = ripples(random_, 0.15)
        standard = week(_SHIFTS, _SHIFTS_OFF, peak / 1.15)
        self._standard = Curve(standard, swings, UTC_OFFSET)
        # The same swings, a little larger at the meter: the pressure sags as the flow rises.
        larger = [Ripple(1.15 * swing.amplitude, swing.cycles, swing.phase) for swing in swings]
        self._actual = Curve([value / compression for value in standard], larger, UTC_OFFSET)
        self._area = peak / compression / 3600 / 10  # m²: a pipe chosen for 10 m/s at the peak
        self._phase = random_.uniform(0, 2 * math.pi)

    def quantities(self, time: float) -> dict[str, float]:
        """See Load."""
        standard, actual = self._standard.rate(time), self._actual.rate(time)
        temperature = wave(time, 16.0, 4.0, DAY, self._phase)
        return {
            "flow": actual,
            "flow_standard": standard,
            "volume": self._actual.integral(self._since, time),
            "volume_standard": self._standard.integral(self._since, time),
            "volume_reverse": 0.0,
            "velocity": actual / 3600 / self._area,
            "temperature": temperature,
            # p V / T is the same at actual and at standard conditions.
            "pressure": STANDARD_PA * standard / actual * (temperature + 273.15) / STANDARD_K,
        }


def _shifts(random_: random.Random, peak: float, strength: float) -> Curve:
    return Curve(week(_SHIFTS, _SHIFTS_OFF, peak / (1 + strength)), ripples(random_, strength), UTC_OFFSET)


def _phase_quantities(suffix: str, p: float, q: float, u: float) -> dict[str, float]:
    s = math.hypot(p, q)
    return {
        f"voltage{suffix}": u,
        f"current{suffix}": s / u,
        f"power{suffix}": p,
        f"reactive{suffix}": q,
        f"apparent{suffix}": s,
        f"factor{suffix}": p / s if s else 1.0,
    }


def _installed(random_: random.Random) -> float:
    """When the meter began to count."""
    return INSTALLED_BEFORE - random_.uniform(30, 365) * DAY
