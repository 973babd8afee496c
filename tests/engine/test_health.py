"""Engine and sick meters: what is learned, how the silent are probed, and what they may cost."""

import random
import time
from itertools import pairwise

from parkfleet.protocols.modbus import rtu
from tests.engine.rig import (
    MS,
    TIMEOUT,
    Behaviour,
    PtySlave,
    Rig,
    expected,
    good_pdu,
    meter,
    rig_on_pty,
    serial_line,
    well,
)


def only(*alive: int) -> Behaviour:
    """A behaviour: these units answer, the others are silent."""
    return lambda unit, pdu: well(unit, pdu) if unit in alive else []


def test_timeout_shrinks_to_what_the_meter_needs() -> None:
    """Ten answers of 5 ms teach a time-out far below the configured second."""

    def steady(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.005, rtu.frame(unit, good_pdu(unit, pdu)))]

    with PtySlave(steady) as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1), timeout_ns=1000 * MS, learning=True))
        assert rig.engine.meter_counters(index)[0].timeout_ns == 1000 * MS
        rig.until(lambda _: rig.engine.meter_counters(index)[0].timeout_ns < 500 * MS)
        learned = rig.engine.meter_counters(index)[0]
    assert 2 * MS < learned.turnaround_ns < 500 * MS
    assert learned.timeout_ns >= learned.turnaround_ns + 20 * MS


def test_silent_meter_skips_its_other_blocks() -> None:
    """One time-out a scan, whatever the number of its requests."""
    with rig_on_pty(lambda unit, pdu: [], meter(1, 1, 100 * MS, ((0, 9), (20, 2), (40, 9)))) as (rig, slave, _):
        assert rig.scans(1)[0].quality == bytes([TIMEOUT] * 20)
        assert len(slave.requests) == 1


def test_probe_is_the_smallest_request() -> None:
    """It is asked first when a silent meter is tried again, and alone."""
    sick = meter(1, 1, 100 * MS, ((0, 9), (20, 2), (40, 9)))
    with rig_on_pty(lambda unit, pdu: [], sick, timeout_ns=50 * MS) as (rig, slave, _):
        rig.until(lambda _: len(slave.requests) >= 3)
    assert [pdu[2] for _, _, pdu in slave.requests[:3]] == [0, 20, 20]


def test_silent_meter_is_told_at_its_interval() -> None:
    """A gap is data: a reading for every slot, though it is hardly asked any more."""
    with rig_on_pty(lambda unit, pdu: [], meter(1, 1, 100 * MS)) as (rig, slave, index):
        records = rig.scans(30)
        counters = rig.engine.line_counters(index)
    slots = [record.slot_ms for record in records]
    assert all(later - earlier == 100 for earlier, later in pairwise(slots)) or counters.missed
    assert all(record.quality == bytes([TIMEOUT, TIMEOUT]) for record in records)
    assert len(slave.requests) < 8


def test_silent_meters_together_keep_to_their_budget() -> None:
    """Four of eight are silent; after they were found so, they have used at most 2 % of the time and the burst."""
    with PtySlave(only(1, 2, 3, 4)) as slave, Rig() as rig:
        meters = [meter(unit, unit, 100 * MS) for unit in range(1, 9)]
        index = rig.engine.add_line(serial_line(slave.open(), *meters, timeout_ns=50 * MS))
        begun = time.monotonic()
        rig.until(lambda _: time.monotonic() - begun > 6)
        counters = rig.engine.line_counters(index)
        took = time.monotonic() - begun
    second_tries = 4 * 0.06  # one soon after the first miss is not charged against the budget's end
    assert counters.dead_busy_ns / 1e9 <= 0.02 * took + second_tries + 0.06
    good = [record for record in rig.records if record.tag <= 4]
    assert len(good) > 4 * 50
    assert sum(record.quality == bytes(2) for record in good) >= 0.95 * len(good)


