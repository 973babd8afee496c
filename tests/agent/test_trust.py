"""Trust in readings: doubtful counters, replaced meters and their events, on simulated meters and a real broker."""

import asyncio
import contextlib
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from parkfleet.agent import guarding, replacement
from parkfleet.agent.activity import LineStatus
from parkfleet.agent.alarm import AlarmState
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.counter_guard import Baseline, Rule
from parkfleet.agent.events import Events
from parkfleet.agent.guarding import Guard
from parkfleet.agent.plan import LinePlan, MeterPlan, Plan, make_plan
from parkfleet.agent.reading import read_scan
from parkfleet.agent.replacement import Replacements
from parkfleet.agent.service import AgentService
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.library import load_profile
from parkfleet.protocols.modbus.pdu import ExceptionAnswerError, ReadRequest
from parkfleet.protocols.mqtt import MqttConnection
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Scan
from parkfleet.protocols.payload.topics import Event, unpack_event
from parkfleet.protocols.profile import Factor, Table
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.readplan import WireCost
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.agent.site import running
from tests.benchmarks.syncs import SyncCounter
from tests.eventually import eventually

COLUMNS = (Column("power", "W", "int", "gauge"), Column("energy", "kWh", "int", "counter", Factor(1, 1)))
HOUR = 3_600_000


