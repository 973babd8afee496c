"""Serial line: a bus that pymodbus reads, with the pace of a wire, and faults that do what they say."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path

import pytest
from pymodbus.exceptions import ModbusIOException

from parkfleet.protocols.modbus.rtu import crc16, silence
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode
from parkfleet.simulators.faults import Faults
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.eventually import eventually
from tests.simulators.asking import ask, descriptors, port_of, pymodbus_on, rtu_request, with_crc
from tests.simulators.models import EVERYTHING, HEAT, WATER, profile

BAUD = 9600


def meters() -> list[SimulatedMeter]:
    models = {1: EVERYTHING, 2: WATER, 3: HEAT}
    return [SimulatedMeter(p, unit, load_of(p.medium, unit)) for unit, text in models.items() if (p := profile(text))]


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[SerialLine]:
    loop = asyncio.get_running_loop()

    def clock() -> float:
        """Unix seconds that nobody sets while a test runs."""
        return 1_795_000_000.0 + loop.time()

    async with SerialLine("bus1", tmp_path, meters(), AnswerRecord(), baud=BAUD, clock=clock) as running:
        yield running


def record_of(line: SerialLine) -> AnswerRecord:
    return line._record


async def test_pymodbus_reads_every_table_and_type(line: SerialLine) -> None:
    """What the client got is what the record says, and every point of it decodes."""
    async with pymodbus_on(line) as client:
        for unit, meter in line.meters.items():
            for point in meter.profile.points:
                got = await ask(client, unit, point.table, point.address, point.count)
                answer = record_of(line).since(-1)[0]
                assert (answer.line, answer.unit, answer.table, answer.ok) == ("bus1", unit, point.table, True)
                assert got == answer.values.tolist()
                assert decode(point, got)[1] == Quality.GOOD


async def test_answer_takes_its_time_on_the_wire(line: SerialLine) -> None:
    """So many bytes at 9600 baud last at least so long, and so does the silence before them."""
    asked = asyncio.get_running_loop().time()
    async with pymodbus_on(line) as client:
        await ask(client, 1, "holding", 0, 61)
        took = asyncio.get_running_loop().time() - asked
    (answer,) = record_of(line)
    bytes_answered = 5 + 2 * 61
    # The last bits of a float of seconds since 1970 are about 0.2 µs.
    assert answer.time - answer.began >= bytes_answered * 10 / BAUD - 1e-6
    assert took >= (8 + bytes_answered) * 10 / BAUD + silence(BAUD)


async def test_bytes_never_run_ahead_of_the_wire(line: SerialLine) -> None:
    """Each byte that can be read has had its time since the request was written."""
    loop = asyncio.get_running_loop()
    async with port_of(line) as port:
        start = loop.time()
        port.write(rtu_request(1, "holding", 0, 30))
        for count in range(1, 66):
            await port.read(1)
            assert loop.time() - start >= (8 + count) * 10 / BAUD + silence(BAUD)


async def test_silence_separates_answers(line: SerialLine) -> None:
    """Two requests in one go are answered one after the other, t3.5 apart."""
    async with port_of(line) as port:
        port.write(rtu_request(2, "holding", 0, 4) + rtu_request(3, "input", 0, 10))
        frames = await port.read(13), await port.read(25)
    assert {frame[0] for frame in frames} == {2, 3}
    assert all(crc16(frame[:-2]) == int.from_bytes(frame[-2:], "little") for frame in frames)
    first, second = record_of(line)
    assert second.began - first.time >= silence(BAUD) - 1e-6


async def test_request_in_pieces_behind_garbage(line: SerialLine) -> None:
    """Pieces are put together, and garbage is survived."""
    request = rtu_request(2, "holding", 0, 2)
    async with port_of(line) as port:
        port.write(b"\x01\x10\xff")
        port.write(request[:3])
        port.write(request[3:])
        assert (await port.read(9))[0] == 2


async def test_unknown_function_gets_exception_1(line: SerialLine) -> None:
    """Also one whose length nobody knows: its frame ends with silence."""
    async with port_of(line) as port:
        port.write(with_crc(b"\x02\x41\x07\x07"))
        assert await port.read(5) == with_crc(b"\x02\xc1\x01")
    (answer,) = record_of(line)
    assert (answer.table, answer.ok) == (None, False)


async def test_unknown_units_and_silent_meters_say_nothing(line: SerialLine) -> None:
    """Nobody has unit 99, and 2 is silent: the next bytes on the line are the answer of 3."""
    line.meters[2].faults.silent = True
    async with port_of(line) as port:
        port.write(rtu_request(99, "holding", 0, 2))
        port.write(rtu_request(2, "holding", 0, 2))
        port.write(rtu_request(3, "input", 0, 2))
        assert (await port.read(9))[0] == 3
    assert [answer.unit for answer in record_of(line)] == [3]


@pytest.mark.parametrize(
    ("spoil", "spoiled"),
    [
        (Faults(unit=77), lambda good: with_crc(b"\x4d" + good[1:-2])),
        (Faults(function=6), lambda good: with_crc(good[:1] + b"\x06" + good[2:-2])),
        (Faults(corrupt=True), lambda good: good[:-3] + bytes([good[-3] ^ 0x10]) + good[-2:]),
        (Faults(cut=3), lambda good: good[:-3]),
        (Faults(longer=1), lambda good: with_crc(good[:2] + b"\x06" + good[3:-2] + b"\0\0")),
        (Faults(noise=b"\xff\x00"), lambda good: good + b"\xff\x00"),
        (Faults(exception=4), lambda good: with_crc(good[:1] + b"\x83\x04")),
        (Faults(late=0.05), lambda good: good),
    ],
)
async def test_fault_spoils_the_answer(line: SerialLine, spoil: Faults, spoiled: Callable[[bytes], bytes]) -> None:
    """Each fault gives just its own frame, and the record does not count it as answered."""
    meter = line.meters[1]
    async with port_of(line) as port:
        port.write(rtu_request(1, "holding", 33, 2))
        good = await port.read(9)
        meter.faults = spoil
        wanted = spoiled(good)
        port.write(rtu_request(1, "holding", 33, 2))
        assert await port.read(len(wanted)) == wanted
        meter.faults.clear()
        assert meter.faults == Faults()
        await eventually(lambda: len(record_of(line)) == 2)
        port.write(rtu_request(1, "holding", 33, 2))
        assert await port.read(9) == good
    await eventually(lambda: len(record_of(line)) == 3)
    assert [answer.ok for answer in record_of(line)] == [True, False, True]


async def test_pymodbus_refuses_a_corrupt_answer(line: SerialLine) -> None:
    """A client that we did not write sees the CRC error too: to it nothing valid has come."""
    line.meters[1].faults.corrupt = True
    async with pymodbus_on(line, timeout=0.3) as client:
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=2, device_id=1)


async def test_delay_comes_before_the_answer_which_counts(line: SerialLine) -> None:
    """A slow meter is slow, not wrong."""
    line.meters[2].faults.delay = 0.2
    loop = asyncio.get_running_loop()
    async with port_of(line) as port:
        start = loop.time()
        port.write(rtu_request(2, "holding", 0, 2))
        await port.read(9)
        assert loop.time() - start >= 0.2
    assert [answer.ok for answer in record_of(line)] == [True]


async def test_device_may_be_closed_and_opened_again(line: SerialLine) -> None:
    """An agent that restarts finds the same line."""
    for _ in range(3):
        async with port_of(line) as port:
            port.write(rtu_request(2, "holding", 0, 2))
            assert (await port.read(9))[0] == 2


async def test_unplugged_and_plugged_again(line: SerialLine) -> None:
    """The asker sees the device go, cannot open it, and finds it under the same path later."""
    async with port_of(line) as port:
        port.write(rtu_request(2, "holding", 0, 2))
        line.unplug()
        line.unplug()
        with pytest.raises((OSError, EOFError)):
            await port.read(9)
    with pytest.raises(OSError) as missing:
        os.open(line.path, os.O_RDWR)
    assert missing.value.errno == errno.ENOENT
    assert len(record_of(line)) == 0
    line.plug()
    line.plug()
    async with pymodbus_on(line) as client:
        assert len(await ask(client, 2, "holding", 0, 2)) == 2


async def test_a_line_nobody_reads_loses_bytes_as_a_wire_does(tmp_path: Path) -> None:
    """Answers that nobody takes fill the pty's buffer and are then lost, not waited for."""
    async with SerialLine("fast", tmp_path, meters(), AnswerRecord(), baud=4_000_000) as line, port_of(line) as port:
        for count in range(1, 101):
            port.write(rtu_request(1, "holding", 0, 61))
            await eventually(lambda count=count: len(record_of(line)) == count)  # type: ignore[misc]


