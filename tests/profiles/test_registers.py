"""Registers: bytes to slots and back, for every type and order; checked against pymodbus where it knows the type."""

import math
import struct
from typing import Literal, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin

from parkfleet.protocols.profile import FIXED_REGISTERS, Order, Point, PointType
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import column_of, decode, encode, from_big_endian, to_big_endian, value_of

ORDERS: tuple[Order, ...] = get_args(Order)
NUMBERS: tuple[PointType, ...] = ("int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
WORD_ORDER: dict[Order, Literal["big", "little"]] = {"ABCD": "big", "CDAB": "little"}

words = st.integers(0, 0xFFFF)
orders = st.sampled_from(ORDERS)


@st.composite
def points(draw: st.DrawFn, types: tuple[PointType, ...] = get_args(PointType)) -> Point:
    """A point of any type, order and length."""
    type_ = draw(st.sampled_from(types))
    if type_ == "bool":
        return Point("p", "bool", 0, table="coil")
    registers = None if type_ in FIXED_REGISTERS else draw(st.integers(1, 64 if type_ == "string" else 4))
    if type_ != "bits":
        return Point("p", type_, 0, order=draw(orders), registers=registers)
    bit = draw(st.integers(0, 16 * (registers or 1) - 1))
    width = draw(st.integers(1, min(32, 16 * (registers or 1) - bit)))
    return Point("p", "bits", 0, order=draw(orders), registers=registers, bit=bit, width=width)


def image(point: Point) -> st.SearchStrategy[list[int]]:
    """Registers that a meter may answer for a point."""
    return st.lists(words, min_size=point.count, max_size=point.count)


@given(points(("int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")), st.data())
def test_decode_then_encode_is_the_identity(point: Point, data: st.DataObject) -> None:
    """Any registers of a number come back, unless they are no number."""
    given_ = data.draw(image(point))
    slot, quality, text = decode(point, given_)
    if quality == Quality.GOOD:
        assert encode(point, slot, text) == given_
    else:
        assert point.type.startswith("float") and slot == 0


@given(points(("bits", "bool")), st.data())
def test_encode_then_decode_of_bits_is_the_identity(point: Point, data: st.DataObject) -> None:
    """A field keeps its number, whatever its place."""
    slot = data.draw(st.integers(0, (1 << point.width) - 1))
    assert decode(point, encode(point, slot)) == (slot, Quality.GOOD, None)


@given(points(("bits",)), st.data())
def test_neighbours_of_a_bit_field_change_nothing(point: Point, data: st.DataObject) -> None:
    """The other bits of the registers belong to others."""
    mask = to_big_endian(point, encode(point, -1))
    given_ = data.draw(image(point))
    own = bytes(a & b for a, b in zip(to_big_endian(point, given_), mask, strict=True))
    assert decode(point, given_) == decode(point, from_big_endian(point, own))


@given(points(("bcd",)), st.data())
def test_encode_then_decode_of_bcd_is_the_identity(point: Point, data: st.DataObject) -> None:
    """Four digits a register; the registers are the digits, read as hexadecimal."""
    number = data.draw(st.integers(0, 10 ** (4 * point.count) - 1))
    registers = encode(point, number)
    assert decode(point, registers) == (number, Quality.GOOD, None)
    assert to_big_endian(point, registers).hex().lstrip("0") == str(number).lstrip("0")


@given(points(("bcd",)), st.data())
def test_bcd_with_a_digit_above_nine_is_not_available(point: Point, data: st.DataObject) -> None:
    """A nibble from A to F is no digit."""
    digits = list(f"{data.draw(st.integers(0, 10 ** (4 * point.count) - 1)):0{4 * point.count}d}")
    digits[data.draw(st.integers(0, len(digits) - 1))] = data.draw(st.sampled_from("abcdef"))
    registers = from_big_endian(point, bytes.fromhex("".join(digits)))
    assert decode(point, registers) == (0, Quality.INVALID, None)


@given(points(("string",)), st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF)))
def test_encode_then_decode_of_text_is_the_identity(point: Point, text: str) -> None:
    """Text that fits comes back; text that does not is cut."""
    assume(text == text.strip())
    slot, quality, found = decode(point, encode(point, 0, text))
    assert (slot, quality) == (0, Quality.GOOD)
    if len(text.encode()) <= 2 * point.count:
        assert found == text
    else:
        assert found is not None and text.startswith(found.rstrip("�"))


@given(points(), st.data())
def test_decode_never_fails(point: Point, data: st.DataObject) -> None:
    """Whatever a meter answers is a value or is not available; the slot fits 64 bits with sign."""
    given_ = data.draw(image(point)) if point.type != "bool" else [data.draw(st.integers(0, 1))]
    slot, quality, _ = decode(point, given_)
    assert -(1 << 63) <= slot < 1 << 63
    assert quality in (Quality.GOOD, Quality.INVALID)
    assert (value_of(point, given_) is None) == (quality == Quality.INVALID)


