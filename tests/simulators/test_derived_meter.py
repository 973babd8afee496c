"""Simulated meters of profiles whose readings take several registers: what they answer comes to the load's values."""

import math
from array import array
from pathlib import Path

import pytest

from parkfleet.protocols.derived import make_derivation, needed_points
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.payload.series import Scan, has_value
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.registers import decode
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.naming import source_of

TIME = 1_790_000_000.0

SPLIT = """\
profile: split
title: {en: Split}
medium: water
source: this test
base: {holding: 40001}
points:
  - {id: volume_integer, address: 40001, type: int32, unit: m³, hidden: true}
  - {id: volume_fraction, address: 40003, type: float32, unit: m³, hidden: true}
  - {id: unit, address: 40005, type: uint16, hidden: true}
  - {id: decimals, address: 40006, type: int16, hidden: true}
  - {id: flow, address: 40007, type: float32, unit: m³/h, unit_from: {point: unit, table: {3: 3.6, 4: 1}}}
  - {id: volume_reverse, address: 40009, type: uint32, unit: m³, scale_from: {point: decimals, power: -1}}
  - {id: ct, address: 40011, type: uint16, hidden: true}
  - {id: current, address: 40012, type: uint16, unit: A, ratio: [ct]}
derived:
  - {id: volume, parts: [{point: volume_integer}, {point: volume_fraction}], decimals: 3, unit: m³, kind: counter}
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


def test_split_values_and_factors_come_to_the_load(tmp_path: Path) -> None:
    """Integer and fraction join to the counter; codes, decimals and ratios are set so that they change nothing."""
    (tmp_path / "split.yaml").write_text(SPLIT)
    profile = load_profile("split", [tmp_path])
    load = load_of("water", 1).quantities(TIME)
    found = delivered(profile)
    assert found["volume"] == pytest.approx(load["volume"], abs=0.001)
    assert found["flow"] == pytest.approx(load["flow"], rel=1e-6)
    assert found["current"] == 1.0
    assert found["volume_reverse"] == pytest.approx(load.get("volume_reverse", 0.0), abs=1)


@pytest.mark.parametrize("name", profile_names())
def test_every_model_of_the_library_shows_its_load(name: str) -> None:
    """What is delivered of each point is what the load has, at the resolution of the meter."""
    profile = load_profile(name)
    load = load_of(profile.medium, 1).quantities(TIME)
    found = delivered(profile)
    assert set(found) == {own.id for own in profile.quantities if own.id in profile.delivered} - {
        point.id for point in profile.points if point.type == "string"
    }
    for point in profile.points:
        source = source_of(point)
        if point.id in found and source.quantity in load and not source.part:
            scale = float(point.scale)
            expected = load[source.quantity] / source.size
            assert math.isclose(found[point.id], expected, rel_tol=1e-5, abs_tol=max(scale, 0.001)), point.id
