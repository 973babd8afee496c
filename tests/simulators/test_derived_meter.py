"""Simulated meters of profiles whose readings take several registers: what they answer comes to the load's values."""

import math
from array import array
from pathlib import Path

import pytest

from parkfleet.protocols.derived import make_derivation, needed_points
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.payload.series import Scan, has_value
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.registers import decode
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.naming import source_of

TIME = 1_790_000_000.0

SPLIT = """\
profile: split
title: {en: Split}
medium: MEDIUM
source: this test
base: {holding: 40001}
points:
  - {id: volume_integer, address: 40001, type: int32, unit: m³, hidden: true}
  - {id: volume_fraction, address: 40003, type: float32, unit: m³, hidden: true}
  - {id: unit, address: 40005, type: uint16, hidden: true}
  - {id: decimals, address: 40006, type: int16, hidden: true}
  - {id: flow, address: 40007, type: float32, unit: m³/h, unit_from: {point: unit, table: {3: 3.6, 4: 60}}}
  - {id: temperature, address: 40009, type: int16, unit: °C, scale_from: {point: decimals, power: -1}}
  - {id: ct, address: 40011, type: uint16, hidden: true}
  - {id: current, address: 40012, type: uint32, scale: 0.0001, unit: A, ratio: [ct]}
  - {id: high, address: 40014, type: uint16, scale: 0.01, unit: kWh, hidden: true}
  - {id: low, address: 40015, type: uint16, scale: 0.01, unit: kWh, hidden: true}
derived:
  - {id: volume, parts: [{point: volume_fraction}, {point: volume_integer}], decimals: 4, unit: m³, kind: counter}
  - {id: energy, parts: [{point: low}, {point: high, times: 10000}], unit: kWh, ratio: [ct], kind: counter}
ratio_from: {ct: ct}
"""


def delivered(profile: Profile) -> dict[str, float]:
    """The readings of a simulated meter, through its registers."""
    meter = SimulatedMeter(profile, 1, load_of(profile.medium, 1), 1)
    needed = needed_points(profile)
    decoded = [decode(point, list(meter.read(point.table, point.address, point.count, TIME))) for point in needed]
    slots, quality = array("q", [slot for slot, _, _ in decoded]), bytes(code for _, code, _ in decoded)
    texts = tuple(text for point, (_, _, text) in zip(needed, decoded, strict=True) if point.type == "string")
    derivation = make_derivation(profile, needed)
    scan = derivation.scan(Scan(0, 0, slots, quality, texts))
    assert all(has_value(code) for code in scan.quality), profile.profile
    return {
        column.point: float(column.value(slot))  # type: ignore[arg-type]
        for column, slot in zip(derivation.columns, scan.slots, strict=True)
        if column.type != "string"
    }


def split(folder: Path, medium: str) -> Profile:
    """A meter with every way of spreading a value over registers."""
    (folder / "split.yaml").write_text(SPLIT.replace("MEDIUM", medium))
    return load_profile("split", [folder])


def test_split_water_and_factors_come_to_the_load(tmp_path: Path) -> None:
    """Integer and fraction join to the counter; what a code or an exponent multiplies is shown divided by it."""
    load = load_of("water", 1).quantities(TIME)
    found = delivered(split(tmp_path, "water"))
    assert found["volume"] == pytest.approx(load["volume"], abs=0.0001)
    assert found["flow"] == pytest.approx(load["flow"], rel=1e-6)
    assert found["temperature"] == pytest.approx(load["temperature"], abs=0.05)


def test_high_and_low_halves_behind_a_transformer_come_to_the_load(tmp_path: Path) -> None:
    """The meter sees a twentieth of it; its low half has four digits, whatever the total."""
    profile = split(tmp_path, "power")
    load = load_of("power", 1).quantities(TIME)
    found = delivered(profile)
    assert found["current"] == pytest.approx(load["current"], abs=20 * 0.0001)
    assert found["energy"] == pytest.approx(load["energy"] / 1000, abs=20 * 0.01)
    low = next(point for point in profile.points if point.id == "low")
    meter = SimulatedMeter(profile, 1, load_of("power", 1), 1)
    lows = [meter.read("holding", low.address, 1, TIME + 3600 * hour)[0] for hour in range(200)]
    assert max(lows) < 10_000
    assert len(set(lows)) > 100


def test_simulated_meter_has_settings_that_matter(tmp_path: Path) -> None:
    """A verdict over such a meter would notice a factor that was forgotten."""
    profile = split(tmp_path, "power")
    meter = SimulatedMeter(profile, 1, load_of("power", 1), 1)
    read = {point.id: meter.read(point.table, point.address, 1, TIME)[0] for point in profile.points}
    assert (read["unit"], read["decimals"], read["ct"]) == (3, 1, 20)


@pytest.mark.parametrize("name", profile_names())
def test_every_model_of_the_library_shows_its_load(name: str) -> None:
    """What is delivered, derived or not, is what the load has, at the resolution of the meter."""
    profile = load_profile(name)
    load = load_of(profile.medium, 1).quantities(TIME)
    found = delivered(profile)
    texts = {point.id for point in profile.points if point.type == "string"}
    assert set(found) == set(profile.delivered) - texts
    compared = 0
    for own in profile.quantities:
        source = source_of(own)
        if own.id not in found or source.quantity not in load:
            continue
        if isinstance(own, Point):
            step = 10.0**-own.decimals if own.decimals is not None else 0.0 if own.type.startswith("float") else 1.0
            step *= float(abs(own.scale))
        else:
            step = 10.0**-own.decimals if own.decimals is not None else 0.0
        expected = load[source.quantity] / source.size
        assert math.isclose(found[own.id], expected, rel_tol=2e-7, abs_tol=step), own.id
        compared += 1
    assert compared
