"""Naming: the words of a point's id and its unit say which quantity it shows."""

from typing import Any

import pytest

from parkfleet.protocols.profile import Point
from parkfleet.simulators.naming import source_of

QUANTITIES = {"volume": 1234.75, "flow": 7.2, "energy": 5_000_000.0, "pressure": 250_000.0}


@pytest.mark.parametrize(
    ("id", "unit", "quantity"),
    [
        ("voltage_l1", "V", "voltage_l1"),
        ("voltage_l12", "V", "voltage_l12"),
        ("voltage_l3_l1", "V", "voltage_l31"),
        ("current_n", "A", "current_n"),
        ("power_total", "kW", "power"),
        ("power_active_l2", "W", "power_l2"),
        ("power_reactive", "kvar", "reactive"),
        ("power_apparent_l3", "VA", "apparent_l3"),
        ("power_factor_l1", "", "factor_l1"),
        ("pf_total", "", "factor"),
        ("energy_import", "kWh", "energy"),
        ("energy_export", "kWh", "energy_export"),
        ("energy_reactive_import", "kvarh", "reactive_energy"),
        ("flow", "m³/h", "flow"),
        ("volume_reverse", "m³", "volume_reverse"),
        ("volume_standard", "m³", "volume_standard"),
        ("flow_standard", "Nm³/h", "flow_standard"),
        ("temperature_supply", "°C", "supply"),
        ("temperature_return", "°C", "return"),
        ("temperature_difference", "K", "difference"),
        ("temperature", "°C", "temperature"),
        ("battery_voltage", "V", ""),
        ("sound_speed", "m/s", ""),
        ("status", "", ""),
    ],
)
def test_source_of_a_point(id: str, unit: str, quantity: str) -> None:
    """What each id means."""
    assert source_of(Point(id, "float32", 0, unit=unit)).quantity == quantity


@pytest.mark.parametrize(
    ("id", "unit", "value"),
    [
        ("volume", "L", 1_234_750.0),
        ("flow", "L/s", 2.0),
        ("energy", "MJ", 18_000.0),
        ("energy", "kWh", 5000.0),
        ("pressure", "kPa", 250.0),
        ("velocity", "m/s", 1482.0),  # steady: this load has none
        ("battery", "V", 3.6),
        ("signal_quality", "", 90.0),
    ],
)
def test_value_in_the_points_unit(id: str, unit: str, value: float) -> None:
    """Units are converted."""
    assert source_of(Point(id, "float32", 0, unit=unit)).value(QUANTITIES) == pytest.approx(value)


def test_unknown_counters_stand_still_at_some_number() -> None:
    """The same number on every run, so that nothing seems to count."""
    options: dict[str, Any] = {"kind": "counter", "unit": "pulses"}
    first, again = (source_of(Point("pulses", "uint32", 0, **options)).value({}) for _ in range(2))
    assert first == again >= 0
