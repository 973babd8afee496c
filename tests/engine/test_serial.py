"""Engine on a serial line: values, silence, and everything a bus does that is no answer."""

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from parkfleet.protocols.modbus import rtu
from tests.engine.rig import (
    CORRUPT,
    DISCONNECTED,
    GOOD,
    MS,
    SKIPPED,
    TIMEOUT,
    PtySlave,
    Rig,
    S,
    expected,
    good_pdu,
    meter,
    rig_on_pty,
    serial_line,
    well,
)

BLOCKS = ((0, 3), (10, 20), (100, 125))


def test_scan_of_several_meters_gives_their_values() -> None:
    """All blocks of all meters, each with the time of its answer."""
    with rig_on_pty(well, *(meter(unit, unit, blocks=BLOCKS) for unit in (1, 2, 247))) as (rig, _, index):
        records = rig.scans(9)
        counters = rig.engine.line_counters(index)
    assert {record.tag for record in records} == {1, 2, 247}
    for record in records:
        assert list(record.slots) == expected(record.tag, *BLOCKS)
        assert record.quality == bytes(148)
        assert record.answers == tuple(sorted(record.answers))
        assert 0 <= record.answers[0] - record.slot_ms < 5000
    assert counters.up
    assert (counters.timeouts, counters.corrupt) == (0, 0)


@pytest.mark.parametrize("baud", [9600, 19200, 115200])
def test_request_waits_for_t35_after_every_answer(baud: int) -> None:
    """The silence is kept by the clock, from the last byte of an answer to our first."""
    with rig_on_pty(well, meter(1, 1), meter(2, 2), baud=baud) as (rig, slave, _):
        rig.scans(20)
    assert len(slave.silences) >= 19
    assert min(slave.silences) >= rtu.silence(baud) - 1e-6


def test_request_leaves_in_one_piece() -> None:
    """One write for a frame: no gap of t1.5 can stand in it, whatever keeps our process from running."""
    with rig_on_pty(well, meter(1, 1, blocks=BLOCKS), meter(2, 2)) as (rig, slave, _):
        rig.scans(20)
    assert set(slave.pieces) == {8}


@pytest.mark.parametrize("baud", [1200, 9600])
def test_answer_before_t35_is_taken_and_the_silence_behind_it_kept(baud: int) -> None:
    """A slave that answers too early is read, and counted; our next frame keeps off our own last byte as well."""
    with rig_on_pty(well, meter(1, 1), meter(2, 2), baud=baud) as (rig, slave, index):
        rig.engine.tap(index, True)
        records = rig.scans(20)
        sent = [at for came_in, at, _ in rig.engine.tapped()[0] if not came_in]
        counters = rig.engine.line_counters(index)
    assert all(record.quality == bytes(2) for record in records)
    assert counters.early >= 10
    assert len(sent) >= 10
    # Our bytes are on the wire for so long, whatever the slave says meanwhile.
    assert min(later - earlier for earlier, later in pairwise(sent)) >= S * (8 * 10 / baud + rtu.silence(baud)) - 1000
    assert min(slave.silences) >= rtu.silence(baud) - 1e-6


def test_answer_byte_by_byte_is_put_together() -> None:
    """Each byte may come alone."""

    def slowly(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0005, bytes([byte])) for byte in rtu.frame(unit, good_pdu(unit, pdu))]

    with rig_on_pty(slowly, meter(1, 1, blocks=((0, 20),)), baud=19200) as (rig, _, _index):
        for record in rig.scans(3):
            assert list(record.slots) == expected(1, (0, 20))


def test_foreign_frames_are_passed_over() -> None:
    """Another unit's answer, a second master's request, an echo of our own: the answer behind them counts."""
    foreign = [
        rtu.frame(9, bytes([3, 4, 1, 2, 3, 4])),
        rtu.frame(9, bytes([3, 0, 0, 0, 10])),
        rtu.frame(9, bytes([0x83, 2])),
    ]

    def crowded(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, rtu.frame(unit, pdu)), *((0.001, frame) for frame in foreign), *well(unit, pdu)]

    with rig_on_pty(crowded, meter(1, 1, blocks=((0, 4),))) as (rig, _, index):
        for record in rig.scans(3):
            assert (list(record.slots), record.quality) == (expected(1, (0, 4)), bytes(4))
        counters = rig.engine.line_counters(index)
    assert counters.foreign >= 9
    assert counters.timeouts == 0


