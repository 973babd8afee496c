"""The engine's owner: a plan in, scans out, on a simulated line and an endpoint."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from parkfleet.agent.engine import LineEngine
from parkfleet.agent.engine_line import EngineLine
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.protocols.config import LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ReadRequest
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.quantity import Duration
from parkfleet.protocols.readplan import WireCost, plan_requests
from parkfleet.protocols.registers import decode
from tests.engine.rig import PtySlave, TcpSlave, registers, well
from tests.eventually import eventually

POINTS = [
    Point("voltage", "uint16", 0),
    Point("power", "int32", 2, order="CDAB"),
    Point("name", "string", 10, registers=3),
    Point("energy", "uint64", 300),
]
PROFILE = Profile("p", {"en": "p"}, "power", "test", POINTS)


def line_plan(url: str, *units: int, interval: str = "200ms", timeout: str = "200ms") -> LinePlan:
    """A line of like meters, entries numbered from 0."""
    config = LineConfig("l", url, Duration.parse(timeout))
    address = parse_line_url(url)
    cost = WireCost.of(address)
    meters = tuple(
        MeterPlan(
            MeterConfig(f"m{unit}", "l", unit, "p", Duration.parse(interval)),
            entry,
            tuple(POINTS),
            tuple(plan_requests(PROFILE, POINTS, unit, cost)),
        )
        for entry, unit in enumerate(units)
    )
    return LinePlan(config, address, cost, meters)


class Running:
    """An engine in a task, and its scans."""

    def __init__(self, *lines: LinePlan) -> None:
        self.scans: list[Scan] = []
        self.engine = LineEngine(lines, self.scans.append)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Running":
        self._task = asyncio.create_task(self.engine.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.engine.stop()
        assert self._task is not None
        async with asyncio.timeout(2.5):
            await self._task

    def good(self, since: int = 0) -> list[Scan]:
        return [scan for scan in self.scans[since:] if not any(scan.quality)]


def device(folder: Path, slave: PtySlave) -> Path:
    """The stable name of a slave's port."""
    link = folder / "port"
    link.unlink(missing_ok=True)
    link.symlink_to(slave.name)
    return link


async def test_scans_hold_what_the_slow_decoder_says(tmp_path: Path) -> None:
    """Slots, quality and texts of every point; times on the slots."""
    with PtySlave(well) as slave:
        async with Running(line_plan(f"serial://{device(tmp_path, slave)}?baud=115200", 1, 2)) as running:
            await eventually(lambda: len(running.good()) >= 6)
    for scan in running.good():
        for column, point in enumerate(POINTS):
            slot, quality, text = decode(point, registers(scan.entry + 1, point.address, point.count))
            assert (scan.slots[column], scan.quality[column]) == (slot, quality)
            if point.type == "string":
                assert scan.texts == (text,)
    for entry in (0, 1):
        stamps = [scan.ts for scan in running.scans if scan.entry == entry]
        assert stamps == sorted(set(stamps))
    assert any(scan.ts % 200 == 0 for scan in running.scans)
    status = running.engine.statuses["l"]
    assert status.up
    assert status.requests >= 12
    assert status.scans == len(running.scans)


async def test_port_is_opened_anew_by_its_name(tmp_path: Path) -> None:
    """Unplugged, its readings say so; plugged in again, they return."""
    with PtySlave(well) as first, PtySlave(well) as second:
        async with Running(line_plan(f"serial://{device(tmp_path, first)}?baud=115200", 1)) as running:
            await eventually(running.good)
            (tmp_path / "port").unlink()
            first.unplug()
            gone = bytes([Quality.DISCONNECTED] * len(POINTS))
            await eventually(lambda: running.scans[-1].quality == gone)
            assert not running.engine.statuses["l"].up
            before = len(running.scans)
            device(tmp_path, second)
            await eventually(lambda: running.good(before))
            assert running.engine.statuses["l"].up


async def test_port_that_is_missing_from_the_start(tmp_path: Path) -> None:
    """The installer is told which, and the readings have their cause."""
    async with Running(line_plan(f"serial://{tmp_path}/nothing", 1)) as running:
        await eventually(lambda: running.scans)
        assert "nothing" in running.engine.statuses["l"].told
    assert running.scans[0].quality == bytes([Quality.DISCONNECTED] * len(POINTS))


async def test_endpoint_that_takes_more_at_once() -> None:
    """As many connections as the line's setting allows, and the meters' requests spread over them."""
    with TcpSlave() as slave:
        plan = line_plan(f"tcp://127.0.0.1:{slave.port}", 1, 2, 3, 4)
        wide = replace(plan, config=LineConfig("l", plan.config.url, connections=3, outstanding=2))
        async with Running(wide) as running:
            await eventually(
                lambda: len(slave.connections) == 3 and {scan.entry for scan in running.good()} == {0, 1, 2, 3}
            )


async def test_endpoint_and_unknown_host() -> None:
    """One line's trouble is not the other's."""
    with TcpSlave() as slave:
        nowhere = line_plan("tcp://no-such-host.invalid:502", 9)
        there = line_plan(f"tcp://localhost:{slave.port}", 1)
        renamed = LinePlan(LineConfig("other", nowhere.config.url), nowhere.address, nowhere.cost, nowhere.meters)
        async with Running(there, renamed) as running:
            await eventually(lambda: running.good() and any(scan.quality[0] == 3 for scan in running.scans))
            assert running.engine.statuses["l"].up
            assert not running.engine.statuses["other"].up


