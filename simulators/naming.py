"""Naming: which of a load's quantities a profile's point shows, and in which unit.

The unit says what is measured, the words of the id (`power_total`, `energy_import_l1`, `temperature_return`) which
one of it. What a load does not have gets a steady value that is plausible for its unit.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parkfleet.protocols.profile import Derived, Point

#: unit -> (what it measures, its size in the load's units).
UNITS: Final[dict[str, tuple[str, float]]] = {
    "V": ("voltage", 1.0),
    "kV": ("voltage", 1e3),
    "mV": ("voltage", 1e-3),
    "A": ("current", 1.0),
    "mA": ("current", 1e-3),
    "kA": ("current", 1e3),
    "W": ("power", 1.0),
    "kW": ("power", 1e3),
    "MW": ("power", 1e6),
    "GJ/h": ("power", 1e9 / 3600),
    "var": ("reactive", 1.0),
    "kvar": ("reactive", 1e3),
    "Mvar": ("reactive", 1e6),
    "VA": ("apparent", 1.0),
    "kVA": ("apparent", 1e3),
    "MVA": ("apparent", 1e6),
    "Hz": ("frequency", 1.0),
    "Wh": ("energy", 1.0),
    "kWh": ("energy", 1e3),
    "MWh": ("energy", 1e6),
    "GWh": ("energy", 1e9),
    "kJ": ("energy", 1 / 3.6),
    "MJ": ("energy", 1e3 / 3.6),
    "GJ": ("energy", 1e6 / 3.6),
    "varh": ("reactive_energy", 1.0),
    "kvarh": ("reactive_energy", 1e3),
    "Mvarh": ("reactive_energy", 1e6),
    "VAh": ("apparent_energy", 1.0),
    "kVAh": ("apparent_energy", 1e3),
    "m³/h": ("flow", 1.0),
    "m3/h": ("flow", 1.0),
    "Nm³/h": ("flow_standard", 1.0),
    "L/h": ("flow", 1e-3),
    "l/h": ("flow", 1e-3),
    "L/min": ("flow", 0.06),
    "L/s": ("flow", 3.6),
    "l/s": ("flow", 3.6),
    "m³": ("volume", 1.0),
    "m3": ("volume", 1.0),
    "Nm³": ("volume_standard", 1.0),
    "L": ("volume", 1e-3),
    "l": ("volume", 1e-3),
    "m/s": ("velocity", 1.0),
    "°C": ("temperature", 1.0),
    "K": ("difference", 1.0),
    "Pa": ("pressure", 1.0),
    "hPa": ("pressure", 1e2),
    "kPa": ("pressure", 1e3),
    "MPa": ("pressure", 1e6),
    "bar": ("pressure", 1e5),
    "mbar": ("pressure", 1e2),
}
#: What units and words without a quantity steadily show, in their own unit.
STEADY: Final = {"%": 90.0, "h": 8760.0, "min": 30.0, "s": 30.0, "d": 365.0, "V": 3.6, "°C": 20.0, "m/s": 1482.0}
_PHASES: Final = frozenset({"l1", "l2", "l3", "l12", "l23", "l31", "n"})
_BACKWARDS: Final = frozenset({"export", "exported", "reverse", "negative", "backward", "cooling", "received"})
_STANDARD: Final = frozenset({"standard", "normal", "corrected", "norm", "std"})
_BEHIND: Final = {
    "energy": "energy_export",
    "reactive_energy": "reactive_energy_export",
    "volume": "volume_reverse",
    "volume_standard": "volume_reverse",
}


@dataclass(frozen=True)
class Source:
    """Where a point's value comes from."""

    quantity: str  # of the load; "" when there is none
    size: float  # the point's unit in the load's units
    steady: float  # the value when the load has no such quantity

    def value(self, quantities: Mapping[str, float]) -> float:
        """The point's value in its own unit."""
        found = quantities.get(self.quantity)
        return self.steady if found is None else found / self.size


def source_of(point: Point | Derived) -> Source:
    """The source a point's unit and id name."""
    words = point.id.lower().replace("-", "_").replace(".", "_").split("_")
    quantity, size = UNITS.get(point.unit, ("", 1.0))
    if point.unit in ("", "1") and {"factor", "pf", "cos", "cosphi"} & set(words):
        quantity = "factor"
    if {"battery", "sound", "threshold", "limit", "alarm", "ambient"} & set(words):
        quantity = ""
    return Source(_which(quantity, words), size, _steady(point))


def _which(quantity: str, words: list[str]) -> str:
    """The quantity among its kin: of a phase, a direction, a side of the heat circuit, a reference condition."""
    if quantity in ("temperature", "difference"):
        if {"supply", "inlet", "forward", "t1"} & set(words):
            return "supply"
        if {"return", "outlet", "t2"} & set(words):
            return "return"
        return "difference" if {"difference", "delta", "diff"} & set(words) else quantity
    if quantity in ("flow", "volume") and _STANDARD & set(words):
        quantity += "_standard"
    if _BACKWARDS & set(words):
        return _BEHIND.get(quantity, quantity)
    phases = [word for word in words if word in _PHASES]
    phase = phases[0] + "".join(word[1:] for word in phases[1:]) if phases else ""  # l1, l2: between them, l12
    if quantity == "energy" and "reactive" in words:
        quantity = "reactive_energy"
    return f"{quantity}_{phase}" if phase and quantity else quantity


def _steady(point: Point | Derived) -> float:
    """A value that never changes: the same on every run, plausible for its unit."""
    if "quality" in point.id:
        return 90.0  # of a signal, in percent, whether or not the unit says so
    if point.kind == "counter":
        return float(zlib.crc32(point.id.encode()) % 1000)
    if point.kind == "state":
        return 0.0
    return STEADY.get(point.unit, 1.0)
