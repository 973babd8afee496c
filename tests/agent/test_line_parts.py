"""Line parts: across configurations, lines that stay go on without a pause; no scan is taken for another meter's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from parkfleet.agent import polling as polling_module
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.line_parts import LineParts
from parkfleet.agent.plan import Plan, make_plan
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.payload.series import Scan, has_value
from parkfleet.protocols.quantity import Duration
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.agent.conftest import SMALL
from tests.eventually import eventually

#: Meters by their line; meter mN is unit N.
LINES = {"a": [1, 2], "b": [3], "c": [4]}


class Gateway:
    """Three endpoints, and an agent's lines that follow one plan after another."""

    def __init__(self, endpoints: dict[str, TcpEndpoint], folder: Path) -> None:
        self.endpoints = endpoints
        self._folder = folder
        self.parts = LineParts()
        self.scans: list[tuple[str, Scan]] = []  # with the meter's id by the plan of that time
        self.failed: list[str] = []
        self.slow: set[int] = set()  # units whose counter is read at another interval, in an entry of its own
        self.columns: list[tuple[str, int, int]] = []  # of each scan: its meter, its columns and those of its entry

    def plan(self, lines: dict[str, list[int]], intervals: dict[int, float] | None = None) -> Plan:
        """These lines polled, in this order; those that can go on as they are."""
        units = [(line, unit) for line, members in lines.items() for unit in members]
        config = GatewayConfig(
            park="p",
            gateway="g",
            broker=BrokerConfig("mqtt://127.0.0.1:1"),
            lines=[LineConfig(line, self.endpoints[line].url) for line in lines],
            meters=[
                MeterConfig(
                    f"m{unit}",
                    line,
                    unit,
                    "small",
                    Duration((intervals or {}).get(unit, 0.1)),
                    intervals={"energy_import": Duration(0.2)} if unit in self.slow else {},
                )
                for line, unit in units
            ],
        )
        return self.parts.continued(make_plan(Configuration(config, {"small": SMALL}, self._folder)))

    def follow(self, lines: dict[str, list[int]], intervals: dict[int, float] | None = None) -> Plan:
        """Has these lines polled."""
        plan = self.plan(lines, intervals)
        entries = plan.schema.entries

        def take(scan: Scan) -> None:
            entry = entries[scan.entry]
            self.scans.append((entry.meter, scan))
            self.columns.append((entry.meter, len(scan.quality), len(entry.columns)))

        self.parts.follow(
            plan,
            plan.delivering(take),
            lambda meter, _asked, _outcomes: self.failed.append(meter.config.id),
        )
        return plan

    def of(self, meter: str) -> list[Scan]:
        """A meter's scans."""
        return [scan for name, scan in self.scans if name == meter]

    async def heard(self, *meters: str) -> None:
        """Waits until each has given two scans more with values."""
        before = {meter: len(self.of(meter)) for meter in meters}

        def more(meter: str) -> bool:
            return len([scan for scan in self.of(meter)[before[meter] :] if any(map(has_value, scan.quality))]) >= 2

        await eventually(lambda: all(map(more, meters)))


@asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[None]:
    """Polls for the block."""
    task = asyncio.create_task(gateway.parts.run())
    try:
        yield
    finally:
        gateway.parts.stop()
        await asyncio.wait_for(task, 5)


@pytest.fixture(params=["engine", "poller"])
async def gateway(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, record: AnswerRecord
) -> AsyncIterator[Gateway]:
    """Its endpoints answer; the lines are polled by the native engine, or in Python."""
    if request.param == "poller":
        monkeypatch.setattr(polling_module, "_native_kinds", frozenset)
    async with AsyncExitStack() as stack:
        endpoints = {}
        for line, units in LINES.items():
            meters = [SimulatedMeter(SMALL, unit, load_of("power", unit), unit) for unit in units]
            endpoints[line] = await stack.enter_async_context(TcpEndpoint(line, meters, record))
        yield Gateway(endpoints, tmp_path)


