"""The poller against simulated meters: what they answer comes out, and each way they fail is named and survived."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.plan import make_plan
from parkfleet.agent.poller import LinePoller
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import Quality, quality_name
from parkfleet.protocols.quantity import Duration
from parkfleet.protocols.registers import decode
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.agent.conftest import SMALL
from tests.eventually import eventually


class Polled:
    """A line being polled, and the scans that came of it."""

    def __init__(self, url: str, timeout: float = 0.3) -> None:
        gateway = GatewayConfig(
            park="p",
            gateway="g",
            broker=BrokerConfig("mqtt://127.0.0.1:1"),
            lines=[LineConfig("line", url, Duration(timeout))],
            meters=[MeterConfig(f"m{unit}", "line", unit, "small", Duration(0.2)) for unit in (1, 2)],
        )
        (plan,) = make_plan(Configuration(gateway, {"small": SMALL}, Path())).lines
        self.scans: list[Scan] = []
        self.poller = LinePoller(plan, self.scans.append)

    def qualities(self, entry: int) -> list[str]:
        """The quality of each scan of a meter (its first point's, and the holding register's when they differ)."""
        scans = [scan for scan in self.scans if scan.entry == entry]
        return ["/".join(dict.fromkeys(quality_name(code) for code in scan.quality)) for scan in scans]

    async def sees(self, entry: int, quality: str) -> None:
        """Returns when a later scan of the meter has this quality."""
        seen = len(self.scans)
        await eventually(lambda: any(s.entry == entry and self._of(s) == quality for s in self.scans[seen:]))

    def _of(self, scan: Scan) -> str:
        return "/".join(dict.fromkeys(quality_name(code) for code in scan.quality))


@contextlib.asynccontextmanager
async def polling(url: str, timeout: float = 0.3) -> AsyncIterator[Polled]:
    """Polls in the background; at the end lets the scan in flight finish."""
    polled = Polled(url, timeout)
    task = asyncio.create_task(polled.poller.run())
    try:
        yield polled
        polled.poller.stop()
        await task
    finally:
        task.cancel()


@pytest.fixture(params=["serial", "tcp", "rtu+tcp"])
async def line(
    request: pytest.FixtureRequest, tmp_path: Path, meters: list[SimulatedMeter], record: AnswerRecord
) -> AsyncIterator[SerialLine | TcpEndpoint]:
    """Each kind of line, with both meters on it."""
    wire = (
        SerialLine("bus", tmp_path, meters, record, baud=115200)
        if request.param == "serial"
        else TcpEndpoint("bus", meters, record, rtu=request.param == "rtu+tcp")
    )
    async with wire:
        yield wire


async def test_poll_gives_what_was_answered(line: SerialLine | TcpEndpoint, record: AnswerRecord) -> None:
    """Every scan holds exactly the registers that left the meter, and nothing answered is missing."""
    async with polling(line.url) as polled:
        await eventually(lambda: len(polled.scans) >= 8)
    answered: dict[tuple[int, str], list[int]] = {}
    for answer in record:
        for point in SMALL.points:
            if point.table == answer.table:
                start = point.address - answer.address
                slot, _, _ = decode(point, answer.values[start : start + point.count])
                answered.setdefault((answer.unit, point.id), []).append(slot)
    polled_slots: dict[tuple[int, str], list[int]] = {}
    for scan in polled.scans:
        assert set(scan.quality) == {Quality.GOOD}
        for point, slot in zip(SMALL.points, scan.slots, strict=True):
            polled_slots.setdefault((scan.entry + 1, point.id), []).append(slot)
    assert polled_slots == answered


async def test_poll_times_grow(line: SerialLine | TcpEndpoint) -> None:
    """Within a meter time runs forward, slot by slot."""
    async with polling(line.url) as polled:
        await eventually(lambda: len(polled.scans) >= 8)
    for entry in (0, 1):
        stamps = [scan.ts for scan in polled.scans if scan.entry == entry]
        assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("fault", "value", "quality", "lines"),
    [
        ("silent", True, "timeout", "serial tcp rtu+tcp"),
        ("unit", 9, "corrupt", "serial tcp rtu+tcp"),
        ("function", 6, "corrupt", "serial tcp rtu+tcp"),
        ("corrupt", True, "corrupt", "serial rtu+tcp"),
        ("cut", 2, "corrupt", "serial tcp rtu+tcp"),
        ("longer", 3, "corrupt", "serial tcp rtu+tcp"),
        ("exception", 4, "exception-4", "serial tcp rtu+tcp"),
        ("late", 0.5, "timeout", "serial tcp rtu+tcp"),
        ("disconnect", True, "disconnected", "tcp rtu+tcp"),
    ],
)
async def test_poll_fault_is_named_and_survived(
    request: pytest.FixtureRequest,
    line: SerialLine | TcpEndpoint,
    meters: list[SimulatedMeter],
    fault: str,
    value: object,
    quality: str,
    lines: str,
) -> None:
    """A faulty meter's readings say why; its neighbour stays well; when it recovers, so do its readings."""
    if line.address.kind not in lines.split():
        value = getattr(meters[0].faults, fault)  # this wire cannot do it: the meter stays well
        quality = "good"
    async with polling(line.url) as polled:
        await polled.sees(0, "good")
        setattr(meters[0].faults, fault, value)
        await polled.sees(0, quality)
        meters[0].faults.clear()
        await polled.sees(0, "good")
        await polled.sees(1, "good")
    told = Counter(polled.qualities(1))
    assert set(told) <= {"good", "disconnected", "corrupt", "timeout"}
    assert told["good"] >= 2


