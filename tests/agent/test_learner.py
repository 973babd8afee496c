"""The learner at work: meters that do not take what their profiles say, read through the engine and the poller."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from parkfleet.agent.activity import MeterActivity, OnFailure, OnScan
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.learned_store import STORE_NAME, LearnedStore
from parkfleet.agent.learner import Learner, known_facts
from parkfleet.agent.plan import MeterPlan, Plan, make_plan
from parkfleet.agent.poller import LinePoller
from parkfleet.agent.polling import Polling
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.learned import Evidence, Learned, Limit
from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.modbus.pdu import Request
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.quality import EXCEPTION, Quality
from parkfleet.protocols.quantity import Duration
from tests.engine.rig import PtySlave, TcpSlave, good_pdu, mbap
from tests.eventually import eventually

#: Twelve registers side by side, three behind a gap, and two far away.
ADDRESSES = [*range(12), 20, 21, 22, 900, 901]
PROFILE = Profile("p", {"en": "p"}, "power", "test", [Point(f"p{address}", "uint16", address) for address in ADDRESSES])

#: What a slave makes of (address, count): None for silence, or an exception code, 0 for values.
Manners = Callable[[int, int], int | None]


class Polled:
    """A line of one meter, its scans, and what is learned of it."""

    def __init__(
        self,
        folder: Path,
        device: str,
        kind: str,
        profile: Profile = PROFILE,
        timeout: str = "60ms",
        intervals: dict[str, Duration] | None = None,
        url: str = "",
    ) -> None:
        gateway = GatewayConfig(
            park="p",
            gateway="g",
            broker=BrokerConfig("mqtt://127.0.0.1:1"),
            lines=[LineConfig("line", url or f"serial://{device}?baud=115200", Duration.parse(timeout))],
            meters=[MeterConfig("m", "line", 1, "p", Duration(0.1), intervals=intervals or {})],
        )
        self.configuration = Configuration(gateway, {"p": profile}, folder)
        self.store = LearnedStore(folder / STORE_NAME)
        self.plan: Plan = make_plan(self.configuration, known_facts(self.configuration, self.store))
        self.learner = Learner(self.plan, self.configuration, self.store, rest_s=0.03)
        self.scans: list[Scan] = []
        self.owner = self._engine if kind == "engine" else self._poller
        self.lines, self.run, self.stop = self.owner(self.plan.delivering(self.scans.append), self.learner.saw)

    @property
    def learned(self) -> Learned:
        return self.learner.pupils["m"].learned

    @property
    def kept(self) -> Learned | None:
        """What the disk has."""
        return known_facts(self.configuration, self.store).get("m")

    def _engine(self, on_scan: OnScan, saw: OnFailure):  # type: ignore[no-untyped-def]
        polling = Polling(self.plan.lines, on_scan, saw)
        return polling.lines, polling.run, polling.stop

    def _poller(self, on_scan: OnScan, saw: OnFailure):  # type: ignore[no-untyped-def]
        poller = LinePoller(self.plan.lines[0], on_scan, saw)
        return {"line": poller}, poller.run, poller.stop

    def latest(self) -> list[int]:
        """The qualities of the last scan."""
        return list(self.scans[-1].quality) if self.scans else []


@contextlib.asynccontextmanager
async def polling(polled: Polled) -> AsyncIterator[Polled]:
    """Polls and learns until the end."""
    tasks = [asyncio.create_task(polled.run()), asyncio.create_task(polled.learner.run(polled.lines))]
    try:
        yield polled
    finally:
        tasks[1].cancel()
        await asyncio.wait(tasks[1:])
        polled.stop()
        await tasks[0]


def slave(manners: Manners) -> PtySlave:
    """A meter that answers as its manners say."""

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        _, address, count = struct.unpack(">BHH", pdu)
        code = manners(address, count)
        if code is None:
            return []
        return [(0.0, rtu.frame(unit, bytes([pdu[0] | 0x80, code]) if code else good_pdu(unit, pdu)))]

    return PtySlave(behave)


def touches(address: int, count: int, *registers: int) -> bool:
    return any(address <= register < address + count for register in registers)


KINDS = pytest.mark.parametrize("kind", ["engine", "poller"])


@KINDS
async def test_refused_point_costs_the_others_nothing(tmp_path: Path, kind: str) -> None:
    """It keeps the meter's exception as its quality, is not asked any more, and the plan survives a restart."""
    with slave(lambda address, count: 2 if touches(address, count, 5) else 0) as meter:
        wanted = [EXCEPTION | 2 if address == 5 else 0 for address in ADDRESSES]
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.latest() == wanted)
            assert [(one.address, one.count) for one in polled.learned.refused] == [(5, 1)]
            await eventually(lambda: polled.kept == polled.learned)
            asked = len(meter.requests)
            await eventually(lambda: len(meter.requests) > asked + 9)
            assert not any(touches(*struct.unpack(">HH", pdu[1:]), 5) for _, _, pdu in meter.requests[asked:])
        before = len(meter.requests)
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.scans)
            assert list(polled.scans[0].quality) == wanted
        assert not any(touches(*struct.unpack(">HH", pdu[1:]), 5) for _, _, pdu in meter.requests[before:])


