"""A meter's reading as the installer sees it: the registers, and what is delivered of them."""

from pathlib import Path

from rich.console import Console

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.installer_view import reading_table
from parkfleet.agent.plan import make_plan
from parkfleet.agent.reading import MeterReading, read_meter
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.library import load_profile
from parkfleet.protocols.modbus.pdu import ReadRequest
from tests.installer.conftest import simulated


async def reading_of(profile: str, ct: str | None = None, raw: bool = False) -> MeterReading:
    """A simulated meter of a model, read once."""
    model = load_profile(profile)
    meter = MeterConfig("m1", "l", 1, profile, ct=ct, raw=raw)
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://h"), [LineConfig("l", "tcp://h")], [meter])
    (line,) = make_plan(Configuration(gateway, {profile: model}, Path())).lines
    slave = simulated(model, 1)

    async def ask(request: ReadRequest) -> list[int]:
        return list(slave.read(request.table, request.address, request.count, 1_790_000_000.0))

    return await read_meter(line.meters[0], ask)


async def test_parts_and_what_they_make() -> None:
    """Hidden points are shown with their registers; the counter they make, with where it comes from."""
    reading = await reading_of("tuf-2000m-heat")
    points = {point.point: point for point in reading.points}
    assert len(points["energy_integer"].registers) == 2
    energy = next(made for made in reading.delivered if made.point == "energy")
    whole, part = points["energy_integer"].value, points["energy_fraction"].value
    assert isinstance(whole, int)
    assert isinstance(part, float)
    assert energy.value == round(whole + part, 6)
    assert (energy.unit, energy.quality, energy.of) == ("GJ", "good", ("energy_integer", "energy_fraction"))
    assert "energy_integer" not in [made.point for made in reading.delivered]


async def test_primary_beside_secondary() -> None:
    """With a ratio configured, what is delivered stands beside what the meter says."""
    reading = await reading_of("acrel-adl400", "200/5", raw=True)
    made = {made.point: made for made in reading.delivered}
    secondary = next(point.value for point in reading.points if point.point == "current_l1")
    assert isinstance(secondary, float)
    assert made["current_l1_raw"].value == secondary
    assert made["current_l1"].value == round(40 * secondary, 2)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(reading_table(reading))
    assert "current_l1_raw" in shown.get()


async def test_points_delivered_as_read_are_shown_once() -> None:
    """Most meters."""
    assert (await reading_of("eastron-sdm630")).delivered == ()
