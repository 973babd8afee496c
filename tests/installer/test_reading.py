"""A meter's reading as the installer sees it: the registers, and what is delivered of them."""

import io
import time
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.installer_view import Screen, reading_table
from parkfleet.agent.plan import MeterPlan, make_plan
from parkfleet.agent.reading import MeterReading, read_meter
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.library import load_profile
from parkfleet.protocols.modbus.pdu import ExceptionAnswerError, ReadRequest
from parkfleet.protocols.profile import Profile
from tests.installer.conftest import simulated


def plan_of(model: Profile, meter: MeterConfig) -> MeterPlan:
    """A meter's plan, alone on its line."""
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://h"), [LineConfig("l", "tcp://h")], [meter])
    (line,) = make_plan(Configuration(gateway, {model.profile: model}, Path())).lines
    return line.meters[0]


async def reading_of(profile: str, ct: str | None = None, raw: bool = False) -> MeterReading:
    """A simulated meter of a model, read once."""
    model = load_profile(profile)
    plan = plan_of(model, MeterConfig("m1", "l", 1, profile, ct=ct, raw=raw))
    slave = simulated(model, 1)

    async def ask(request: ReadRequest) -> list[int]:
        return list(slave.read(request.table, request.address, request.count, 1_790_000_000.0))

    return await read_meter(plan, ask)


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


async def test_primary_beside_secondary_without_raw() -> None:
    """A constant ratio changes no register: it is shown all the same."""
    reading = await reading_of("acrel-adl400", "200/5")
    made = {made.point: made for made in reading.delivered}
    secondary = next(point.value for point in reading.points if point.point == "current_l1")
    assert isinstance(secondary, float)
    assert made["current_l1"].value == round(40 * secondary, 2)
    assert made["current_l1"].of == ("current_l1",)
    assert "current_l1_raw" not in made


async def test_meter_that_is_primary_already_is_told() -> None:
    """168 A where a transformer's secondary side has 5: with a ratio they would count twice."""
    model = load_profile("acrel-adl400")
    plan = plan_of(model, MeterConfig("m1", "l", 1, model.profile, ct="200/5"))

    async def says(amperes: int, request: ReadRequest) -> list[int]:
        return [
            100 * amperes if 0x64 <= place <= 0x66 else 0
            for place in range(request.address, request.address + request.count)
        ]

    (doubt,) = (await read_meter(plan, partial(says, 168))).doubts
    assert "current_l1 reads 168 A" in doubt
    assert "with ct 200/5 they count twice" in doubt
    assert (await read_meter(plan, partial(says, 4))).doubts == ()
    direct = plan_of(model, MeterConfig("m1", "l", 1, model.profile))
    assert (await read_meter(direct, partial(says, 63))).doubts == ()


async def test_watch_on_a_low_screen() -> None:
    """More points than rows: they stand side by side, registers left away."""
    reading = await reading_of("eastron-sdm630")
    written = io.StringIO()
    console = Console(width=80, height=24, force_terminal=True, file=written)
    with Screen(as_json=False, console=console) as screen:
        screen.show(reading, again=True)
    shown = written.getvalue()
    assert all(point.point in shown for point in reading.points)
    assert "quality" not in shown
    assert shown.count("\n") < 2 * 24  # drawn once, and once more at the end


async def test_meter_is_given_its_silence() -> None:
    """Each request of a reading comes at least min_gap behind the answer before it, singles after a refusal too."""
    model = msgspec.structs.replace(load_profile("acrel-adl400"), min_gap=30)
    plan = plan_of(model, MeterConfig("m1", "l", 1, model.profile))
    slave, began, ended = simulated(model, 1), [], [time.monotonic()]

    async def ask(request: ReadRequest) -> list[int]:
        began.append(time.monotonic())
        ended.append(time.monotonic())
        if len(began) == 1:
            raise ExceptionAnswerError(2)
        return list(slave.read(request.table, request.address, request.count, 1_790_000_000.0))

    await read_meter(plan, ask)
    assert len(began) > 2
    assert all(later - before >= 0.03 for before, later in zip(ended, began, strict=False))


async def test_points_delivered_as_read_are_shown_once() -> None:
    """Most meters."""
    assert (await reading_of("eastron-sdm630")).delivered == ()
