"""Loads: physics must agree within a meter, at every time."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.profile import Medium
from parkfleet.simulators.loads import STANDARD_K, STANDARD_PA, WATER_HEAT, load_of

seeds = st.integers(0, 10_000)
moments = st.floats(1.77e9, 1.9e9)
PHASES = ("_l1", "_l2", "_l3")
COUNTERS = {
    "power": {"energy": "power", "reactive_energy": "reactive", "energy_l1": "power_l1", "energy_l3": "power_l3"},
    "water": {"volume": "flow"},
    "heat": {"energy": "power", "volume": "flow"},
    "gas": {"volume": "flow", "volume_standard": "flow_standard"},
}
media = st.sampled_from(["power", "water", "heat", "gas"])


@given(seeds, moments)
def test_power_agrees_within_a_phase(seed: int, time: float) -> None:
    """S² = P² + Q², S = U × I, PF = P / S."""
    found = load_of("power", seed).quantities(time)
    for phase in ("", *PHASES):
        p, q, s = found[f"power{phase}"], found[f"reactive{phase}"], found[f"apparent{phase}"]
        assert s**2 == pytest.approx(p**2 + q**2)
        assert s == pytest.approx(found[f"voltage{phase}"] * found[f"current{phase}"])
        assert found[f"factor{phase}"] == pytest.approx(p / s)
        assert 0.5 < found[f"factor{phase}"] <= 1
        assert 220 < found[f"voltage{phase}"] < 240


@given(seeds, moments)
def test_power_agrees_over_the_phases(seed: int, time: float) -> None:
    """Totals are sums, and the voltages between phases belong to those of the phases."""
    found = load_of("power", seed).quantities(time)
    for what in ("power", "reactive", "energy", "reactive_energy"):
        assert found[what] == pytest.approx(sum(found[what + phase] for phase in PHASES))
    for name in ("voltage_l12", "voltage_l23", "voltage_l31"):
        assert found[name] == pytest.approx(math.sqrt(3) * found["voltage"], rel=0.02)
    assert found["current_n"] <= sum(found[f"current{phase}"] for phase in PHASES)


@given(seeds, moments)
def test_heat_power_is_flow_times_difference(seed: int, time: float) -> None:
    """Power = flow × c × (supply - return), with temperatures a district heating has."""
    found = load_of("heat", seed).quantities(time)
    difference = found["supply"] - found["return"]
    assert found["power"] == pytest.approx(found["flow"] * WATER_HEAT * difference)
    assert 10 < difference < 45
    assert 20 < found["return"] < found["supply"] < 95


@given(seeds, moments)
def test_gas_volumes_agree_by_pressure_and_temperature(seed: int, time: float) -> None:
    """p V / T is the same at actual and at standard conditions."""
    found = load_of("gas", seed).quantities(time)
    actual = found["pressure"] * found["flow"] / (found["temperature"] + 273.15)
    assert actual == pytest.approx(STANDARD_PA * found["flow_standard"] / STANDARD_K)
    assert 1.4 < found["pressure"] / STANDARD_PA < 3.2


@given(media, seeds, moments, st.floats(0.1, 3600))
def test_counters_are_the_integral_of_their_rate(medium: Medium, seed: int, time: float, seconds: float) -> None:
    """Adding up the rate gives what the counter gained; it never loses."""
    load = load_of(medium, seed)
    steps = max(1, round(seconds / 2))
    width = seconds / steps
    middles = [load.quantities(time + width * (step + 0.5)) for step in range(steps)]
    before, after = load.quantities(time), load.quantities(time + seconds)
    for counter, rate in COUNTERS[medium].items():
        summed = sum(found[rate] for found in middles) * width / 3600
        assert after[counter] > before[counter] > 0
        assert after[counter] - before[counter] == pytest.approx(summed, rel=1e-3, abs=1e-6)


@given(media, seeds, moments)
def test_the_seed_decides(medium: Medium, seed: int, time: float) -> None:
    """The same seed gives the same values at the same time, whatever was asked before; another seed others."""
    asked = load_of(medium, seed)
    asked.quantities(time - 12345)
    assert asked.quantities(time) == load_of(medium, seed).quantities(time)
    assert asked.quantities(time) != load_of(medium, seed + 1).quantities(time)


@pytest.mark.parametrize("medium", ["power", "water", "gas"])
def test_a_working_day_has_its_shape(medium: Medium) -> None:
    """Ten in the morning is busy, three at night is not, and Sunday is quiet (local time is UTC+8)."""
    load = load_of(medium, 7)
    rate = {"power": "power", "water": "flow", "gas": "flow_standard"}[medium]
    tuesday = datetime(2026, 11, 24, tzinfo=UTC) - timedelta(hours=8)

    def at(hours: float) -> float:
        return load.quantities((tuesday + timedelta(hours=hours)).timestamp())[rate]

    assert at(10) > 2 * at(3)
    assert at(10) > 2 * at(5 * 24 + 10)


def test_water_has_a_night_minimum() -> None:
    """At three at night a few percent of the day's peak flow, mostly leakage."""
    load = load_of("water", 3)
    tuesday = datetime(2026, 11, 23, 16, tzinfo=UTC).timestamp()
    day = [load.quantities(tuesday + 600 * step)["flow"] for step in range(144)]
    assert 0 < load.quantities(tuesday + 3 * 3600)["flow"] < 0.1 * max(day)


def test_other_media_measure_nothing() -> None:
    """A meter of something else shows steady values."""
    assert load_of("other", 1).quantities(1.8e9) == {}
