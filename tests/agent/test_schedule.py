"""The schedule: slots on the local clock, spread where asked, and overload told with who misses what."""

import asyncio
from datetime import UTC as UTC_TIME
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parkfleet.agent.activity import LineStatus, OnScan
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control_messages import LineState, Status
from parkfleet.agent.forecast import forecast
from parkfleet.agent.installer_view import status_table
from parkfleet.agent.learned_store import LearnedStore
from parkfleet.agent.learner import Learner
from parkfleet.agent.line_book import LineBook
from parkfleet.agent.overload import Overload
from parkfleet.agent.plan import Plan, make_plan
from parkfleet.agent.poller import LinePoller
from parkfleet.agent.polling import Polling
from parkfleet.agent.snapshot import Snapshots
from parkfleet.agent.status import AgentSnapshot
from parkfleet.agent.zone import Zone
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.quantity import Duration
from tests.engine.rig import PtySlave, good_pdu
from tests.eventually import eventually

PROFILE = Profile("p", {"en": "p"}, "power", "test", [Point("a", "uint16", 0)])


def made(url: str, intervals: list[str], spread: bool = False, timezone: str | None = "UTC") -> Configuration:
    """One line, a meter for each interval."""
    meters = [
        MeterConfig(f"m{unit}", "line", unit, "p", Duration.parse(text)) for unit, text in enumerate(intervals, 1)
    ]
    line = LineConfig("line", url, Duration.parse("20s"), spread=spread)
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://127.0.0.1:1"), [line], meters, timezone=timezone)
    return Configuration(gateway, {"p": PROFILE}, Path())


# ---- the local clock