@KINDS
async def test_hole_between_points_is_learned(tmp_path: Path, kind: str) -> None:
    """All points are good again."""
    with slave(lambda address, count: 2 if touches(address, count, 15) else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.latest() == [0] * len(ADDRESSES))
            assert [(hole.address, hole.count) for hole in polled.learned.holes] == [(12, 8)]
            assert not polled.learned.refused


@KINDS
async def test_longest_block_is_learned_from_silence(tmp_path: Path, kind: str) -> None:
    """A meter that says nothing to more than ten registers: found by time-outs, the points return."""
    with slave(lambda address, count: None if count > 10 else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.latest() == [0] * len(ADDRESSES), within_s=60)
            assert polled.learned.max_registers is not None
            assert polled.learned.max_registers.count == 10
            assert (polled.learned.refused, polled.learned.holes) == ((), ())


async def test_gap_is_learned(tmp_path: Path) -> None:
    """A meter that hears nothing for 15 ms after its answer. (The poller's own pace leaves such gaps by itself.)"""
    answered = 0.0

    def deaf(address: int, count: int) -> int | None:
        nonlocal answered
        if time.monotonic() - answered < 0.015:
            return None
        answered = time.monotonic()
        return 0

    with slave(deaf) as meter:
        async with polling(Polled(tmp_path, meter.name, "engine")) as polled:
            await eventually(lambda: polled.learned.gap is not None, within_s=60)
            assert polled.learned.gap is not None
            assert polled.learned.gap.ms in (20, 50)  # a machine under load makes the pauses it tries longer
            seen = len(polled.scans)
            await eventually(lambda: [list(scan.quality) for scan in polled.scans[seen:]].count([0] * 17) >= 5)
            assert (polled.learned.refused, polled.learned.holes, polled.learned.max_registers) == ((), (), None)


@KINDS
async def test_meter_that_refuses_everything_for_a_while(tmp_path: Path, kind: str) -> None:
    """Its registers are told as refused, nothing is learned from it, and all return with it."""
    starting = True
    with slave(lambda address, count: 4 if starting else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.learner.pupils["m"].search_after > 0)
            assert polled.latest() == [EXCEPTION | 4] * len(ADDRESSES)
            starting = False
            await eventually(lambda: polled.latest() == [0] * len(ADDRESSES))
            assert polled.learned.is_empty


