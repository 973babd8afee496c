"""Frame search in the engine: any bytes, in any pieces; only a right frame of the asked unit is ever an answer."""

import os
import random
import select
import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.native.engine_parts import search_answer
from parkfleet.native.spec import SERIAL, LineSpec
from parkfleet.protocols.modbus import rtu
from tests.engine.rig import MS, PtySlave, Rig, expected, good_pdu, meter, serial_line

LINE = LineSpec(SERIAL, 1000 * MS, (meter(0, 7, blocks=((100, 4),)),))
RIGHT = rtu.frame(7, bytes([3, 8]) + b"ABCDEFGH")

foreign_frames = st.builds(
    rtu.frame,
    st.integers(8, 255),
    st.one_of(
        st.binary(max_size=100).map(lambda data: bytes([4, len(data)]) + data),
        st.integers(1, 11).map(lambda code: bytes([0x83, code])),
        st.binary(min_size=4, max_size=4).map(lambda data: b"\x03" + data),
    ),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces."""
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(st.binary(max_size=700), st.lists(st.integers(0, 700), max_size=20))
def test_search_garbage_finds_no_answer(data: bytes, places: list[int]) -> None:
    """Unless it holds the very frame."""
    kind, _ = search_answer(LINE, cut(data, places))
    holds_answer = any(
        data[at : at + 3] == RIGHT[:3]
        and rtu.crc16(data[at : at + 11]) == int.from_bytes(data[at + 11 : at + 13], "little")
        for at in range(len(data) - 12)
    )
    assert kind != "answer" or holds_answer


@given(st.lists(foreign_frames, max_size=4), st.lists(st.integers(0, 600), max_size=40))
def test_search_answer_behind_foreign_frames(foreign: list[bytes], places: list[int]) -> None:
    """Whole frames of others are passed over, however the bytes are cut."""
    data = b"".join(foreign) + RIGHT
    if len(data) <= 512:
        assert search_answer(LINE, cut(data, places)) == ("answer", b"ABCDEFGH")


@given(st.integers(0, 12), st.integers(1, 255))
def test_search_answer_with_any_wrong_byte(at: int, flip: int) -> None:
    """Is none."""
    wrong = bytearray(RIGHT)
    wrong[at] ^= flip
    assert search_answer(LINE, [bytes(wrong)])[0] in ("wrong", "more")


@given(st.integers(1, 127), st.lists(st.integers(0, 5), max_size=4))
def test_search_refusal(code: int, places: list[int]) -> None:
    """An exception answer, with its code."""
    assert search_answer(LINE, cut(rtu.frame(7, bytes([0x83, code])), places)) == ("refusal", code)


@given(st.sampled_from([0, *range(128, 256)]))
def test_search_refusal_without_a_code(code: int) -> None:
    """Codes are 1 to 127: with any other it is neither a refusal nor an answer."""
    assert search_answer(LINE, [rtu.frame(7, bytes([0x83, code]))])[0] == "wrong"


def test_search_own_echo_then_answer() -> None:
    """Byte by byte."""
    echo = rtu.frame(7, struct.pack(">BHH", 3, 100, 4))
    assert search_answer(LINE, [bytes([byte]) for byte in echo + RIGHT]) == ("answer", b"ABCDEFGH")


def test_garbage_on_the_wire_never_becomes_a_value() -> None:
    """Thousands of answers with random damage, pieces of other frames, and noise at random times."""
    chance = random.Random(3)
    damaged = 0

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        nonlocal damaged
        right = rtu.frame(unit, good_pdu(unit, pdu))
        match chance.randrange(8):
            case 0:
                spoiled = bytearray(right)
                spoiled[chance.randrange(len(right))] ^= 1 << chance.randrange(8)
                data = bytes(spoiled)
            case 1:
                data = right[: chance.randrange(1, len(right))] + chance.randbytes(chance.randrange(4))
            case 2:
                data = chance.randbytes(chance.randrange(1, 600))
            case 3:
                data = chance.randbytes(chance.randrange(1, 30)) + right
            case 4:
                data = right + chance.randbytes(chance.randrange(1, 300))
            case _:
                data = right
        damaged += data != right
        return [(0.0, data)]

    meters = [meter(unit, unit, blocks=((10 * unit, 1 + unit),)) for unit in range(1, 9)]
    with PtySlave(behave) as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), *meters, timeout_ns=5 * MS))

        def enough(_: object) -> bool:
            for unit in range(1, 9):
                rig.engine.wake(index, unit)  # else they would soon be taken for dead
            return damaged >= 500

        rig.until(enough, within_s=60)
    good = 0
    for record in rig.records:
        right = expected(record.tag, (10 * record.tag, 1 + record.tag))
        assert list(record.slots) == (right if record.quality == bytes(len(right)) else [0] * len(right))
        good += any(record.slots)
    assert good > 100


def test_garbage_while_idle_is_dropped() -> None:
    """Megabytes of it, and the next scan is right."""
    chance = random.Random(4)
    with PtySlave() as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), meter(1, 1, 500 * MS), timeout_ns=100 * MS))
        rig.until(lambda _: rig.engine.line_counters(index).up)
        for _ in range(500):
            slave.say(chance.randbytes(2000))
            select.select([], [slave.fileno()], [])
        rig.until(lambda all: all and all[-1].quality == bytes(2))
        assert rig.engine.line_counters(index).bytes_in > 500_000
        assert os.fstat(slave.fileno())
