"""Points of several intervals within one meter: planned together, asked when due, delivered in entries of their own."""

import math
from array import array
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.agent.configuration import Configuration, load_configuration
from parkfleet.agent.counter_guard import Rule
from parkfleet.agent.events import Events
from parkfleet.agent.forecast import forecast
from parkfleet.agent.guarding import Guard
from parkfleet.agent.plan import LinePlan, MeterPlan, Plan, make_plan
from parkfleet.agent.reading import read_scan
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.learned import Evidence, Learned, Limit, Refused
from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.modbus.pdu import ReadRequest
from parkfleet.protocols.payload.series import Rows, Scan
from parkfleet.protocols.profile import Derived, Part, Point, Profile
from parkfleet.protocols.quality import EXCEPTION
from parkfleet.protocols.quantity import Duration
from tests.agent.test_schedule import running
from tests.engine.rig import PtySlave, good_pdu, registers
from tests.eventually import eventually
from tests.protocols.test_readplan import brute_force

KINDS = pytest.mark.parametrize("kind", ["engine", "poller"])


def made(
    points: list[Point],
    intervals: dict[str, str],
    interval: str = "100ms",
    url: str = "serial:///dev/null?baud=9600",
    derived: list[Derived] | None = None,
    learned: Learned | None = None,
) -> Plan:
    """A plan of one meter."""
    profile = Profile("p", {"en": "p"}, "power", "test", points, derived or [])
    seldom = {name: Duration.parse(text) for name, text in intervals.items()}
    meter = MeterConfig("m", "line", 1, "p", Duration.parse(interval), intervals=seldom)
    line = LineConfig("line", url, Duration.parse("20s"))
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://127.0.0.1:1"), [line], [meter], timezone="UTC")
    return make_plan(Configuration(gateway, {"p": profile}, Path()), {"m": learned} if learned else None)


def only(plan: Plan) -> tuple[LinePlan, MeterPlan]:
    return plan.lines[0], plan.lines[0].meters[0]


# ---- the optimum


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Point], dict[str, str]]:
    """Up to nine points near each other, some of them seldom, in up to three intervals beside the shortest."""
    places = draw(st.lists(st.integers(0, 60), min_size=2, max_size=9, unique=True))
    points = [Point(f"p{index}", "uint16", address) for index, address in enumerate(places)]
    kinds = draw(st.lists(st.sampled_from([2, 3, 6, 9000]), min_size=1, max_size=3, unique=True))
    rest = len(points) - 1
    every = [1, *draw(st.lists(st.sampled_from([1, *kinds]), min_size=rest, max_size=rest))]
    return points, {p.id: f"{100 * times}ms" for p, times in zip(points, every, strict=True) if times > 1}