async def test_exception_of_one_request_is_told_and_counted(tmp_path: Path) -> None:
    """The meter keeps its other points and is not taken for bad."""

    def partly(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, rtu.frame(unit, bytes([pdu[0] | 0x80, 2])))] if pdu[1] else well(unit, pdu)

    with PtySlave(partly) as slave:
        async with Running(line_plan(f"serial://{device(tmp_path, slave)}?baud=115200", 1)) as running:
            scans = await eventually(lambda: running.scans[1:])
            assert running.engine.statuses["l"].meters_bad == set()
    assert scans[0].quality == bytes([0, 0, 0, 0x82])
    assert running.engine.statuses["l"].errors["exception-2"] >= 1


async def test_wake_of_a_silent_meter(tmp_path: Path) -> None:
    """By its name; an unknown name is an error."""
    answering: set[int] = set()
    with PtySlave(lambda u, pdu: well(u, pdu) if u in answering else []) as slave:
        url = f"serial://{device(tmp_path, slave)}?baud=115200"
        async with Running(line_plan(url, 1, interval="100ms", timeout="50ms")) as running:
            await eventually(lambda: len(slave.requests) >= 2)
            assert "m1" in running.engine.statuses["l"].meters_bad
            answering.add(1)
            running.engine.wake("m1")
            await eventually(running.good)
            await eventually(lambda: not running.engine.statuses["l"].meters_bad)
            with pytest.raises(KeyError):
                running.engine.wake("nobody")


def guest_of(running: Running, plan: LinePlan) -> EngineLine:
    """Who asks out of turn."""
    return EngineLine(running.engine, plan)


class LateOnce:
    """A slave that answers well, but for one request at a register, which it answers so late that nobody waits."""

    def __init__(self, address: int) -> None:
        self._address = address
        self.is_armed = False

    def __call__(self, unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        if self.is_armed and int.from_bytes(pdu[1:3], "big") == self._address:
            self.is_armed = False
            return [(0.3, well(unit, pdu)[0][1])]
        return well(unit, pdu)


async def test_late_answer_to_a_guest_is_never_the_engines(tmp_path: Path) -> None:
    """The engine asks that unit nothing until it can come no more, though it has the same length as its own answers."""
    behave = LateOnce(500)
    with PtySlave(behave) as slave:
        plan = line_plan(f"serial://{device(tmp_path, slave)}?baud=115200", 1, 2, interval="100ms", timeout="200ms")
        first = plan.meters[0].requests[0].request
        async with Running(plan) as running:
            await eventually(running.good)
            for _ in range(3):
                behave.is_armed = True
                with pytest.raises(AnswerTimeoutError):
                    await guest_of(running, plan).ask(ReadRequest(1, "holding", 500, first.count))
                before = len(running.scans)
                await eventually(lambda before=before: len(running.good(before)) >= 6)  # type: ignore[misc]
    for scan in running.good():
        assert scan.slots[0] == registers(scan.entry + 1, 0, 1)[0]


async def test_late_answer_to_the_engine_is_never_a_guests(tmp_path: Path) -> None:
    """A guest waits until the answer that the engine gave up can come no more."""
    behave = LateOnce(0)
    with PtySlave(behave) as slave:
        plan = line_plan(f"serial://{device(tmp_path, slave)}?baud=115200", 1, interval="100ms", timeout="200ms")
        first = plan.meters[0].requests[0].request
        async with Running(plan) as running:
            await eventually(running.good)
            for _ in range(3):
                before = len(running.scans)
                behave.is_armed = True
                await eventually(lambda before=before: any(any(s.quality) for s in running.scans[before:]))  # type: ignore[misc]
                words = await guest_of(running, plan).ask(ReadRequest(1, "holding", 500, first.count))
                assert words == registers(1, 500, first.count)
                await eventually(lambda before=before: running.good(before))  # type: ignore[misc]


async def test_guest_after_guest_waits_for_the_late_answer(tmp_path: Path) -> None:
    """Also of a unit that is no meter of the line."""
    behave = LateOnce(500)
    with PtySlave(behave) as slave:
        plan = line_plan(f"serial://{device(tmp_path, slave)}?baud=115200", 1, timeout="200ms")
        async with Running(plan) as running:
            guest = guest_of(running, plan)
            behave.is_armed = True
            with pytest.raises(AnswerTimeoutError):
                await guest.ask(ReadRequest(7, "holding", 500, 4))
            assert await guest.ask(ReadRequest(7, "holding", 600, 4)) == registers(7, 600, 4)


async def test_cancelled_owner_leaves_nothing(tmp_path: Path) -> None:
    """Thread joined, descriptors closed, in less than two seconds, dead meters or not."""
    with PtySlave(lambda unit, pdu: []) as slave:
        before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            engine = LineEngine([line_plan(f"serial://{device(tmp_path, slave)}", 1, timeout="60s")], lambda scan: None)
            asked = len(slave.requests)
            task = asyncio.create_task(engine.run())
            await eventually(lambda asked=asked: len(slave.requests) > asked)  # type: ignore[misc]
            task.cancel()
            begun = time.monotonic()
            await asyncio.gather(task, return_exceptions=True)
            assert time.monotonic() - begun < 2
        assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before
