"""The display settles word order, off-by-one addresses and powers of ten, on meters that differ from their profile."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.display import Explanation, Shown, adjusted, explain
from parkfleet.agent.findings import Finding, Part
from parkfleet.agent.identify import Registers, read_all
from parkfleet.agent.scan import Unit
from parkfleet.agent.wire import opened
from parkfleet.protocols.library import load_profile, read_profile
from parkfleet.protocols.profile import Point, Profile
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.installer.conftest import simulated

Change = Callable[[Point], Point]


def changed(name: str, change: Change) -> Profile:
    """A meter that the library's profile does not quite fit."""
    profile = load_profile(name)
    return msgspec.structs.replace(profile, points=[change(point) for point in profile.points], expected=[], holes=[])


def swapped(point: Point) -> Point:
    return msgspec.structs.replace(point, order="CDAB")


def moved(point: Point) -> Point:
    return msgspec.structs.replace(point, address=point.address + 1)


def swapped_and_moved(point: Point) -> Point:
    return moved(swapped(point))


async def shown_by(meter: SimulatedMeter, *points: str) -> list[Shown]:
    """What the meter's display shows, as it is read off: five digits and the unit."""
    async with TcpEndpoint("t", [meter], AnswerRecord()) as line, opened(line.address) as wire:
        reading = await read_all(Registers(wire, meter.unit, 1.0), meter.profile)
    values = {point.point: point for point in reading.points}
    return [Shown.parse(f"{float(str(values[name].value)):.6g}{values[name].unit}") for name in points]


async def explained(meter: SimulatedMeter, names: list[str], shown: list[Shown]) -> list[Explanation]:
    profiles = [load_profile(name) for name in names]
    async with TcpEndpoint("t", [meter], AnswerRecord()) as line, opened(line.address) as wire:
        return await explain(Registers(wire, meter.unit, 1.0), profiles, shown)


@pytest.mark.parametrize(
    ("change", "shift", "order"),
    [(lambda p: p, 0, None), (swapped, 0, "CDAB"), (moved, 1, None), (swapped_and_moved, 1, "CDAB")],
    ids=["as-is", "swapped", "moved", "both"],
)
async def test_display_settles_order_and_address(change: Change, shift: int, order: str | None) -> None:
    """Two values of the display say how the profile must be read, and nothing simpler does."""
    meter = simulated(changed("eastron-sdm630", change), 1)
    shown = await shown_by(meter, "energy_import", "voltage_l1")
    first = (await explained(meter, ["siemens-pac2200", "eastron-sdm630"], shown))[0]
    assert (first.profile, first.shift, first.order) == ("eastron-sdm630", shift, order)
    assert {match.point for match in first.matches} >= {"voltage_l1"}
    assert first.as_is == (change(Point("a", "float32", 0)) == Point("a", "float32", 0))


async def test_display_settles_the_power_of_ten() -> None:
    """A meter that counts in tenths shows ten times less than the profile says."""

    def tenths(point: Point) -> Point:
        if point.unit != "kWh":
            return point
        return msgspec.structs.replace(point, scale=point.scale / 10)

    meter = simulated(changed("abb-b23", tenths), 1)
    shown = await shown_by(meter, "energy_import")
    (first, *_) = await explained(meter, ["abb-b23"], shown)
    assert [match.exponent for match in first.matches] == [-1]
    fitted = {point.id: point for point in adjusted(load_profile("abb-b23"), first).points}
    plain = {point.id: point for point in load_profile("abb-b23").points}
    assert fitted["energy_import"].scale * 10 == plain["energy_import"].scale
    assert fitted["voltage_l1"].scale == plain["voltage_l1"].scale


async def test_display_part_carries_the_adjusted_profile(tmp_path: Path) -> None:
    """The part brings its profile, the agent accepts both, and the profile reads what the display shows."""
    meter = simulated(changed("eastron-sdm630", swapped_and_moved), 1)
    shown = await shown_by(meter, "energy_import", "voltage_l2")
    explanations = await explained(meter, ["eastron-sdm630"], shown)
    async with TcpEndpoint("t", [meter], AnswerRecord()) as line:
        finding = Finding(Unit(line.address, 1, "answers"), explanations=explanations)
        part = Part([finding], [load_profile("eastron-sdm630")])
        path, profile_path = part.write(tmp_path / "part.yaml")
        whole = tmp_path / "gateway.yaml"
        whole.write_text("park: p\ngateway: g\nbroker: {url: mqtt://h}\n" + path.read_text())
        configuration = load_configuration(whole)
        (profile,) = configuration.profiles.values()
        assert profile == read_profile(profile_path)
        async with opened(line.address) as wire:
            reading = await read_all(Registers(wire, 1, 1.0), profile)
    good = [point for point in reading.points if point.quality == "good"]
    assert len(good) == len(reading.points)
    energy = next(point for point in good if point.point == "energy_import")
    assert abs(float(str(energy.value)) - float(shown[0].value)) <= shown[0].tolerance


async def test_display_that_nothing_explains() -> None:
    """A value no register holds is explained by nothing, instead of by chance."""
    meter = simulated("eastron-sdm630", 1)
    assert await explained(meter, ["eastron-sdm630"], [Shown.parse("77431.9 kWh")]) == []


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1234.5kWh", "1234.5", "kWh"),
        (" 230,1 V ", "230.1", "V"),
        ("-5", "-5", ""),
        ("12.345 m³/h", "12.345", "m³/h"),
        ("00123.4", "123.4", ""),
    ],
)
def test_shown_is_read(text: str, value: str, unit: str) -> None:
    """As people type it."""
    assert Shown.parse(text) == Shown(Decimal(value), unit)


@given(st.text(max_size=20))
def test_shown_survives_anything(text: str) -> None:
    """What is no number is answered with an example."""
    try:
        assert Shown.parse(text).value.is_finite()
    except ValueError as error:
        assert "such as 1234.5kWh" in str(error)