@settings(deadline=None)
@given(cases())
def test_wire_time_is_the_least_over_all_slots(case: tuple[list[Point], dict[str, str]]) -> None:
    """Each slot asks for what is due in it, in the cheapest of all ways to cut that into requests: so no plan takes
    less wire time per second. Checked over every slot of the round that the intervals make."""
    points, intervals = case
    line, meter = only(made(points, intervals))
    slots = {point.id: round(float(Duration.parse(intervals.get(point.id, "100ms"))) * 10) for point in points}
    shortest = min(slots.values())
    every = {name: count // shortest for name, count in slots.items()}
    round_ = min(math.lcm(*every.values()), 40)
    for index in range(1, round_ + 1):
        due = [point for point in points if index % every[point.id] == 0]
        asked = meter.asked(meter.due(index, index - 1))
        assert sorted(meter.points[i].id for request in asked for i in request.points) == sorted(p.id for p in due)
        seconds = sum(request.seconds(line.cost) for request in asked)
        wanted = brute_force(Profile("p", {}, "power", "t", due), line.cost)
        assert abs(seconds - wanted) < 1e-9


def test_load_counts_each_case_as_often_as_it_comes() -> None:
    """Intervals of 2 and 3 slots: both in each sixth, either alone as often as is left."""
    points = [Point(f"p{index}", "uint16", 200 * index) for index in range(3)]
    line, meter = only(made(points, {"p1": "200ms", "p2": "300ms"}))
    assert meter.shares == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    counted = [line.scan_seconds(meter, meter.due(index, index - 1)) for index in range(1, 7)]
    assert line.load == pytest.approx(sum(counted) / 6 / 0.1)
    plain, other = only(made(points, {}))
    assert line.load < plain.share(other)


def test_slow_point_in_a_gap_is_read_along_only_when_due() -> None:
    """The fast block may span it for nothing; it is not delivered then."""
    points = [Point("a", "uint16", 0), Point("slow", "uint16", 1), Point("b", "uint16", 2)]
    _, meter = only(made(points, {"slow": "10s"}))
    assert [(p.request.address, p.request.count, p.points) for p in meter.asked(0)] == [(0, 3, (0, 2))]
    assert [(p.request.address, p.request.count, p.points) for p in meter.asked(1)] == [(0, 3, (0, 1, 2))]


def test_late_slot_is_made_up_for() -> None:
    """When the slot in which a group was due was missed, the next one that is taken reads it."""
    _, meter = only(made([Point("a", "uint16", 0), Point("slow", "uint16", 1)], {"slow": "1s"}))
    assert meter.due(9, 8) == 0
    assert meter.due(10, 9) == 1
    assert meter.due(13, 9) == 1
    assert meter.due(13, 10) == 0


def test_forecast_plays_each_slot_with_what_is_due_in_it() -> None:
    """A long scan now and then costs a slot now and then, not each."""
    points = [Point("fast", "uint16", 0), *(Point(f"p{index}", "uint16", 200 * index) for index in range(1, 8))]
    seldom = {point.id: "2s" for point in points[1:]}
    line, meter = only(made(points, seldom))
    assert line.scan_seconds(meter, 0) < 0.1 < line.scan_seconds(meter)
    told = forecast(line).meters[0]
    assert 0 < told.late < 0.5
    assert told.share == pytest.approx(line.load)


# ---- on the wire


@KINDS
async def test_each_entry_has_its_own_slots(kind: str) -> None:
    """The slow points every fifth slot, the fast ones in each; texts, derived points and values where they belong."""
    points = [
        Point("a", "uint16", 0),
        Point("high", "uint16", 300, hidden=True),
        Point("low", "uint16", 301, hidden=True),
        Point("serial", "string", 310, registers=2),
    ]
    derived = [Derived("energy", [Part("high", 10000), Part("low")], kind="counter")]
    with PtySlave(lambda unit, pdu: [(0.0, rtu.frame(unit, good_pdu(unit, pdu)))]) as slave:
        url = f"serial://{slave.name}?baud=115200"
        plan = made(points, {"energy": "500ms", "serial": "500ms"}, url=url, derived=derived)
        assert [(e.meter, [c.point for c in e.columns]) for e in plan.schema.entries] == [
            ("m", ["a"]),
            ("m", ["serial", "energy"]),
        ]
        rows = [Rows(0), Rows(1)]
        taken: list[Scan] = []

        def take(scan: Scan) -> None:
            rows[scan.entry].ts.append(scan.ts)
            taken.append(scan)

        polled = running(plan, kind, plan.delivering(take))
        async with polled:
            await eventually(lambda: len(rows[1].ts) >= 4)
    slow = [scan for scan in taken if scan.entry == 1]
    fast = [scan for scan in taken if scan.entry == 0]
    assert all(list(scan.slots) == registers(1, 0, 1) and scan.quality == b"\0" for scan in fast)
    for scan in slow:
        high, low = registers(1, 300, 2)
        assert scan.quality == b"\0\0"
        assert scan.slots[1] == 10000 * high + low
        assert scan.texts[0] is not None
    assert len(fast) >= 4 * (len(slow) - 1)
    between = [later.ts - earlier.ts for earlier, later in pairwise(slow)]
    assert all(400 <= span <= 600 or span >= 800 for span in between)  # a machine that stood still misses slots
    asked = {int.from_bytes(pdu[1:3], "big") for _, _, pdu in slave.requests}
    assert asked == {0, 300}


@KINDS
async def test_refused_slow_point_says_so_in_its_entry(kind: str) -> None:
    """What was learned counts for all groups."""
    points = [Point("a", "uint16", 0), Point("slow", "uint16", 1), Point("name", "string", 2, registers=2)]
    evidence = Evidence(1, 1, 1)
    known = Learned(
        max_registers=Limit(2, evidence),
        refused=(Refused("holding", 1, 1, EXCEPTION | 2, evidence), Refused("holding", 2, 2, EXCEPTION | 2, evidence)),
    )
    with PtySlave(lambda unit, pdu: [(0.0, rtu.frame(unit, good_pdu(unit, pdu)))]) as slave:
        url = f"serial://{slave.name}?baud=115200"
        plan = made(points, {"slow": "200ms"}, url=url, learned=known)
        taken: list[Scan] = []
        async with running(plan, kind, plan.delivering(taken.append)):
            await eventually(lambda: sum(scan.entry == 1 for scan in taken) >= 2)
    assert {(scan.entry, scan.quality) for scan in taken} == {(0, b"\0\x82"), (1, b"\x82")}
    assert all(scan.texts == ((None,) if scan.entry == 0 else ()) for scan in taken)


async def test_doubtful_counter_of_a_slow_group_is_read_again(tmp_path: Path) -> None:
    """The second reading is that of its own entry, also with points that are not asked for; nothing is held back."""
    points = [
        Point("fast", "uint16", 0),
        Point("gone", "uint16", 5),
        Point("energy", "uint32", 10, kind="counter", unit="kWh", max_rate=1.0),
    ]
    refused = Learned(refused=(Refused("holding", 5, 1, EXCEPTION | 2, Evidence(1, 1, 1)),))
    plan = made(points, {"energy": "10s"}, interval="1s", learned=refused)
    _, meter = only(plan)
    key = ("m", "energy")
    rule = Rule.of(plan.schema.entries[1].columns[0], points[2], 1.0)

    async def ask(request: ReadRequest) -> list[int]:
        assert not request.address <= 5 < request.address + request.count
        return [0, 1001][-request.count :] if request.address == 10 else [7] * request.count

    out: list[Scan] = []
    events = Events(TruthStore(tmp_path / "truth.db"))

    async def reread(own: MeterPlan, entry: int) -> Scan | None:
        scan = await read_scan(own, entry, ask)
        return None if scan is None else plan.delivered(scan)

    guard = Guard(plan, {key: rule}, {}, events, reread, out.append)
    for ts, value in ((1_000_000, 1000), (1_010_000, 900_000)):
        guard.on_scan(Scan(1, ts, array("q", [value]), b"\0", ()))
    await eventually(lambda: len(out) == 2)
    await guard.end()
    assert [(scan.entry, list(scan.slots), scan.quality) for scan in out] == [(1, [1000], b"\0"), (1, [1001], b"\0")]
    assert meter.refused == {1: EXCEPTION | 2}


# ---- the setting


@pytest.mark.parametrize(
    ("interval", "intervals", "told"),
    [
        ("10s", {"a": "15s"}, "must be a multiple of the shortest, 10s"),
        ("10s", {"a": "3s"}, "interval must be a multiple of the shortest"),
        ("10s", {"a": "50ms"}, "must be from 100ms to 1d"),
        ("1s", {"a": "2s", "b": "3s", "c": "4s", "d": "5s"}, "at most 4 different ones"),
    ],
)
def test_setting_is_checked(interval: str, intervals: dict[str, str], told: str) -> None:
    """With a sentence for each mistake."""
    seldom = {name: Duration.parse(text) for name, text in intervals.items()}
    with pytest.raises(ValueError, match=told):
        MeterConfig("m", "l", 1, "p", Duration.parse(interval), intervals=seldom)


def test_mistakes_are_told_with_their_place(tmp_path: Path) -> None:
    """Points that are not there or not read, and intervals that are no multiples where the shortest is nobody's."""
    text = """
park: p
gateway: g
broker: {url: mqtt://127.0.0.1:1}
lines: [{id: l, url: "tcp://127.0.0.1:502"}]
meters:
  - {id: m1, line: l, unit: 1, profile: eastron-sdm630, points: [voltage_l1], intervals: {energy_import: 15m}}
  - {id: m2, line: l, unit: 2, profile: eastron-sdm630, intervals: {energy_imports: 15m}}
  - {id: m3, line: l, unit: 3, profile: eastron-sdm630, points: [voltage_l1, voltage_l2], interval: 1s,
     intervals: {voltage_l1: 2s, voltage_l2: 3s}}
"""
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError) as caught:
        load_configuration(path)
    assert [(problem.where, problem.message) for problem in caught.value.problems] == [
        ("meters[0].intervals.energy_import", "'energy_import' is not among the meter's points: it is not read"),
        ("meters[1].intervals.energy_imports", "profile eastron-sdm630 has no point 'energy_imports'"),
        ("meters[2].intervals", "3s is no multiple of the shortest that any of its points has, 2s"),
    ]


def test_unset_interval_of_points_may_be_the_longer_one() -> None:
    """interval 15m, a few points of 10s: slots are those of 10 s."""
    _, meter = only(made([Point("a", "uint16", 0), Point("b", "uint16", 1)], {"b": "10s"}, interval="15m"))
    assert float(meter.config.interval) == 10
    assert [(group.every, set(group.columns)) for group in meter.groups] == [(1, {1}), (90, {0})]
    _, whole = only(made([Point("a", "uint16", 0)], {"a": "10s"}, interval="15m"))
    assert float(whole.config.interval) == 10
    assert whole.groups == ()