ZONES = ["Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "UTC"]
#: Around the changes of 2026 in Berlin and on Lord Howe (half an hour).
CHANGES = [
    datetime(2026, month, day, tzinfo=UTC_TIME).timestamp() for month, day in [(3, 29), (10, 25), (4, 5), (10, 4)]
]
STEPS = [60, 900, 1800, 3600, 7200, 6 * 3600, 86400]


def is_slot(zone: ZoneInfo, at: float, interval: int) -> bool:
    """Whether the local clock shows a multiple of the interval since midnight."""
    local = datetime.fromtimestamp(at, zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    return (local.replace(tzinfo=None) - midnight.replace(tzinfo=None)) % timedelta(seconds=interval) == timedelta()


@given(st.sampled_from(ZONES), st.sampled_from(CHANGES), st.integers(-2 * 86400, 3 * 86400), st.sampled_from(STEPS))
def test_next_slot_is_the_next_on_the_local_clock(name: str, change: float, offset: int, interval: int) -> None:
    """Before, at and after each change of the clock: behind now, on the clock, and none lies between."""
    after, zone = change + offset, ZoneInfo(name)
    slot = Zone(name).next_slot(after, interval)
    assert after < slot <= after + interval + 3600
    assert is_slot(zone, slot, interval)
    step = min(interval, 900)
    between = range(int(after // step + 1) * step, int(slot), step)  # all changes lie on quarters of an hour
    assert not any(is_slot(zone, at, interval) for at in between)


def test_phase_shifts_the_slots() -> None:
    """A quarter of an hour behind each local hour."""
    slot = Zone("Asia/Kathmandu").next_slot(1_800_000_000.0, 3600, 900.0)
    local = datetime.fromtimestamp(slot, ZoneInfo("Asia/Kathmandu"))
    assert (local.minute, local.second) == (15, 0)


def test_system_zone_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the C library has it."""
    import time

    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert Zone().offset(1_800_000_000.0) == 8 * 3600
        assert Zone().next_slot(1_800_000_000.0, 86400) % 86400 == 16 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_unknown_zone_is_refused() -> None:
    """In the configuration, by name."""
    with pytest.raises(ValueError, match="timezone must be a name such as"):
        made("tcp://127.0.0.1:1", [], timezone="Mars/Olympus")
    with pytest.raises(ValueError, match="timezone must be a name such as"):
        made("tcp://127.0.0.1:1", [], timezone="../../etc/passwd")


# ---- spread


def test_spread_meters_share_their_interval() -> None:
    """Those of one interval evenly, in the order of the configuration; the others among themselves."""
    plan = make_plan(made("tcp://127.0.0.1:1", ["1s", "1s", "10s", "1s", "1s", "10s"], spread=True))
    assert [meter.offset_s for meter in plan.lines[0].meters] == [0.0, 0.25, 0.0, 0.5, 0.75, 5.0]
    plain = make_plan(made("tcp://127.0.0.1:1", ["1s", "1s"]))
    assert [meter.offset_s for meter in plain.lines[0].meters] == [0.0, 0.0]
    assert forecast(plan.lines[0]).late == []


@pytest.mark.parametrize("kind", ["engine", "poller"])
async def test_spread_meters_are_read_at_their_phases(tmp_path: Path, kind: str) -> None:
    """Each scan's time is its own slot."""
    with PtySlave(lambda unit, pdu: [(0.0, rtu.frame(unit, good_pdu(unit, pdu)))]) as slave:
        plan = make_plan(made(f"serial://{slave.name}?baud=115200", ["200ms"] * 4, spread=True))
        async with running(plan, kind) as scans:
            await eventually(lambda: len(scans) >= 24)
    for entry in range(4):  # a loaded machine may answer beyond the snap: most are on their slots
        phases = [scan.ts % 200 for scan in scans if scan.entry == entry]
        assert max(set(phases), key=phases.count) == 50 * entry


class running:
    """A plan being polled, and its scans."""

    def __init__(self, plan: Plan, kind: str, on_scan: OnScan | None = None) -> None:
        self.scans: list[Scan] = []
        zone, on_scan = plan.zone, on_scan or self.scans.append
        self.owner: Polling | LinePoller = (
            Polling(plan.lines, on_scan, None, zone)
            if kind == "engine"
            else LinePoller(plan.lines[0], on_scan, None, zone=zone)
        )

    async def __aenter__(self) -> list[Scan]:
        self.task = asyncio.create_task(self.owner.run())
        return self.scans

    async def __aexit__(self, *exc: object) -> None:
        self.owner.stop()
        await self.task


# ---- overload


def test_overload_is_told_with_who_misses_most() -> None:
    """One hiccup is none; a minute is what the counts are of; it ends when nobody misses any more."""
    overload = Overload()
    assert overload.look(0.0, {}) == ""
    assert overload.look(15.0, {"a": 1}) == ""
    assert overload.look(20.0, {"a": 1}) == ""
    assert overload.look(30.0, {"a": 1, "b": 4}) == ""
    told = overload.look(45.0, {"a": 3, "b": 5})
    assert told.startswith("slots missed in the last 45 s: b 5, a 3. ")
    assert overload.look(60.0, {"a": 3, "b": 5}) == ""
    for step in range(5, 30):
        told = overload.look(15.0 * step, {"a": 3 + step, "b": 5})
    assert "last 60 s: a 4." in told


@pytest.mark.parametrize("kind", ["engine", "poller"])
async def test_overloaded_line_says_so(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Four meters ask for more than the line carries: each still is read, the line, its status and snapshot tell it."""
    with PtySlave(lambda unit, pdu: [(0.06, rtu.frame(unit, good_pdu(unit, pdu)))]) as slave:
        configuration = made(f"serial://{slave.name}?baud=115200", ["100ms"] * 4)
        plan = make_plan(configuration)
        owner = running(plan, kind)
        polled = owner.owner
        lines = polled.lines if isinstance(polled, Polling) else {"line": polled}

        def statuses() -> list[LineStatus]:
            return polled.statuses if isinstance(polled, Polling) else [polled.status]

        book = LineBook(plan, Learner(plan, configuration, LearnedStore(tmp_path / "l.db")), lines, statuses)
        async with owner as scans:
            for look in range(3):
                wanted = sum(statuses()[0].late.values()) + 4
                await eventually(lambda wanted=wanted: sum(statuses()[0].late.values()) > wanted)  # type: ignore[misc]
                book.look(15.0 * look)
            (status,) = statuses()
            assert status.overload.startswith("slots missed in the last 30 s: ")
            assert set(status.late) == {"m1", "m2", "m3", "m4"}
            turns = [sum(scan.entry == entry for scan in scans) for entry in range(4)]
            assert max(turns) - min(turns) <= 2
            facts = book.facts()[0]
            assert all(own.missed > 0 for own in facts.meters)
            assert "line line is overloaded" in caplog.text
            from parkfleet.agent.delivery import ForwarderStatus
            from parkfleet.agent.store import StoreStats

            report = Snapshots(statuses, ForwarderStatus(), 4).take(StoreStats(1, 0, 0, 0, 0, 0, 0, 0, 0, 0)).lines[0]
            assert report.told == status.overload
            assert report.missed == status.missed == sum(report.late.values())
            book.look(45.0 + 15)
            await eventually(lambda: len(scans) > 40)


def test_overload_stands_in_the_status() -> None:
    """Below the table, in its own sentence, as does what would make a line faster."""
    state = LineState(
        "bus1", "serial:///dev/ttyUSB0", True, "", 0.99, 9, 9, 4, {}, 2, [], {"m1": 4}, "m1 misses", "set it"
    )
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table(Status("1", 1, "p", "g", [state], AgentSnapshot())))
    assert capture.get().splitlines()[-2:] == ["line bus1 is overloaded: m1 misses", "line bus1: set it"]