async def test_poll_late_answer_is_never_the_next_one(
    line: SerialLine | TcpEndpoint, meters: list[SimulatedMeter], record: AnswerRecord
) -> None:
    """An answer that comes after its time-out is not taken for a later request's."""
    async with polling(line.url, timeout=0.1) as polled:
        await polled.sees(0, "good")
        for delay in (0.11, 0.15, 0.19, 0.12, 0.17):
            meters[0].faults.late = delay
            await polled.sees(0, "timeout")
            meters[0].faults.clear()
            await polled.sees(0, "good")
    sound = {
        decode(SMALL.points[2], answer.values)[0]
        for answer in record
        if answer.ok and answer.unit == 1 and answer.table == "holding"
    }
    for scan in polled.scans:
        if scan.entry == 0 and scan.quality[2] == Quality.GOOD:
            assert scan.slots[2] in sound


async def test_poll_dead_meter_is_asked_less_and_less(
    line: SerialLine | TcpEndpoint, meters: list[SimulatedMeter]
) -> None:
    """A silent meter's readings go on at its interval, while the line hardly asks it any more."""
    async with polling(line.url, timeout=0.05) as polled:
        meters[0].faults.silent = True
        await polled.sees(0, "timeout")
        seen = len(polled.scans)
        await eventually(lambda: len([s for s in polled.scans[seen:] if s.entry == 0]) >= 12)
        assert polled.poller.status.errors["timeout"] < 8
        assert polled.poller.status.meters_bad == {"m1"}
    assert polled.qualities(1).count("good") >= 10


async def test_poll_meter_that_its_gateway_cannot_reach(meters: list[SimulatedMeter]) -> None:
    """Exception 11 means a silent meter, whose box waited for it: asked less and less, and read when it is back."""
    async with TcpEndpoint("bus", meters, AnswerRecord()) as line, polling(line.url) as polled:
        await polled.sees(0, "good")
        meters[0].faults.exception = 11
        await polled.sees(0, "exception-11")
        asked, seen = polled.poller.activities()["m1"].requests, len(polled.scans)
        await eventually(lambda: len([s for s in polled.scans[seen:] if s.entry == 0]) >= 12)
        assert polled.poller.activities()["m1"].requests - asked < 6
        assert polled.poller.status.meters_bad == {"m1"}
        meters[0].faults.clear()
        polled.poller.wake(1)
        await polled.sees(0, "good")


async def test_poll_silent_meter_is_asked_its_smallest_request_first(
    line: SerialLine | TcpEndpoint, meters: list[SimulatedMeter], record: AnswerRecord
) -> None:
    """Whichever the order of its requests; when it answers, all of it is read."""
    async with polling(line.url, timeout=0.05) as polled:
        await polled.sees(0, "good")
        meters[0].faults.silent = True
        await polled.sees(0, "timeout")
        meters[0].faults.clear()
        answered = len(record)
        await polled.sees(0, "good")
    own = [answer.table for answer in [*record][answered:] if answer.unit == 1]
    assert own[:2] == ["holding", "input"]  # two registers, then four


async def test_poll_unplugged_adapter_comes_back(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """A port that vanishes is told as disconnected, and polled again when it is back under its name."""
    async with SerialLine("bus", tmp_path, meters, AnswerRecord(), baud=115200) as line, polling(line.url) as polled:
        await polled.sees(0, "good")
        line.unplug()
        await polled.sees(0, "disconnected")
        assert not polled.poller.status.up
        line.plug()
        await polled.sees(0, "good")
        assert polled.poller.status.up


async def test_poll_endpoint_that_refuses(meters: list[SimulatedMeter]) -> None:
    """An endpoint that refuses connections is told as disconnected, and polled when it accepts again."""
    async with TcpEndpoint("bus", meters, AnswerRecord()) as line, polling(line.url) as polled:
        await polled.sees(0, "good")
        await line.refuse()
        await polled.sees(1, "disconnected")
        await line.accept()
        await polled.sees(0, "good")


async def test_poll_port_in_use(tmp_path: Path, meters: list[SimulatedMeter], caplog: pytest.LogCaptureFixture) -> None:
    """Two programs on one bus disturb each other: the second is told whose fault it is."""
    async with SerialLine("bus", tmp_path, meters, AnswerRecord(), baud=115200) as line, polling(line.url) as first:
        await first.sees(0, "good")
        async with polling(line.url) as second:
            await second.sees(0, "disconnected")
        assert re.search(r"is in use by another program, .+ \(process \d+\): stop it first", caplog.text)
        await first.sees(0, "good")


async def test_poll_port_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A port that was never there is told with the remedy."""
    async with polling(f"serial://{tmp_path}/ttyUSB7?baud=9600") as polled:
        await polled.sees(0, "disconnected")
    assert "No such file or directory; is the adapter plugged in?" in caplog.text
