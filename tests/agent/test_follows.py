"""The fast way of the counter guard: it says and knows what the guard itself would."""

import asyncio
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.counter_guard import Baseline, Rule
from parkfleet.agent.events import Events
from parkfleet.agent.guarding import Guard
from parkfleet.agent.plan import LinePlan, MeterPlan, Plan
from parkfleet.agent.truth_store import TruthStore
from parkfleet.native.follows import Counters
from parkfleet.protocols.config import LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Scan
from parkfleet.protocols.profile import Factor
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.readplan import WireCost

COLUMNS = (
    Column("i", "kWh", "int", "counter", Factor(1, 2)),
    Column("u", "kWh", "uint64", "counter", Factor(7, 0, 3)),
    Column("f", "kWh", "float32", "counter", Factor(1, 3)),
    Column("d", "kWh", "float64", "counter"),
)
KEYS = [("m", column.point) for column in COLUMNS]


async def nothing(_plan: MeterPlan, _entry: int) -> Scan | None:
    return None


class Both:
    """A guard as it is, and one that has only its slow way."""

    def __init__(self, path: Path, rate: float | None) -> None:
        self.out: list[list[Scan]] = [[], []]
        self.events = [Events(TruthStore(path)) for _ in self.out]
        address = parse_line_url("tcp://h")
        meter = MeterPlan(MeterConfig("m", "l", 1, "p"), 0, (), ())
        line = LinePlan(LineConfig("l", "tcp://h"), address, WireCost.of(address), (meter,))
        plan = Plan(Schema((Entry("m", "p", "power", COLUMNS),)), (line,))
        rules = dict(zip(KEYS, (Rule.of(column, None, rate) for column in COLUMNS), strict=True))
        self.guards = [
            Guard(plan, rules, {}, events, nothing, out.append)
            for events, out in zip(self.events, self.out, strict=True)
        ]
        assert self.guards[0]._plain[0] is not None
        self.guards[1]._plain[0] = None

    async def take(self, scan: Scan) -> None:
        for guard in self.guards:
            guard.on_scan(scan)
            while guard._held:  # noqa: ASYNC110 - the guard tells nobody when it holds none any more
                await asyncio.sleep(0)

    def check(self) -> None:
        fast, slow = self.guards
        assert self.out[0] == self.out[1]
        assert fast.baselines() == slow.baselines()
        assert self.events[0].counts == self.events[1].counts


def slots(counts: tuple[int, int, int, int]) -> "array[int]":
    """Counters that stand at these numbers."""
    plain, unsigned, single, double = counts
    (f,) = struct.unpack("<I", struct.pack("<f", single / 8))
    (d,) = struct.unpack("<q", struct.pack("<d", double / 8))
    return array("q", [plain, unsigned, f, d])


STEPS = st.one_of(st.integers(0, 3), st.integers(-2, 60_000), st.sampled_from([-(10**6), 10**9, 2**53]))
SCANS = st.lists(
    st.tuples(
        st.integers(-1000, 4_000_000),  # ms since the scan before
        st.tuples(STEPS, STEPS, STEPS, STEPS),
        st.lists(st.sampled_from([Quality.GOOD] * 9 + [Quality.TIMEOUT]), min_size=4, max_size=4),
    ),
    max_size=25,
)


@given(scans=SCANS, rate=st.sampled_from([None, 1.0, 1e5]), seen=st.sampled_from([0, 3, 10**6, 2**52]))
def test_guard_judges_alike_by_its_fast_way(
    tmp_path_factory: pytest.TempPathFactory,
    scans: list[tuple[int, tuple[int, ...], list[int]]],
    rate: float | None,
    seen: int,
) -> None:
    """Whatever counters do: the same scans, marks, events and baselines as without it."""

    async def play() -> None:
        both = Both(tmp_path_factory.getbasetemp() / "truth.db", rate)
        now, at = 1_800_000_000_000, [seen] * 4
        for ms, steps, quality in scans:
            now += ms
            at = [min(max(0, value + step), 2**62) for value, step in zip(at, steps, strict=True)]
            await both.take(Scan(0, now, slots((at[0], at[1], at[2], at[3])), bytes(quality)))
        both.check()

    asyncio.run(play())


def test_follow_of_scans_that_grow_as_they_may() -> None:
    """True, and the last reading moves on; a jump changes nothing."""
    counters = Counters([(1, "i", 1.0, 0.0, 10.0, 100.0, 0.2)])
    counters.know(0, 50, 0)
    assert counters.follow(array("q", [7, 1050]), bytes(2), 3_600_000)
    assert not counters.follow(array("q", [7, 9_000]), bytes(2), 7_200_000)
    assert counters.last(0) == (1050, 3_600_000)
    assert counters.follow(array("q", [7, 9_000]), bytes([0, Quality.TIMEOUT]), 7_200_000)
    assert counters.last(0) == (1050, 3_600_000)


def test_follow_without_a_reading_before() -> None:
    """Nothing to be compared with: that is for the guard."""
    counters = Counters([(0, "i", 1.0, 0.0, 1.0, 100.0, 2.0)])
    assert not counters.follow(array("q", [1]), bytes(1), 0)
    counters.know(0, 1, 0)
    counters.forget(0)
    assert not counters.follow(array("q", [1]), bytes(1), 0)


def test_counters_of_a_factor_that_order_does_not_survive() -> None:
    """Refused: the guard goes its slow way."""
    with pytest.raises(ValueError, match="nothing is added"):
        Counters([(0, "f", -1.0, 0.0, 1.0, 100.0, 0.0)])


async def test_replaced_meter_begins_anew(tmp_path: Path) -> None:
    """What the fast way knew is told, and forgotten by both."""
    both = Both(tmp_path / "truth.db", 1e5)
    for hour in range(3):
        await both.take(Scan(0, hour * 3_600_000, slots((hour, hour, hour, hour)), bytes(4)))
    both.check()
    assert both.guards[0].baselines()["m", "i"] == Baseline(0.02, 7_200_000)
    assert both.guards[0].begin_anew("m") == both.guards[1].begin_anew("m")
    assert both.guards[0].baselines() == {}
    await both.take(Scan(0, 4 * 3_600_000, slots((0, 0, 0, 0)), bytes(4)))
    both.check()
