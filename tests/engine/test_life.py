"""Engine's life: slots, clocks, stopping, lines that come and go, and nothing left behind."""

import threading
import time
from pathlib import Path

import pytest

from parkfleet.native.engine import Engine
from parkfleet.native.spec import MeterSpec
from tests.engine.rig import (
    MS,
    PtySlave,
    Rig,
    TcpSlave,
    expected,
    good_pdu,
    mbap,
    meter,
    rig_on_pty,
    serial_line,
    tcp_line,
    well,
)
from tests.eventually import eventually


def test_slots_are_multiples_of_the_interval_and_offset() -> None:
    """By the wall clock."""
    with PtySlave() as slave, Rig() as rig:
        shifted = meter(2, 2, 200 * MS)._replace(offset_ns=50 * MS)
        rig.engine.add_line(serial_line(slave.open(), meter(1, 1, 100 * MS), shifted))
        records = rig.until(lambda all: len(all) >= 12)
    for record in records:
        assert record.slot_ms % (100 if record.tag == 1 else 200) == (0 if record.tag == 1 else 50)
        assert abs(record.slot_ms - time.time() * 1000) < 60_000


def test_clock_set_forward_and_back_keeps_reading() -> None:
    """No slot counts as missed, none is waited for that lies an hour ahead."""
    now = time.time_ns() - time.monotonic_ns()
    with rig_on_pty(well, meter(1, 1, 100 * MS)) as (rig, _, index):
        for hours in (0, 1, -5, 0):
            rig.engine.set_clock(now + hours * 3600 * 1000 * MS)
            wanted = time.time() * 1000 + hours * 3_600_000
            rig.until(lambda all, wanted=wanted: all and abs(all[-1].slot_ms - wanted) < 60_000)  # type: ignore[misc]
        assert rig.engine.line_counters(index).missed < 20


def test_overload_sheds_by_turns_and_counts() -> None:
    """Four meters ask for twice what the line carries: each is read about as often, each knows what it missed."""

    def slow(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.05, well(unit, pdu)[0][1])]

    # No time-out in reach: a slave's thread that the machine keeps from running is late, not dead.
    wanted = tuple(meter(unit, unit, 100 * MS) for unit in range(1, 5))
    with rig_on_pty(slow, *wanted, timeout_ns=60_000 * MS) as (rig, _, index):
        engine = rig.engine
        records = rig.until(
            lambda all: len(all) >= 40 and min(counter.missed for counter in engine.meter_counters(index)) > 0
        )
    turns = [record.tag for record in records]
    for count in range(4, len(turns) + 1):  # at no moment anybody is further ahead than two equal deadlines allow
        each = [turns[:count].count(tag) for tag in range(1, 5)]
        assert max(each) - min(each) <= 2, str(turns)


def test_earliest_deadline_goes_first_also_within_a_scan() -> None:
    """A quick meter is asked between the blocks of a slow one's long scan, and loses no slot to it."""
    blocks = tuple((10 * block, 1) for block in range(40))
    meters = meter(1, 1, 60_000 * MS, blocks), meter(2, 2, 100 * MS)

    def slowly(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.01, well(unit, pdu)[0][1])]

    with rig_on_pty(slowly, *meters, timeout_ns=20_000 * MS) as (rig, slave, _):
        rig.engine.set_clock(60_000_000_000 * MS - time.monotonic_ns() - 250 * MS)  # just before the slow one's slot
        record = next(r for r in rig.until(lambda all: any(r.tag == 1 for r in all)) if r.tag == 1)
    turns = [unit for _, unit, _ in slave.requests]
    first, last = turns.index(1), len(turns) - 1 - turns[::-1].index(1)
    assert turns[first : last + 1].count(1) == 40
    assert turns[first : last + 1].count(2) >= 2
    assert list(record.slots) == expected(1, *blocks)


