"""Park: the demo's meters, and a configuration that fits their lines."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from parkfleet.protocols.config import LineConfig, MeterConfig
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.park import Park, demo_park
from tests.simulators.asking import ask, descriptors, pymodbus_on
from tests.simulators.models import EVERYTHING, GAS, HEAT, WATER, profile

NOW = 1_795_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's profiles, one of each medium, beside the built-in ones."""
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    for text in (EVERYTHING, WATER, HEAT, GAS):
        (profiles / f"{profile(text).profile}.yaml").write_text(text, "utf-8")
    return profiles


def registers(park: Park) -> list[list[int]]:
    """All that the meters' first points say at one time."""
    firsts = [(meter.simulated, meter.profile.points[0]) for meter in park.meters]
    return [meter.read(p.table, p.address, p.count, NOW).tolist() for meter, p in firsts]


async def test_park_has_meters_of_all_media_on_lines_that_can_bear_them(tmp_path: Path, folder: Path) -> None:
    """At least 24 meters, ids and units unique, no serial line above 60 % of its time."""
    async with demo_park(1, tmp_path, [folder]) as park:
        assert len(park.meters) >= 24
        assert {meter.profile.medium for meter in park.meters} == {"power", "water", "heat", "gas"}
        assert len({meter.id for meter in park.meters}) == len(park.meters)
        assert len({(meter.line, meter.simulated.unit) for meter in park.meters}) == len(park.meters)
        for line in park.lines:
            assert 0.05 < park.line_load(line.id) < 0.6
            assert line.path.is_char_device()


async def test_configuration_is_valid_and_reads_the_park(tmp_path: Path, folder: Path) -> None:
    """The models accept it, and pymodbus reads a meter of each line at its unit id."""
    async with demo_park(1, tmp_path, [folder]) as park:
        configuration = park.configuration()
        lines = msgspec.convert(configuration["lines"], list[LineConfig])
        meters = msgspec.convert(
            configuration["meters"], list[MeterConfig], dec_hook=lambda kind, value: kind.parse(value)
        )
        assert {meter.line for meter in meters} == {line.id for line in lines} == {"bus1", "bus2", "hall"}
        for wire in park.wires:
            meter = next(meter for meter in meters if meter.line == wire.id)
            point = load_profile(meter.profile, [folder]).points[0]
            async with pymodbus_on(wire) as client:
                assert await ask(client, meter.unit, point.table, point.address, point.count)


def test_the_seed_decides(tmp_path: Path, folder: Path) -> None:
    """The same seed makes the same park, another one another."""
    assert registers(demo_park(5, tmp_path, [folder])) == registers(demo_park(5, tmp_path, [folder]))
    assert registers(demo_park(5, tmp_path, [folder])) != registers(demo_park(6, tmp_path, [folder]))


async def test_nothing_is_left_behind(tmp_path: Path, folder: Path) -> None:
    """A park that has ended has no descriptor, task, port or device."""
    before = descriptors(), len(asyncio.all_tasks())
    for _ in range(5):
        async with demo_park(1, tmp_path, [folder]) as park:
            port = park.endpoint.port
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    assert (descriptors(), len(asyncio.all_tasks())) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_every_profile_of_the_library_can_be_simulated(folder: Path) -> None:
    """Each point of each profile says something good, and counters grow where their medium flows."""
    for name in profile_names([folder]):
        model = load_profile(name, [folder])
        now, later = (SimulatedMeter(model, 1, load_of(model.medium, 1)) for _ in range(2))
        grown = 0
        for point in model.points:
            words = [
                meter.read(point.table, point.address, point.count, time).tolist()
                for meter, time in ((now, NOW), (later, NOW + 864_000))
            ]
            assert [decode(point, found)[1] for found in words] == [Quality.GOOD] * 2, (name, point.id)
            grown += point.kind == "counter" and words[0] != words[1]
        counters = sum(point.kind == "counter" for point in model.points)
        assert grown or not counters, f"no counter of {name} grows"