async def test_a_line_that_stays_goes_on(gateway: Gateway) -> None:
    """Not a slot is missed, its connection stays, and its scans carry the entries of the new plan."""
    gateway.follow({"a": [1, 2], "b": [3]})
    async with running(gateway):
        await gateway.heard("m1", "m2", "m3")
        status = next(status for status in gateway.parts.statuses if status.id == "a")
        gateway.follow({"c": [4], "b": [3], "a": [1, 2]}, {3: 0.2})
        await gateway.heard("m1", "m2", "m3", "m4")
        gateway.follow({"a": [1, 2], "c": [4]})
        await gateway.heard("m1", "m2", "m4")
        assert [found.id for found in gateway.parts.statuses] == ["a", "c"]
        assert gateway.parts.statuses[0] is status
        await eventually(lambda: gateway.endpoints["b"].connections == 0)
        assert status.scans == len(gateway.of("m1")) + len(gateway.of("m2"))
    for meter in ("m1", "m2"):
        slots = [scan.ts // 100 for scan in gateway.of(meter)]
        assert all(after - before == 1 for before, after in pairwise(slots)), slots
        assert all(any(map(has_value, scan.quality)) for scan in gateway.of(meter))
    assert not gateway.failed


async def test_entries_of_several_intervals_stay_their_own(gateway: Gateway) -> None:
    """A meter that has two entries keeps each, wherever they stand in the next schema."""
    gateway.slow = {1}
    gateway.follow({"a": [1, 2], "b": [3]})
    async with running(gateway):
        for order in ("ba", "cab", "ab"):
            gateway.follow({line: LINES[line] for line in order})
            await gateway.heard("m1", "m2", "m3")
    assert {(meter, own) for meter, own, _ in gateway.columns} >= {("m1", 1), ("m1", 2), ("m2", 3), ("m3", 3)}
    assert all(own == columns for _, own, columns in gateway.columns)


async def test_scans_wait_while_nobody_has_the_lines(gateway: Gateway) -> None:
    """Released lines are polled on; whoever follows gets what was read meanwhile."""
    plan = gateway.follow({"a": [1, 2], "b": [3]})
    async with running(gateway):
        await gateway.heard("m1", "m3")
        await gateway.parts.release(plan, 2.0)
        taken = len(gateway.scans)
        status = gateway.parts.statuses[0]
        before = status.scans
        await eventually(lambda: gateway.parts.statuses and status.scans > before + 5)
        assert len(gateway.scans) == taken
        gateway.follow({"b": [3], "a": [1, 2]})
        assert len(gateway.scans) >= taken + 5
        await gateway.heard("m1", "m3")
    for meter in ("m1", "m2", "m3"):
        slots = [scan.ts // 100 for scan in gateway.of(meter)]
        assert all(after - before == 1 for before, after in pairwise(slots)), slots


async def test_a_line_that_is_changed_ends_its_scan_first(gateway: Gateway, record: AnswerRecord) -> None:
    """Whatever a meter has answered was handed on, also when the change comes between a scan's two requests."""
    lines = {"b": [3]}
    gateway.endpoints["b"].meters[3].turnaround = 0.03
    gateway.follow(lines)
    async with running(gateway):
        for interval in (0.2, 0.1, 0.2, 0.1):
            await gateway.heard("m3")
            await eventually(lambda: len(record) % 2 == 1)
            await gateway.parts.release(gateway.plan(lines, {3: interval}), 2.0)
            values = [sum(map(has_value, scan.quality)) for scan in gateway.of("m3")]
            assert sum(values) == sum(answer.count // 2 for answer in record)
            gateway.follow(lines, {3: interval})


async def test_each_scan_is_its_meters_own(gateway: Gateway) -> None:
    """Whatever becomes of the order: a meter's counter never falls, and meters are told apart by it."""
    gateway.follow({"a": [1, 2], "b": [3], "c": [4]})
    async with running(gateway):
        for order in ("cba", "bac", "acb", "cb", "abc"):
            gateway.follow({line: LINES[line] for line in order})
            await gateway.heard(*(f"m{unit}" for line in order for unit in LINES[line]))
    for meter in ("m1", "m2", "m3", "m4"):
        counters = [scan.slots[2] for scan in gateway.of(meter) if has_value(scan.quality[2])]
        assert counters and all(before <= after for before, after in pairwise(counters))
        stamps = [scan.ts for scan in gateway.of(meter)]
        assert all(before < after for before, after in pairwise(stamps))


async def test_a_line_may_be_asked_after_a_change(gateway: Gateway) -> None:
    """Out of turn, by whoever has the lines now; one that is gone is not there."""
    gateway.follow({"a": [1, 2], "b": [3]})
    async with running(gateway):
        await gateway.heard("m1", "m3")
        plan = gateway.follow({"a": [1, 2]})
        request = plan.lines[0].meters[0].requests[0].request
        assert await gateway.parts.lines["a"].ask(request)
        assert list(gateway.parts.lines) == ["a"]


async def test_changes_leave_no_thread_behind(gateway: Gateway) -> None:
    """However often the same line is changed."""
    import threading

    gateway.follow({"a": [1, 2], "b": [3]})
    async with running(gateway):
        await gateway.heard("m1")
        threads = threading.active_count()
        for number in range(20):
            gateway.follow({"a": [1, 2], "b": [3]}, {3: 0.2 + number / 100})
        await gateway.heard("m1", "m3")
        await eventually(lambda: threading.active_count() <= threads + 1)