@pytest.mark.parametrize("noise", [b"\0", b"\xff", b"\x01", b"\x01\x03", b"\x01\x03\xfa", b"\x09\x03\xf0junk"])
def test_answer_behind_noise_is_found(noise: bytes) -> None:
    """A driver that turns the line around leaves bytes before the frame."""

    def noisy(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, noise + rtu.frame(unit, good_pdu(unit, pdu)))]

    with rig_on_pty(noisy, meter(1, 1, blocks=((0, 4),))) as (rig, _, _index):
        for record in rig.scans(2):
            assert (list(record.slots), record.quality) == (expected(1, (0, 4)), bytes(4))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame[:-1] + bytes([frame[-1] ^ 1]),  # CRC
        lambda frame: frame[:-3],  # cut
        lambda frame: rtu.frame(frame[0], bytes([3, 8]) + bytes(8)),  # more registers than asked
        lambda frame: rtu.frame(frame[0], bytes([4, 4]) + bytes(4)),  # another function
        lambda frame: rtu.frame(frame[0] + 1, frame[1:-2]),  # another unit
        lambda frame: b"\xaa" * 700,  # babble, longer than the buffer
    ],
)
def test_wrong_answer_is_corrupt_and_the_line_goes_on(spoil: Callable[[bytes], bytes]) -> None:
    """Nothing of it becomes a value; the neighbour is read as ever."""

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        frame = rtu.frame(unit, good_pdu(unit, pdu))
        return [(0.0, spoil(frame) if unit == 1 else frame)]

    with rig_on_pty(behave, meter(1, 1), meter(5, 5)) as (rig, _, _index):
        records = rig.until(lambda all: {record.tag for record in all} == {1, 5} and len(all) > 5)
    for record in records:
        if record.tag == 1:
            assert (list(record.slots), record.quality) == ([0, 0], bytes([CORRUPT, CORRUPT]))
        else:
            assert (list(record.slots), record.quality) == (expected(5, (0, 2)), bytes(2))


def test_refused_request_leaves_the_others() -> None:
    """An exception answer costs its own points only."""

    def partly(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, rtu.frame(unit, bytes([0x83, 2])))] if pdu[2] == 10 else well(unit, pdu)

    with rig_on_pty(partly, meter(1, 1, blocks=((0, 1), (10, 2), (20, 1)))) as (rig, _, _index):
        record = rig.scans(2)[1]
    assert record.quality == bytes([GOOD, 0x82, 0x82, GOOD])
    assert list(record.slots) == [*expected(1, (0, 1)), 0, 0, *expected(1, (20, 1))]