def test_meter_that_returns_is_read_at_once_after_wake() -> None:
    """The installer's wake asks it without waiting for the backoff."""
    answering: set[int] = set()
    with PtySlave(lambda u, pdu: well(u, pdu) if u in answering else []) as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1, 60_000 * MS), timeout_ns=50 * MS))
        rig.engine.set_clock(60_000_000_000 * MS - time.monotonic_ns() - 100 * MS)  # just before a slot
        rig.scans(1)
        rig.until(lambda _: rig.engine.meter_counters(index)[0].misses >= 2)
        answering.add(1)
        asked = len(slave.requests)
        rig.engine.wake(index, 1)
        records = rig.until(lambda all: all[-1].quality == bytes(2), within_s=5)
        assert len(slave.requests) == asked + 1
        assert rig.engine.meter_counters(index)[0].misses == 0
    assert list(records[-1].slots) == expected(1, (0, 2))


def test_meter_that_returns_is_found_by_a_probe() -> None:
    """Without a wake; its next slots are all read."""
    answering: set[int] = set()
    with PtySlave(lambda u, pdu: well(u, pdu) if u in answering else []) as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1, 100 * MS), timeout_ns=50 * MS))
        rig.until(lambda _: rig.engine.meter_counters(index)[0].misses >= 3)
        answering.add(1)
        rig.until(lambda all: [record.quality for record in all[-3:]] == [bytes(2)] * 3)
        assert rig.engine.meter_counters(index)[0].misses == 0


def test_dead_meter_costs_its_neighbours_nothing_once_known() -> None:
    """Continuous reading of two meters beside a dead one: no neighbour waits for its time-outs."""
    with PtySlave(only(1, 2)) as slave, Rig() as rig:
        meters = [meter(1, 1), meter(2, 2), meter(3, 3, 1000 * MS)]
        index = rig.engine.add_line(serial_line(slave.open(), *meters, timeout_ns=50 * MS))
        rig.until(lambda _: rig.engine.meter_counters(index)[2].misses >= 2)
        before = rig.engine.line_counters(index)
        begun = time.monotonic()
        rig.until(lambda _: time.monotonic() - begun > 3)
        after = rig.engine.line_counters(index)
    assert after.dead_busy_ns - before.dead_busy_ns <= 0.02 * 3e9 + 60 * MS
    assert after.answers - before.answers > 300


def test_meter_that_is_slow_once_is_no_dead_meter() -> None:
    """A pause of 200 ms behind quick answers: no reading is missing, no time-out counted."""
    slow = iter([0.0] * 30 + [0.2] + [0.0] * 1000)

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(next(slow), well(unit, pdu)[0][1])]

    with PtySlave(behave) as slave, Rig() as rig:
        index = rig.engine.add_line(
            serial_line(slave.open(), meter(1, 1, 50 * MS), timeout_ns=1000 * MS, learning=True)
        )
        records = rig.until(lambda all: len(all) >= 50)
        assert rig.engine.line_counters(index).timeouts == 0
    assert all(record.quality == bytes(2) for record in records)


def test_goodwill_ends_where_answers_are_lost_all_the_time() -> None:
    """Waiting for a unit that is well costs what was learned of it again, once too much was waited for in vain."""
    chance = random.Random(1)

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [] if chance.random() < 0.1 else well(unit, pdu)

    with PtySlave(behave) as slave, Rig() as rig:
        meters = [meter(unit, unit) for unit in range(1, 9)]
        index = rig.engine.add_line(serial_line(slave.open(), *meters, timeout_ns=400 * MS, learning=True))

        def time_outs_of_the_well() -> list[int]:
            return [counter.timeout_ns for counter in rig.engine.meter_counters(index) if counter.misses == 0]

        rig.until(lambda _: 300 * MS in time_outs_of_the_well())
        rig.until(lambda _: min(time_outs_of_the_well(), default=400 * MS) < 100 * MS)
        assert rig.engine.line_counters(index).timeouts >= 4