async def test_early_requests_are_counted_and_may_be_ignored(tmp_path: Path) -> None:
    """A request that leaves no silence after an answer is a fault of the asker."""
    async with SerialLine("bus1", tmp_path, meters(), AnswerRecord(), baud=300, strict=True) as line:
        request = rtu_request(2, "holding", 2, 1)
        async with port_of(line) as port:
            port.write(request)
            answer = await port.read(1)
            port.write(request)  # the answer is not even over
            answer += await port.read(6)
        assert line.early == 1
        assert crc16(answer[:-2]) == int.from_bytes(answer[-2:], "little")
        assert len(record_of(line)) == 1


def test_every_fault_can_be_cleared() -> None:
    """clear() knows each of them."""
    faults = Faults(True, 1.0, 1.0, 4, 9, 6, 1, True, 2, b"x", True)
    assert all(getattr(faults, field.name) != field.default for field in fields(faults))
    assert faults.spoil
    faults.clear()
    assert faults == Faults()
    assert not faults.spoil


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Fifty lines opened, asked, unplugged and closed leave descriptors, tasks and files where they were."""
    before = descriptors(), len(asyncio.all_tasks())
    for _ in range(50):
        async with SerialLine("bus1", tmp_path, meters(), AnswerRecord()) as line:
            async with port_of(line) as port:
                port.write(rtu_request(2, "holding", 0, 2))
            line.unplug()
            line.plug()
            async with port_of(line) as port:
                port.write(rtu_request(2, "holding", 0, 2) + rtu_request(3, "input", 0, 2))
    assert (descriptors(), len(asyncio.all_tasks())) == before
    assert list(tmp_path.iterdir()) == []