def test_equal_deadlines_do_not_cut_into_each_other() -> None:
    """Meters of one interval are read one behind the other, each scan in one piece."""
    meters = [meter(unit, unit, 1000 * MS, ((0, 1), (10, 1), (20, 1))) for unit in (1, 2, 3)]
    with rig_on_pty(well, *meters) as (rig, slave, _):
        rig.scans(6)
    turns = [unit for _, unit, _ in slave.requests]
    assert all(len(set(turns[first : first + 3])) == 1 for first in range(0, len(turns) // 3 * 3, 3)), turns


def test_stop_lets_the_scan_under_way_end() -> None:
    """Its three answers go out; no other scan is begun."""
    asked = threading.Event()

    def slow(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        asked.set()
        return [(0.05, well(unit, pdu)[0][1])]

    with rig_on_pty(slow, meter(1, 1, blocks=((0, 1), (10, 1), (20, 1)))) as (rig, _, _index):
        assert asked.wait(10)
        rig.stop()
        assert [(record.quality, list(record.slots)) for record in rig.records] == [
            (bytes(3), expected(1, (0, 1), (10, 1), (20, 1)))
        ]


def test_stop_does_not_wait_for_the_dead() -> None:
    """A time-out of a minute is cut short; what was answered of the scan goes out."""

    def half(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return well(unit, pdu) if pdu[2] == 0 else []

    with rig_on_pty(half, meter(1, 1, blocks=((0, 1), (10, 1))), timeout_ns=60_000 * MS) as (rig, slave, _):
        rig.until(lambda _: len(slave.requests) == 2)
        rig.stop(0.1)
        assert rig.records[0].quality == bytes([0, 6])


async def test_fifty_lives_leave_nothing_behind() -> None:
    """Threads and descriptors are where they were."""

    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    with PtySlave() as pty, TcpSlave() as server:
        before = count()
        for _ in range(50):
            with Rig() as rig:
                rig.engine.add_line(serial_line(pty.open(), meter(1, 1)))
                rig.engine.add_line(tcp_line(server.port, meter(2, 2), connections=3))
                rig.until(lambda all: {record.tag for record in all} == {1, 2})

        def all_gone() -> bool:
            server.drop()  # also whoever it accepts only now
            return count() == before

        await eventually(all_gone)


def test_engine_that_never_ran_closes_its_ports() -> None:
    """Descriptors handed over belong to it from then on."""
    with PtySlave() as slave:
        before = len(list(Path("/proc/self/fd").iterdir()))
        engine = Engine()
        index = engine.add_line(serial_line(slave.open(), meter(1, 1)))
        engine.line_opened(index, slave.open())
        engine.close()
        engine.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with pytest.raises(RuntimeError):
            engine.take()


def test_line_added_and_removed_while_it_runs() -> None:
    """Its index may serve another line."""
    with TcpSlave() as server, Rig(lines=2) as rig:
        rig.engine.add_line(tcp_line(server.port, meter(1, 1, 100 * MS)))
        for tag in range(2, 12):
            index = rig.engine.add_line(tcp_line(server.port, meter(tag, 1)))
            rig.until(lambda all, tag=tag: any(record.tag == tag for record in all))  # type: ignore[misc]
            rig.engine.remove_line(index)
            with pytest.raises(KeyError):
                rig.engine.line_counters(index)
        assert all(record.quality == bytes(2) for record in rig.records)


def test_ring_that_is_full_counts_what_it_drops() -> None:
    """Nothing waits for a taker that does not come; what it gets later is whole."""
    with TcpSlave() as server, Rig(ring_bytes=4096) as rig:
        index = rig.engine.add_line(tcp_line(server.port, meter(1, 1, blocks=((0, 100),))))
        deadline = time.monotonic() + 20
        while rig.engine.overruns < 50:
            assert time.monotonic() < deadline
            rig.engine.line_counters(index)
        for record in rig.until(lambda all: len(all) >= 10):
            assert list(record.slots) == expected(1, (0, 100))


def test_engine_runs_only_once_at_a_time() -> None:
    """And is not closed while it runs."""
    with Rig() as rig, TcpSlave(lambda c, t, u, p: c.sendall(mbap(t, u, good_pdu(u, p)))) as server:
        rig.engine.add_line(tcp_line(server.port, meter(1, 1)))
        rig.scans(1)
        with pytest.raises(RuntimeError):
            rig.engine.run()
        with pytest.raises(RuntimeError):
            rig.engine.close()


def test_replaced_requests_are_taken_over_between_two_scans() -> None:
    """The scan under way ends by the old ones; slot and counters stay; one not yet in force gives way."""
    release = threading.Event()

    def held(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        assert release.wait(20)
        return well(unit, pdu)

    with rig_on_pty(held, meter(1, 1, 100 * MS, ((0, 2), (10, 1))), timeout_ns=30_000 * MS) as (rig, slave, index):
        rig.until(lambda _: slave.requests)
        rig.engine.replace_meter(index, 0, meter(2, 1, blocks=((5, 1),)))
        rig.engine.replace_meter(index, 0, meter(3, 1, blocks=((20, 3), (40, 1), (60, 2))))
        release.set()
        records = rig.until(lambda all: sum(record.tag == 3 for record in all) >= 3)
        (counted,) = rig.engine.meter_counters(index)
    by_tag = {record.tag: list(record.slots) for record in records}
    assert by_tag == {1: expected(1, (0, 2), (10, 1)), 3: expected(1, (20, 3), (40, 1), (60, 2))}
    assert [record.tag for record in records] == sorted(record.tag for record in records)
    assert all(record.slot_ms % 100 == 0 for record in records)
    assert (counted.tag, counted.unit) == (3, 1)
    assert counted.answers == counted.requests == len(slave.requests)
    assert counted.turnarounds == counted.answers
    assert counted.median_ns > 0


def test_replacements_without_end_leave_nothing_behind() -> None:
    """Also for lines that are gone by then, and in an engine that never runs."""
    with PtySlave() as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1)))
        for tag in range(2, 300):
            rig.engine.replace_meter(index, 0, meter(tag, 1, blocks=tuple((at, 1) for at in range(tag % 7 + 1))))
        rig.until(lambda all: all and all[-1].tag == 299)
        with pytest.raises(KeyError):
            rig.engine.replace_meter(index, 1, meter(1, 1))
        with pytest.raises(ValueError, match="keeps its unit"):
            rig.engine.replace_meter(index, 0, meter(1, 2))
        with pytest.raises(ValueError, match="count must be"):
            rig.engine.replace_meter(index, 0, meter(1, 1, blocks=((0, 126),)))
        rig.engine.replace_meter(index, 0, meter(300, 1))
        rig.engine.remove_line(index)
    engine = Engine()
    index = engine.add_line(serial_line(-1, meter(1, 1)))
    engine.replace_meter(index, 0, meter(2, 1))
    engine.close()


def test_slots_lie_on_the_local_clock_and_follow_its_changes() -> None:
    """An hour's change moves the slots that it is no multiple of, and no other; nothing counts as missed."""
    now = time.time_ns() - time.monotonic_ns()
    with rig_on_pty(well, meter(1, 1, 700 * MS), meter(2, 2, 100 * MS)) as (rig, _, index):
        for ahead_ms in (0, 3_600_000, 19_800_000, -12_600_000):
            rig.engine.set_clock(now)
            rig.engine.set_zone(ahead_ms * MS)
            seen = len(rig.records)
            records = rig.until(
                lambda all, seen=seen: sum(record.tag == 1 for record in all[seen + 3 :]) >= 2  # type: ignore[misc]
            )[seen + 3 :]
            for record in records[1:]:
                interval = 700 if record.tag == 1 else 100
                assert (record.slot_ms + ahead_ms) % interval == 0
        assert rig.engine.line_counters(index).missed < 10
        with pytest.raises(ValueError, match="a day from UTC"):
            rig.engine.set_zone(86_400_000 * MS)


def parted(every: int) -> MeterSpec:
    """A meter whose registers from 50 on are read in each so-many-th slot, beside the others."""
    rest, whole = meter(10, 1, 100 * MS, ((0, 2),)), meter(11, 1, 100 * MS, ((0, 2), (50, 3)))
    return rest._replace(columns=5, everys=(every,), variants=(whole,))


def test_seldom_part_is_read_in_its_slots() -> None:
    """The slots of the part are its own multiples; each record is tagged with what it holds."""
    with rig_on_pty(well, parted(3)) as (rig, _, index):
        records = rig.until(lambda all: sum(record.tag == 11 for record in all) >= 4)
        rig.engine.replace_meter(index, 0, parted(2)._replace(tag=20, variants=(meter(21, 1, 0, ((0, 2), (50, 3))),)))
        rig.until(lambda all: sum(record.tag == 21 for record in all) >= 3)
    if rig.records[-1].slot_ms - records[0].slot_ms == 100 * (len(rig.records) - 1):  # no slot was missed
        assert all((record.slot_ms // 100) % 3 == 0 for record in records if record.tag == 11)
    for record in rig.records:
        assert list(record.slots) == expected(1, (0, 2), *([(50, 3)] if record.tag % 10 else [])) + [0] * (
            0 if record.tag % 10 else 3
        )
        assert record.quality == bytes(5) if record.tag % 10 else bytes([0, 0, 6, 6, 6])


def test_seldom_parts_are_checked() -> None:
    """Bounds, and a variant for each case."""
    engine = Engine()
    whole = parted(3)
    for wrong in (
        whole._replace(everys=(1,)),
        whole._replace(everys=(2, 3)),
        whole._replace(interval_ns=0),
        whole._replace(everys=(2,) * 4, variants=whole.variants * 15),
        whole._replace(variants=(whole.variants[0]._replace(unit=2),)),
        whole._replace(variants=(whole,)),
    ):
        with pytest.raises(ValueError, match=r"part|variant"):
            engine.add_line(serial_line(-1, wrong))
    engine.close()