class Guarded:
    """A guard of one meter, its second readings given by the test."""

    def __init__(self, path: Path) -> None:
        self.out: list[Scan] = []
        self.second: list[Scan | None] = []
        self.store = TruthStore(path / "truth.db")
        self.events = Events(self.store)
        address = parse_line_url("tcp://h")
        meter = MeterPlan(MeterConfig("m", "l", 1, "p"), 0, (), ())
        line = LinePlan(LineConfig("l", "tcp://h"), address, WireCost.of(address), (meter,))
        plan = Plan(Schema((Entry("m", "p", "power", COLUMNS),)), (line,))
        rules = {("m", "energy"): Rule(100.0, 0.1)}
        self.guard = Guard(plan, rules, {}, self.events, self._reread, self.out.append)

    async def _reread(self, _: MeterPlan, entry: int) -> Scan | None:
        await asyncio.sleep(0)
        return self.second.pop(0) if self.second else None

    def scan(self, hour: int, energy: int, quality: int = Quality.GOOD) -> Scan:
        return Scan(0, hour * HOUR, array("q", [7, energy]), bytes([0, quality]), ())

    async def takes(self, *scans: Scan) -> list[tuple[int, int, int]]:
        """(hour, energy, quality) of all that came out in the end."""
        for scan in scans:
            self.guard.on_scan(scan)
        await eventually(lambda: len(self.out) >= len(scans))
        return [(scan.ts // HOUR, scan.slots[1], scan.quality[1]) for scan in self.out]


async def test_reading_that_was_torn_once_is_mended_by_the_second(tmp_path: Path) -> None:
    """The second reading takes its place, with its own good quality; no event."""
    guarded = Guarded(tmp_path)
    guarded.second = [guarded.scan(1, 55)]
    assert await guarded.takes(guarded.scan(0, 50), guarded.scan(1, 65_586)) == [(0, 50, 0), (1, 55, 0)]
    assert guarded.events.counts == {}


async def test_doubtful_reading_that_stands_goes_out_as_suspect(tmp_path: Path) -> None:
    """Never dropped, in its order, the other points untouched; confirmed three times it is the new baseline, told."""
    guarded = Guarded(tmp_path)
    guarded.second = [guarded.scan(1, 1)]
    scans = [guarded.scan(hour, energy) for hour, energy in enumerate([50_000, 1, 2, 3, 4])]
    good, suspect = Quality.GOOD, Quality.SUSPECT
    assert await guarded.takes(*scans) == [
        (0, 50_000, good), (1, 1, suspect), (2, 2, suspect), (3, 3, suspect), (4, 4, good)
    ]  # fmt: skip
    assert all(scan.quality[0] == good for scan in guarded.out)
    assert guarded.events.counts == {"counter-doubtful": 1, "counter-restarted": 1}


async def test_meter_that_gives_no_second_reading(tmp_path: Path) -> None:
    """The first goes out, as suspect."""
    guarded = Guarded(tmp_path)
    guarded.second = [None]
    assert (await guarded.takes(guarded.scan(0, 50), guarded.scan(1, 65_586)))[1] == (1, 65_586, Quality.SUSPECT)


@pytest.mark.parametrize("failing", ["raises", "hangs"])
async def test_second_reading_that_fails_holds_no_meter_up(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of it: the doubtful scan and those behind it go on, in their order."""

    class Failing(Guarded):
        async def _reread(self, meter: MeterPlan, entry: int) -> Scan | None:
            if failing == "raises":
                raise OSError("too many open files")
            await asyncio.Event().wait()
            return None

    monkeypatch.setattr(guarding, "REREAD_S", 0.01)
    guarded = Failing(tmp_path)
    assert await guarded.takes(guarded.scan(0, 50_000), guarded.scan(1, 1), guarded.scan(2, 50_001)) == [
        (0, 50_000, Quality.GOOD), (1, 1, Quality.SUSPECT), (2, 50_001, Quality.GOOD)
    ]  # fmt: skip


async def test_end_holds_nothing_back(tmp_path: Path) -> None:
    """The agent stops while a meter is read again."""
    guarded = Guarded(tmp_path)
    guarded.guard.on_scan(guarded.scan(0, 50))
    guarded.guard.on_scan(guarded.scan(1, 65_586))
    guarded.guard.on_scan(guarded.scan(2, 55))
    await guarded.guard.end()
    assert [scan.slots[1] for scan in guarded.out] == [50, 65_586, 55]


async def test_missing_readings_are_no_doubt(tmp_path: Path) -> None:
    """A gap between two readings says nothing against them."""
    guarded = Guarded(tmp_path)
    gap = guarded.scan(1, 0, Quality.TIMEOUT)
    assert [q for _, _, q in await guarded.takes(guarded.scan(0, 50), gap, guarded.scan(2, 60))] == [0, 1, 0]


def test_store_outlives_damage(tmp_path: Path) -> None:
    """Baselines, identities and events are there after a restart; a damaged file is moved aside."""
    path = tmp_path / "truth.db"
    store = TruthStore(path)
    store.save({("m", "energy"): Baseline(5.5, 7)}, {("r", "m", "energy"): AlarmState("above", 7)})
    store.save_identity("m", "SN 1")
    assert store.add_events([b"x"], {("r", "m", "power"): AlarmState("below", 8)})
    again = TruthStore(path)
    assert again.baselines() == {("m", "energy"): Baseline(5.5, 7)}
    assert again.identities() == {"m": "SN 1"}
    ((number, packed),) = again.events()
    assert packed == b"x"
    assert again.alarms() == {("r", "m", "energy"): AlarmState("above", 7), ("r", "m", "power"): AlarmState("below", 8)}
    prefix = again.prefix()
    third = TruthStore(path)
    assert third.prefix() == prefix
    third.close()
    again.drop_events([number])
    assert again.events() == []
    store.close()
    again.close()
    path.write_bytes(b"no database at all, but long enough to look like something" * 20)
    assert TruthStore(path).identities() == {}
    assert (tmp_path / "truth.db.damaged").exists()
    assert TruthStore(path).prefix() != prefix


def test_store_on_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Told once; nothing is raised."""
    store = TruthStore(tmp_path / "no folder" / "truth.db")
    assert (store.prefix(), store.add_events([b"x"], {}), store.baselines()) == ("", False, {})
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1


async def test_alarm_is_not_known_to_the_disk_before_its_event(tmp_path: Path) -> None:
    """Killed in between, it would never be told: whoever keeps what alarms know waits for the events."""
    store = TruthStore(tmp_path / "truth.db")
    events, key = Events(store), ("r", "m", "p")
    events.emit("rule-raised", "too hot", "m", {}, (key, AlarmState("above", 7)))
    settled = asyncio.create_task(events.settled())
    await asyncio.wait([settled], timeout=0.05)
    assert not settled.done()
    assert (store.events(), store.alarms()) == ([], {})
    keeping = asyncio.create_task(events.run())
    await settled
    keeping.cancel()
    assert len(store.events()) == 1
    assert store.alarms() == {key: AlarmState("above", 7)}


SAVES = """
import asyncio, sys
from pathlib import Path
from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.plan import make_plan
from parkfleet.agent.trust import Trust
configuration = load_configuration(Path(sys.argv[1]))
trust = Trust(configuration, make_plan(configuration), print)
async def main():
    await trust._save()
    print("saved", flush=True)
    sys.stdin.readline()
    await trust._save()
    print("saved", flush=True)
    sys.stdin.readline()
asyncio.run(main())
"""


def test_nothing_is_written_when_nothing_is_new(tmp_path: Path) -> None:
    """SD cards: what is known of counters and alarms is written when it has changed, and costs no sync otherwise."""
    device(tmp_path, 1)
    meter = {"id": "m1", "line": "l", "unit": 1, "profile": "known"}
    own = {"park": "p", "gateway": "g", "broker": {"url": "mqtt://h"}, "profiles": ["profiles"], "meters": [meter]}
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({**own, "lines": [{"id": "l", "url": "tcp://h"}]}))
    counter = SyncCounter(tmp_path)
    command = [sys.executable, "-c", SAVES, str(tmp_path / "gateway.yaml")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=counter.environment, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        before = counter.written.syncs
        assert before > 0
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        assert counter.written.syncs == before
        child.stdin.write("\n")
        child.stdin.close()


async def test_events_on_a_disk_that_refuses_are_sent_all_the_same(tmp_path: Path) -> None:
    """Kept in memory until the broker has them."""
    sent: list[str] = []

    class Connection:
        async def publish(self, topic: str, payload: bytes) -> None:
            sent.append(unpack_event(payload).text)

    told = Events(TruthStore(tmp_path / "no folder" / "truth.db"))
    told.emit("test", "first")
    told.emit("test", "second")
    await told.end()
    delivering = asyncio.create_task(told.deliver(Connection(), "topic"))
    await eventually(lambda: sent == ["first", "second"])
    delivering.cancel()


PROFILE = """\
profile: known
title: {en: Known}
medium: power
source: these tests
identity: [serial_number]
points:
  - {id: serial_number, type: uint32, address: 0, hidden: true}
  - {id: energy_import, type: uint32, address: 2, unit: kWh, kind: counter}
"""


def agent(folder: Path, line: TcpEndpoint, broker: str) -> contextlib.AbstractAsyncContextManager[AgentService]:
    """A running agent of one meter."""
    own = {"park": "p", "gateway": "g", "profile": "known", "broker": {"url": broker}, "buffer": {"flush": "100ms"}}
    return running(folder, line, own)


def device(folder: Path, seed: int) -> SimulatedMeter:
    """With a serial number of its own."""
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles/known.yaml").write_text(PROFILE)
    return SimulatedMeter(load_profile("known", [folder / "profiles"]), 1, load_of("power", 1), seed)


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[list[Event]]:
    """The gateway's events as a consumer hears them."""
    heard: list[Event] = []
    connection = await MqttConnection.open(
        BrokerConfig(url),
        "listener",
        folder=Path(),
        on_message=lambda _t, payload, _r: heard.append(unpack_event(payload)),
    )
    try:
        await connection.subscribe("pf/v1/p/g/event")
        yield heard
    finally:
        await connection.close()


async def test_meter_replaced_is_told_with_its_last_values(tmp_path: Path, broker: RunningBroker) -> None:
    """Over a restart of the agent as well: another serial number is another meter."""
    async with listening(broker.url) as heard:
        old, new = device(tmp_path, 1), device(tmp_path, 2)
        record, store = AnswerRecord(), TruthStore(tmp_path / "truth.db")
        async with TcpEndpoint("hall", [old], record) as line, agent(tmp_path, line, broker.url):
            await eventually(lambda: store.identities() == {"m1": str(old.serial_number)} and len(record) >= 4)
        async with TcpEndpoint("hall", [new], AnswerRecord()) as line, agent(tmp_path, line, broker.url):
            event = await eventually(lambda: next((event for event in heard if event.kind == "meter-replaced"), None))
    assert event is not None
    assert event.meter == "m1"
    assert event.data["before"] == str(old.serial_number)
    assert event.data["now"] == str(new.serial_number)
    assert event.data["last"]["energy_import"] > 0
    assert event.data["first"]["energy_import"] > 0
    assert event.id


class Torn(SimulatedMeter):
    """A meter whose counter is misread now and then: the high word of another moment."""

    torn = 0  # so many readings of the counter to come

    def read(self, table: Table, address: int, count: int, time: float) -> "array[int]":
        words = super().read(table, address, count, time)
        if self.torn and address <= 2 < address + count:
            self.torn -= 1
            words[2 - address] += 0x0100
        return words


async def test_doubtful_counter_is_read_again_at_once(
    tmp_path: Path, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """By the running agent, over the line: one torn reading is mended in silence, a lasting one is told."""
    whole = device(tmp_path, 1)
    torn = Torn(whole.profile, 1, load_of("power", 1), 1)
    kinds = ("counter-doubtful", "counter-restarted")
    async with (
        listening(broker.url) as heard,
        TcpEndpoint("hall", [torn], AnswerRecord()) as line,
        agent(tmp_path, line, broker.url),
    ):
        store = TruthStore(tmp_path / "truth.db")
        await eventually(lambda: bool(store.identities()))
        torn.torn = 1
        await eventually(lambda: "was misread once, the second reading is taken" in caplog.text)
        assert not [event for event in heard if event.kind.startswith("counter-")]
        torn.torn = 1_000_000
        await eventually(lambda: {event.kind for event in heard} >= set(kinds))
    doubtful, restarted = (next(event for event in heard if event.kind == kind) for kind in kinds)
    assert doubtful.data["now"] - doubtful.data["before"] == pytest.approx(0x0100_0000, abs=10)
    assert restarted.data["before"] == doubtful.data["before"]
    assert not [event for event in heard if event.kind == "meter-replaced"]  # it was asked, and is the same


class Swapped:
    """A meter whose place another takes between two readings; answers identity and counter, or refuses the identity."""

    def __init__(self, path: Path, refuses: bool = False) -> None:
        self.serial, self.energy, self.identity_asked = 1, 5_000_000, 0
        self.refuses = refuses
        self.lines: list[LineStatus] = [LineStatus("hall", up=True)]
        (path / "profiles").mkdir()
        (path / "profiles/known.yaml").write_text(PROFILE)
        profile = load_profile("known", [path / "profiles"])
        meter = MeterConfig("m1", "hall", 1, "known")
        gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://h"), [LineConfig("hall", "tcp://h")], [meter])
        configuration = Configuration(gateway, {"known": profile}, path)
        plan = make_plan(configuration)
        self.out: list[Scan] = []
        self.store = TruthStore(path / "truth.db")
        self.events = Events(self.store)
        rules = {("m1", "energy_import"): Rule(100.0, 1.0)}
        self.guard = Guard(plan, rules, {}, self.events, self._reread, self.out.append, self._identify)
        self.replacements = Replacements(plan.lines, {"known": profile}, self.events, self.store, self.guard.begin_anew)

    async def ask(self, request: ReadRequest) -> list[int]:
        if request.address < 2:
            self.identity_asked += 1
            if self.refuses:
                raise ExceptionAnswerError(2)
        image = [self.serial >> 16, self.serial & 0xFFFF, self.energy >> 16, self.energy & 0xFFFF]
        return image[request.address : request.address + request.count]

    async def _reread(self, meter: MeterPlan, entry: int) -> Scan | None:
        return await read_scan(meter, entry, self.ask)

    async def _identify(self, meter: str) -> None:
        await self.replacements.look_at(meter)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.replacements.run(lambda: self.lines, {"hall": self.ask}))
        try:
            await eventually(lambda: self.identity_asked >= 1)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.guard.end()

    def scan(self, ts: int) -> Scan:
        return Scan(0, ts, array("q", [self.energy]), b"\0", ())


async def test_meter_swapped_between_two_readings_is_no_doubtful_counter(tmp_path: Path) -> None:
    """The counter fell because it is another's: its series begins with a good reading, and one event tells why."""
    swapped = Swapped(tmp_path)
    async with swapped.watching():
        await eventually(lambda: swapped.store.identities() == {"m1": "1"})
        swapped.guard.on_scan(swapped.scan(HOUR))
        swapped.serial, swapped.energy = 2, 7
        swapped.guard.on_scan(swapped.scan(2 * HOUR))
        await eventually(lambda: len(swapped.out) == 2)
    assert [list(scan.quality) for scan in swapped.out] == [[Quality.GOOD], [Quality.GOOD]]
    (event,) = [unpack_event(packed) for _, packed in swapped.store.events()]
    assert (event.kind, event.data["before"], event.data["now"]) == ("meter-replaced", "1", "2")
    assert (event.data["last"], event.data["first"]) == ({"energy_import": 5_000_000.0}, {"energy_import": 7})


async def test_same_meter_stays_doubtful(tmp_path: Path) -> None:
    """It was asked who it is, and is who it was."""
    swapped = Swapped(tmp_path)
    async with swapped.watching():
        await eventually(lambda: swapped.store.identities() == {"m1": "1"})
        swapped.guard.on_scan(swapped.scan(HOUR))
        before, swapped.energy = swapped.identity_asked, 7
        swapped.guard.on_scan(swapped.scan(2 * HOUR))
        await eventually(lambda: len(swapped.out) == 2)
    assert swapped.out[1].quality == bytes([Quality.SUSPECT])
    assert swapped.identity_asked == before + 1


async def test_meter_that_refuses_its_identity_is_not_pestered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older firmware without the register: asked once, then within the hour no more."""
    monkeypatch.setattr(replacement, "LOOK_S", 0.001)
    swapped = Swapped(tmp_path, refuses=True)
    looks = 0

    class Counting(list[LineStatus]):
        def __iter__(self) -> Iterator[LineStatus]:
            nonlocal looks
            looks += 1
            return super().__iter__()

    swapped.lines = Counting(swapped.lines)
    async with swapped.watching():
        await eventually(lambda: looks >= 20)
    assert swapped.identity_asked == 1
    assert swapped.store.identities() == {}


async def test_events_wait_for_a_broker_that_is_away(tmp_path: Path, broker: RunningBroker) -> None:
    """Kept on the disk, sent once it is there, each under its own id."""
    events_ = Events(TruthStore(tmp_path / "truth.db"))
    for number in range(3):
        events_.emit("test", f"number {number}")
    await events_.end()
    async with (
        listening(broker.url) as heard,
        TcpEndpoint("hall", [device(tmp_path, 1)], AnswerRecord()) as line,
        agent(tmp_path, line, broker.url),
    ):
        await eventually(lambda: len(heard) >= 3 and TruthStore(tmp_path / "truth.db").events() == [])
    assert [event.text for event in heard[:3]] == ["number 0", "number 1", "number 2"]
    assert len({event.id for event in heard}) == len(heard)


def test_event_keeps_its_fields() -> None:
    """As consumers read it."""
    event = Event(7, "meter-replaced", "text", "m1", {"before": "a"}, "0000-1")
    assert unpack_event(event.pack()) == event
    assert msgspec.json.decode(event.pack())["id"] == "0000-1"