def test_silence_in_mid_scan_skips_the_rest() -> None:
    """What was read before stays; what was not asked is told as skipped."""

    def half(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [] if pdu[2] == 10 else well(unit, pdu)

    with rig_on_pty(half, meter(1, 1, blocks=((0, 1), (10, 2), (20, 1)))) as (rig, _, _index):
        record = rig.scans(1)[0]
    assert record.quality == bytes([GOOD, TIMEOUT, TIMEOUT, SKIPPED])


def test_late_answer_is_never_taken_for_the_next() -> None:
    """The slave's first answer comes after its time-out, with other values than the second would have."""
    asked: list[bytes] = []

    def late_once(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        asked.append(pdu)
        if len(asked) == 1:
            return [(0.3, rtu.frame(unit, bytes([3, 4]) + b"LATE"))]
        return well(unit, pdu)

    with rig_on_pty(late_once, meter(1, 1)) as (rig, _, index):
        records = rig.until(lambda all: any(record.quality == bytes(2) for record in all))
        counters = rig.engine.line_counters(index)
    assert all(list(record.slots) in ([0, 0], expected(1, (0, 2))) for record in records)
    assert records[0].quality == bytes([TIMEOUT, TIMEOUT])
    assert counters.late == 1


def test_late_answer_while_a_neighbour_is_asked() -> None:
    """It comes between the neighbour's request and answer, and is passed over."""
    state = {"first": True}

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        if unit == 1 and state["first"]:
            state["first"] = False
            return []
        if unit == 2 and "told" not in state and not state["first"]:
            state["told"] = True
            return [(0.0, rtu.frame(1, bytes([3, 4]) + b"LATE")), (0.005, well(unit, pdu)[0][1])]
        return well(unit, pdu)

    with rig_on_pty(behave, meter(1, 1), meter(2, 2)) as (rig, _, index):
        records = rig.until(lambda all: sum(r.tag == 1 and r.quality == bytes(2) for r in all) >= 1)
        counters = rig.engine.line_counters(index)
    assert {tuple(r.slots) for r in records if r.tag == 2} == {tuple(expected(2, (0, 2)))}
    assert all(list(r.slots) in ([0, 0], expected(1, (0, 2))) for r in records if r.tag == 1)
    assert counters.late == 1


def test_babble_that_never_ends_is_told_as_corrupt() -> None:
    """Somebody talks without a pause: nobody can be asked, and the readings say so."""
    with PtySlave() as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1, 100 * MS), baud=300))
        with slave.babbling():
            before = len(slave.requests)
            rig.until(lambda all: any(record.quality == bytes([CORRUPT, CORRUPT]) for record in all))
            assert len(slave.requests) == before
        rig.until(lambda all: all and all[-1].quality == bytes(2))
        assert rig.engine.line_counters(index).stray > 0


def test_port_that_vanishes_and_returns() -> None:
    """Its meters are told as disconnected at their interval, then read again."""
    with PtySlave() as first, PtySlave() as second, Rig() as rig:
        index = rig.engine.add_line(serial_line(first.open(), meter(1, 1, 100 * MS)))
        rig.until(lambda all: any(record.quality == bytes(2) for record in all))
        first.unplug()
        away = bytes([DISCONNECTED, DISCONNECTED])
        rig.until(lambda all: sum(record.quality == away for record in all) >= 3)
        assert rig.engine.line_counters(index).failed
        before = len(rig.records)
        rig.engine.line_opened(index, second.open())
        rig.until(lambda all: any(record.quality == bytes(2) for record in all[before:]))
        assert rig.engine.line_counters(index).up


def test_port_that_cannot_be_opened() -> None:
    """The readings say so from the first slot on."""
    with Rig() as rig:
        index = rig.engine.add_line(serial_line(-1, meter(1, 1, 100 * MS)))
        rig.engine.line_opened(index, -1)
        assert rig.scans(1)[0].quality == bytes([DISCONNECTED, DISCONNECTED])


def test_port_lent_while_requests_wait_for_silence_is_not_taken_for_babble() -> None:
    """However long a guest has it: the time until it is back is not one in which somebody never stopped talking."""
    with rig_on_pty(well, meter(1, 1), timeout_ns=40 * MS) as (rig, _, index):
        for loan in range(1, 9):
            rig.engine.lend(index)
            rig.until(lambda _, loan=loan: rig.engine.loans(index) >= loan)  # type: ignore[misc]
            threading.Event().wait(0.06)  # longer than the time-out
            before = len(rig.records)
            rig.engine.take_back(index)
            rig.until(lambda all, before=before: len(all) > before + 1)  # type: ignore[misc]
        assert rig.engine.line_counters(index).corrupt == 0
        assert not any(record.quality.count(CORRUPT) for record in rig.records)


def test_refusal_is_timed_by_its_own_length() -> None:
    """Its turnaround is not taken for shorter by the wire time of the long answer that did not come."""

    def refuse(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.3, rtu.frame(unit, bytes([pdu[0] | 0x80, 2])))]

    with rig_on_pty(refuse, meter(1, 1, blocks=((0, 125),)), timeout_ns=20_000 * MS, baud=9600) as (rig, _, index):
        rig.scans(2)
        (counted,) = rig.engine.meter_counters(index)
    assert counted.turnaround_ns > 280 * MS  # 266 ms is what 125 registers take at 9600 baud
