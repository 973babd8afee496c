"""The display settles word order, off-by-one addresses and powers of ten, on meters that differ from their profile."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.display import Explanation, Shown, adjusted, explain, sentence
from parkfleet.agent.findings import Finding, Part
from parkfleet.agent.identify import Registers, read_all
from parkfleet.agent.image import Image
from parkfleet.agent.profile_text import profile_text
from parkfleet.agent.scan import Unit
from parkfleet.agent.wire import opened
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.library import load_profile, profile_names, read_profile
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


async def shown_by(meter: SimulatedMeter, *points: str, ratio: int = 1) -> list[Shown]:
    """What the meter's display shows, as it is read off: six digits of a counter, four of others, `ratio` times."""
    image = Image(meter.profile)
    async with TcpEndpoint("t", [meter], AnswerRecord()) as line, opened(line.address) as wire:
        await image.read(Registers(wire, meter.unit, 1.0))
    quantities = {own.id: own for own in meter.profile.quantities}
    shown = []
    for name in points:
        own, value = quantities[name], ratio * (image.value(name) or 0.0)
        digits = 6 if own.kind == "counter" else 4
        shown.append(Shown.parse(f"{Decimal(f'{value:.{digits}g}'):f}{own.unit}"))
    return shown


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


async def test_display_settles_the_transformer() -> None:
    """A display on the primary side, registers on the secondary: energy and current agree on one ratio."""
    meter = simulated("acrel-adl400", 1)
    shown = await shown_by(meter, "energy_import", "current_l1", ratio=40)
    (first, *_) = await explained(meter, ["acrel-adl400"], shown)
    assert (first.ct, first.pt, first.as_is, first.direct) == ("200/5", "", True, ())
    assert {match.point for match in first.matches} <= {"energy_import", "energy_total", "current_l1"}
    assert "ct 200/5" in sentence(first)


async def test_display_settles_both_transformers() -> None:
    """In a medium-voltage cubicle: the voltage says pt, the energy what is left for ct."""
    meter = simulated("acrel-adl400", 1)
    (energy,) = await shown_by(meter, "energy_import", ratio=4)  # and 1000 kWh are one MWh
    shown = [Shown(energy.value, "MWh"), *await shown_by(meter, "voltage_l1_l2", ratio=100)]
    (first, *_) = await explained(meter, ["acrel-adl400"], shown)
    assert (first.ct, first.pt) == ("200/5", "10000/100")


async def test_display_says_that_no_transformer_is_missing() -> None:
    """Registers that say what the display shows, of a model that may stand behind transformers: that is told too."""
    meter = simulated("acrel-adl400", 1)
    (energy, *_) = await explained(meter, ["acrel-adl400"], await shown_by(meter, "energy_import"))
    assert (energy.ct, energy.direct) == ("", ("ct", "pt"))
    assert "without ct and pt" in sentence(energy)
    (voltage, *_) = await explained(meter, ["acrel-adl400"], await shown_by(meter, "voltage_l1"))
    assert voltage.direct == ("pt",)  # of the current transformers a voltage says nothing


@pytest.mark.parametrize(
    ("name", "point"),
    [("tuf-2000m-heat", "energy"), ("panametrics-xmt868i", "volume_forward"), ("fuxin-gas", "volume_standard")],
)
async def test_display_of_what_several_registers_make(name: str, point: str) -> None:
    """Integer and fraction, decimals in another register, BCD: the display shows the whole."""
    meter = simulated(name, 1)
    (shown,) = await shown_by(meter, point)
    (first, *_) = await explained(meter, [name], [shown])
    assert [match.point for match in first.matches] == [point]
    assert first.as_is


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_adjusted_profile_is_a_profile(name: str, shift: int, tmp_path: Path) -> None:
    """Of every model: derived points, forbidden registers, identity and transformers go with it into the file."""
    profile = load_profile(name)
    found = Explanation(name, shift, "CDAB", (), 2.0, 90, 10.0)
    made = adjusted(profile, found)
    path = tmp_path / f"{made.profile}.yaml"
    path.write_text(profile_text(made), "utf-8")
    assert read_profile(path) == made
    assert made.primary == profile.primary
    assert made.ratio_from == profile.ratio_from
    assert set(made.never_write) >= set(profile.never_write)
    if shift != -1:
        assert made.delivered == profile.delivered
        assert made.identity == profile.identity


def test_second_adjusted_profile_gets_another_name(tmp_path: Path) -> None:
    """Two meters of one model that were wired or set differently, in one part and in two."""
    profile, address = load_profile("eastron-sdm120"), LineAddress("serial", device="/dev/ttyUSB0")
    ways = [Explanation("eastron-sdm120", shift, "CDAB", (), 2.0, 90, 10.0) for shift in (1, 0, 1)]
    findings = [Finding(Unit(address, unit, "answers"), explanations=[way]) for unit, way in enumerate(ways, 1)]
    written = Part(findings[:2], [profile], folder=tmp_path).write(tmp_path / "a.yaml")
    assert [path.name for path in written] == ["a.yaml", "eastron-sdm120-site.yaml", "eastron-sdm120-site2.yaml"]
    again = Part(findings[2:], [profile], folder=tmp_path).write(tmp_path / "b.yaml")
    assert [path.name for path in again] == ["b.yaml", "eastron-sdm120-site.yaml"]
    other = Part([msgspec.structs.replace(findings[1])], [profile], folder=tmp_path).text()
    assert "profile: eastron-sdm120-site2" in other


def test_part_has_the_transformer() -> None:
    """The ratio that the display settled stands with the meter."""
    address = LineAddress("serial", device="/dev/ttyUSB0")
    way = Explanation("acrel-adl400", 0, None, (), 1.0, 90, 10.0, ct="200/5")
    text = Part([Finding(Unit(address, 3, "answers"), explanations=[way])], [load_profile("acrel-adl400")]).text()
    (meter,) = yaml.safe_load(text)["meters"]
    assert (meter["profile"], meter["ct"]) == ("acrel-adl400", "200/5")


async def test_display_of_a_counter_that_went_on() -> None:
    """Half a minute passes between the eye and the Enter key; a counter does not run backwards meanwhile."""
    meter = simulated("abb-b23", 1)
    (exact,) = await shown_by(meter, "energy_import")
    before, after = (Shown(exact.value + by * Decimal("0.3"), exact.unit) for by in (-1, 1))
    (first, *_) = await explained(meter, ["abb-b23"], [before])
    assert (first.matches[0].point, first.as_is) == ("energy_import", True)
    assert not any(explanation.as_is for explanation in await explained(meter, ["abb-b23"], [after]))


async def test_display_of_a_busy_feeder_settles_the_transformer() -> None:
    """At 2 MW a minute is 33 kWh: the ratio is found all the same."""
    meter = simulated("acrel-adl400", 1)
    (energy,) = await shown_by(meter, "energy_import", ratio=40)
    shown = Shown((energy.value * Decimal("0.999995")).quantize(Decimal("0.1")), "kWh")
    (first, *_) = await explained(meter, ["acrel-adl400"], [shown])
    assert first.ct == "200/5"


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
        ("1234.5 KWH", "1234.5", "kWh"),
        ("12 mwh", "12", "MWh"),
        ("88 度", "88", "kWh"),
        ("5.21M3", "5.21", "m³"),
        ("61.5 ℃", "61.5", "°C"),
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