@pytest.mark.parametrize("type_", NUMBERS)
@pytest.mark.parametrize("order", WORD_ORDER)
@given(data=st.data())
def test_numbers_are_those_of_pymodbus(type_: PointType, order: Order, data: st.DataObject) -> None:
    """The same registers say the same number; floats to the bit."""
    point = Point("p", type_, 0, order=order)
    given_ = data.draw(image(point))
    peer = ModbusClientMixin.DATATYPE[type_.upper()]
    theirs = ModbusClientMixin.convert_from_registers(given_, peer, word_order=WORD_ORDER[order])
    assert isinstance(theirs, int | float)
    ours = value_of(point, given_)
    if ours is None:
        assert not math.isfinite(theirs)
    elif type_ == "float32":
        assert isinstance(ours, float)
        assert struct.pack(">f", ours) == struct.pack(">f", theirs)
    else:
        assert ours == theirs


@given(st.sampled_from(("float32", "float64")), orders, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_floats_that_are_no_number_are_not_available(type_: PointType, order: Order, number: float) -> None:
    """NaN and both infinities."""
    point = Point("p", type_, 0, order=order)
    data = struct.pack(">f" if type_ == "float32" else ">d", number)
    assert decode(point, from_big_endian(point, data)) == (0, Quality.INVALID, None)


@given(orders, st.integers(1, 0x007F_FFFF), st.booleans())
def test_every_nan_is_not_available(order: Order, mantissa: int, negative: bool) -> None:
    """Quiet, signalling, of either sign, with any payload."""
    point = Point("p", "float32", 0, order=order)
    bits = 0x7F80_0000 | mantissa | negative << 31
    assert decode(point, from_big_endian(point, bits.to_bytes(4, "big")))[1] == Quality.INVALID


@pytest.mark.parametrize(
    ("order", "registers"),
    [
        ("ABCD", [0x0A0B, 0x0C0D]),
        ("CDAB", [0x0C0D, 0x0A0B]),
        ("BADC", [0x0B0A, 0x0D0C]),
        ("DCBA", [0x0D0C, 0x0B0A]),
    ],
)
def test_orders_of_one_value(order: Order, registers: list[int]) -> None:
    """Where each byte of 0x0A0B0C0D stands."""
    assert decode(Point("p", "uint32", 0, order=order), registers)[0] == 0x0A0B0C0D


@pytest.mark.parametrize(
    ("order", "registers"),
    [
        ("ABCD", [0x0102, 0x0304, 0x0506, 0x0708]),
        ("CDAB", [0x0708, 0x0506, 0x0304, 0x0102]),
        ("BADC", [0x0201, 0x0403, 0x0605, 0x0807]),
        ("DCBA", [0x0807, 0x0605, 0x0403, 0x0201]),
    ],
)
def test_orders_of_a_long_value(order: Order, registers: list[int]) -> None:
    """The same two rules over four registers."""
    assert decode(Point("p", "uint64", 0, order=order), registers)[0] == 0x0102030405060708


@pytest.mark.parametrize(
    ("point", "registers", "available"),
    [
        (Point("p", "uint16", 0, invalid=[0xFFFF]), [0xFFFF], False),
        (Point("p", "uint16", 0, invalid=[0xFFFF]), [0xFFFE], True),
        (Point("p", "int16", 0, invalid=[-32768]), [0x8000], False),
        (Point("p", "int16", 0, invalid=[0x8000]), [0x8000], False),
        (Point("p", "int16", 0, invalid=[0x7FFF]), [0x7FFF], False),
        (Point("p", "int32", 0, order="CDAB", invalid=[0x7FFF_FFFF]), [0xFFFF, 0x7FFF], False),
        (Point("p", "uint64", 0, invalid=[2**64 - 1]), [0xFFFF] * 4, False),
        (Point("p", "int64", 0, invalid=[-1]), [0xFFFF] * 4, False),
        (Point("p", "float32", 0, invalid=[0xC61C3C00]), [0xC61C, 0x3C00], False),  # -9999.0
        (Point("p", "float64", 0, invalid=[0xC0C3_8780_0000_0000]), [0xC0C3, 0x8780, 0, 0], False),  # -9999.0
        (Point("p", "bcd", 0, invalid=[9999]), [0x9999], False),
        (Point("p", "bcd", 0, invalid=[150]), [0x0096], True),  # 96, although 0x96 is 150
        (Point("p", "bits", 0, bit=4, width=4, invalid=[15]), [0x00F3], False),
        (Point("p", "bits", 0, bit=4, width=4, invalid=[3]), [0x0003], True),  # the field is 0
    ],
)
def test_codes_of_the_meter_are_not_available(point: Point, registers: list[int], available: bool) -> None:
    """A code listed under `invalid` is no value; a number that only looks like one is."""
    assert (decode(point, registers)[1] == Quality.GOOD) is available


@given(points(NUMBERS), st.data())
def test_a_code_hides_exactly_itself(point: Point, data: st.DataObject) -> None:
    """The raw number as a code makes these registers unavailable, and no others."""
    given_, others = data.draw(image(point)), data.draw(image(point))
    raw = int.from_bytes(to_big_endian(point, given_), "big")
    coded = Point("p", point.type, 0, order=point.order, invalid=[raw])
    assert decode(coded, given_)[1] == Quality.INVALID
    if others != given_:
        assert decode(coded, others) == decode(point, others)


@pytest.mark.parametrize(("type_", "column"), [("int32", "int"), ("uint64", "uint64"), ("bcd", "int"), ("bits", "int")])
def test_column_of_a_point(type_: PointType, column: str) -> None:
    """What a point is in a batch."""
    assert column_of(Point("p", type_, 0)).type == column