@KINDS
async def test_refused_point_that_answers_again_is_read_again(tmp_path: Path, kind: str) -> None:
    """A refusal is doubted soon, then less and less often (here: when tended with its time come)."""
    refuses = True
    with slave(lambda address, count: 2 if refuses and touches(address, count, 5) else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.kept is not None and not polled.learner.pupils["m"].suspect)
            pupil = polled.learner.pupils["m"]
            await polled.learner.tend(polled.lines["line"], [pupil])
            assert pupil.learned.refused  # its time has not come
            pauses = [pupil.retry_pause]
            for _ in range(8):
                pupil.retry_at = 0.0
                await polled.learner.tend(polled.lines["line"], [pupil])
                assert pupil.learned.refused  # and it does refuse
                pauses.append(pupil.retry_pause)
            assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
            refuses, pupil.retry_at = False, 0.0
            await polled.learner.tend(polled.lines["line"], [pupil])
            assert not pupil.learned.refused
            await eventually(lambda: polled.latest() == [0] * len(ADDRESSES))


@KINDS
async def test_turnaround_is_learned(tmp_path: Path, kind: str) -> None:
    """From the answers; the plan's cost says so."""

    def slow(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.03, rtu.frame(unit, good_pdu(unit, pdu)))]

    with PtySlave(slow) as meter:
        async with polling(Polled(tmp_path, meter.name, kind, timeout="500ms")) as polled:
            pupil = polled.learner.pupils["m"]
            await eventually(lambda: polled.lines["line"].activities().get("m", MeterActivity()).turnarounds >= 15)
            await polled.learner.tend(polled.lines["line"], [pupil])
            assert pupil.learned.turnaround is not None
            assert pupil.learned.turnaround.us >= 25_000  # the poller takes wire time off that a pty lacks
            line = polled.plan.lines[0]
            assert line.scan_seconds(pupil.plan) > line.scan_seconds(line.meters[0]) + 0.01
            seen = len(polled.scans)
            await eventually(lambda: len(polled.scans) > seen + 2)
            assert polled.latest() == [0] * len(ADDRESSES)


@KINDS
async def test_forgotten_meter_is_asked_as_its_profile_says(tmp_path: Path, kind: str) -> None:
    """At once, and after a restart."""
    with slave(lambda address, count: 2 if touches(address, count, 5) else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, kind)) as polled:
            await eventually(lambda: polled.kept is not None)
            meter.behaviour = lambda unit, pdu: [(0.0, rtu.frame(unit, good_pdu(unit, pdu)))]
            assert await polled.learner.forget("m", polled.lines)
            await eventually(lambda: polled.latest() == [0] * len(ADDRESSES))
            assert polled.kept is None


@KINDS
async def test_what_a_slow_group_refuses_is_learned_for_all(tmp_path: Path, kind: str) -> None:
    """A point read in each second slot is refused; the hole lies in the way of both groups."""
    with slave(lambda address, count: 2 if touches(address, count, 5, 15) else 0) as meter:
        slow = {"p5": Duration(0.2), "p20": Duration(0.2)}
        async with polling(Polled(tmp_path, meter.name, kind, intervals=slow)) as polled:
            await eventually(lambda: polled.kept is not None and polled.kept.refused)
            assert [(one.address, one.count) for one in polled.learned.refused] == [(5, 1)]
            assert polled.learned.holes
            wanted = {(0, b"\0"), (1, b"\0\x82")}
            await eventually(
                lambda: {(scan.entry, bytes(sorted(set(scan.quality)))) for scan in polled.scans[-6:]} == wanted
            )
            asked = len(meter.requests)
            await eventually(lambda: len(meter.requests) > asked + 12)
            for _, _, pdu in meter.requests[asked:]:
                assert not touches(*struct.unpack(">HH", pdu[1:]), 5, 15)


@KINDS
async def test_endpoint_is_learned_too(tmp_path: Path, kind: str) -> None:
    """Modbus TCP: a search has connections of its own beside the engine's; the poller asks on its only one."""

    def answer(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        refused = touches(*struct.unpack(">HH", pdu[1:]), 5)
        connection.sendall(mbap(transaction, unit, bytes([0x83, 2]) if refused else good_pdu(unit, pdu)))

    with TcpSlave(answer) as server:
        url = f"tcp://127.0.0.1:{server.port}"
        async with polling(Polled(tmp_path, "", kind, timeout="2s", url=url)) as polled:
            wanted = [EXCEPTION | 2 if address == 5 else 0 for address in ADDRESSES]
            await eventually(lambda: polled.kept is not None and polled.latest() == wanted)
            assert [(one.address, one.count) for one in polled.learned.refused] == [(5, 1)]


def facts() -> Learned:
    return Learned(max_registers=Limit(10, Evidence(1, 2, 3)))


def test_changed_profile_forgets(tmp_path: Path) -> None:
    """What was learned under another register map says nothing about this one; its words may change."""
    store = LearnedStore(tmp_path / STORE_NAME)
    polled = Polled(tmp_path, "/dev/null", "poller")
    key = polled.learner.pupils["m"].key
    assert store.save(key, facts())
    assert Polled(tmp_path, "/dev/null", "poller").learned == facts()
    renamed = Profile("p", {"en": "other"}, "power", "elsewhere", PROFILE.points)
    assert Polled(tmp_path, "/dev/null", "poller", renamed).learned == facts()
    other = Profile("p", {"en": "p"}, "power", "test", PROFILE.points[1:])
    assert Polled(tmp_path, "/dev/null", "poller", other).learned.is_empty


def test_damaged_store_is_moved_aside(tmp_path: Path) -> None:
    """The agent starts; the meters are learned anew."""
    path = tmp_path / STORE_NAME
    path.write_bytes(b"no database at all, but long enough to look like one" * 50)
    polled = Polled(tmp_path, "/dev/null", "poller")
    assert polled.learned.is_empty
    assert (tmp_path / f"{STORE_NAME}.damaged").exists()
    assert polled.store.save(polled.learner.pupils["m"].key, facts())
    assert polled.kept == facts()


def test_store_that_cannot_be_written_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing more happens."""
    store = LearnedStore(tmp_path / "nowhere" / STORE_NAME)
    assert not store.save(Polled(tmp_path, "/dev/null", "poller").learner.pupils["m"].key, facts())
    assert "is not kept" in caplog.text


async def test_exceptions_of_the_moment_teach_nothing(tmp_path: Path) -> None:
    """A busy meter (6) is asked as before."""
    with slave(lambda address, count: 6 if touches(address, count, 5) else 0) as meter:
        async with polling(Polled(tmp_path, meter.name, "engine")) as polled:
            await eventually(lambda: len(polled.scans) > 5)
            assert polled.latest()[5] == EXCEPTION | 6
            assert polled.learned.is_empty
            assert polled.learner.pupils["m"].suspect is None


class SilentLine:
    """A line on which nobody ever answered."""

    def __init__(self) -> None:
        self.asked: list[int] = []  # units

    async def burst(self, requests: Sequence[tuple[float, Request[object]]]) -> list[int]:
        self.asked += [request.unit for _, request in requests]
        return [int(Quality.TIMEOUT)] * len(requests)

    def replan(self, plan: MeterPlan) -> None:
        raise AssertionError("nothing was learned")

    def activities(self) -> dict[str, MeterActivity]:
        return {f"m{unit}": MeterActivity() for unit in range(1, 31)}


async def test_silent_meters_are_searched_one_at_a_time(tmp_path: Path) -> None:
    """Thirty that never answered: one request in ten minutes, whichever of them it is for."""
    meters = [MeterConfig(f"m{unit}", "line", unit, "p", Duration(1.0)) for unit in range(1, 31)]
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://127.0.0.1:1"), [LineConfig("line", "tcp://h")], meters)
    configuration = Configuration(gateway, {"p": PROFILE}, tmp_path)
    plan = make_plan(configuration)
    learner, line = Learner(plan, configuration, LearnedStore(tmp_path / STORE_NAME)), SilentLine()
    task = asyncio.create_task(learner.run({"line": line}))
    silent = [int(Quality.TIMEOUT)] * len(plan.lines[0].meters[0].requests)

    def tell() -> None:
        for meter in plan.lines[0].meters:
            learner.saw(meter, meter.requests, silent)

    for _ in range(3):
        tell()
    await eventually(lambda: line.asked and all(pupil.search_after for pupil in learner.pupils.values()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(line.asked) == 1
