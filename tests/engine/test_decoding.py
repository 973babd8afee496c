"""Decoding in the engine: bit for bit what protocols/registers.decode says."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.engine_spec import field_spec
from parkfleet.native.engine_parts import decode_answer
from parkfleet.native.spec import FieldSpec, MeterSpec, RequestSpec
from parkfleet.protocols.profile import Order, Point, PointType
from parkfleet.protocols.registers import column_of, decode

TYPES: list[PointType] = [
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bcd", "bits", "string",
]  # fmt: skip
ORDERS: list[Order] = ["ABCD", "CDAB", "BADC", "DCBA"]
words = st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 1, 0x7F80, 0x7FC0, 0x8000, 0xFFFF, 0x1234, 0x9999]))


@st.composite
def points(draw: st.DrawFn) -> Point:
    """Any register point, with codes for "not available" that hit."""
    type = draw(st.sampled_from(TYPES))
    registers = draw(st.integers(1, 64 if type == "string" else 4)) if type in ("bcd", "bits", "string") else None
    count = Point("p", type, 0, registers=registers).count if type != "bits" else registers or 1
    bit = draw(st.integers(0, 16 * count - 1)) if type == "bits" else 0
    width = draw(st.integers(1, min(32, 16 * count - bit))) if type == "bits" else 1
    codes = st.integers(-(2**64) - 1, 2**64 + 1) | st.sampled_from([0, -1, 0xFFFF, 0x8000, -32768, 2**63, -(2**63)])
    return Point(
        "p", type, draw(st.integers(0, 5)), order=draw(st.sampled_from(ORDERS)), registers=registers, bit=bit,
        width=width, invalid=draw(st.lists(codes, max_size=3)),
    )  # fmt: skip


@given(points(), st.data())
def test_decode_any_point_equals_the_oracle(point: Point, data: st.DataObject) -> None:
    """Every type, order and code gives the oracle's slot, quality and text."""
    image = data.draw(st.lists(words, min_size=point.end, max_size=point.end))
    own = image[point.address : point.end]
    if data.draw(st.booleans()) and point.type != "string":
        raw = decode(point, own)[0]
        point = Point(**{name: getattr(point, name) for name in point.__struct_fields__} | {"invalid": [raw]})
    slot, quality, text = decode(point, own)
    meter = MeterSpec(0, 1, 0, 1, (RequestSpec(3, 0, point.end, (field_spec(point, 0, 0),)),))
    slots, qualities, texts, _ = decode_answer(meter, 0, struct.pack(f">{len(image)}H", *image))
    assert (slots[0], qualities[0]) == (slot, quality)
    assert text is None or texts.split(b"\0")[0].decode("utf-8", "replace").strip() == text


@given(st.lists(st.booleans(), min_size=1, max_size=2000), st.data())
def test_decode_bits_of_a_coil_table(bits: list[bool], data: st.DataObject) -> None:
    """A bit stands where the protocol puts it: lowest first in each byte."""
    at = data.draw(st.integers(0, len(bits) - 1))
    packed = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        packed[index // 8] |= bit << index % 8
    point = Point("p", "bool", at, table="coil")
    meter = MeterSpec(0, 1, 0, 1, (RequestSpec(1, 0, len(bits), (field_spec(point, 0, 0),)),))
    assert decode_answer(meter, 0, bytes(packed))[0][0] == int(bits[at])


@given(st.integers(-(2**15), 2**15 - 1))
def test_decode_scaled_values(raw: int) -> None:
    """The doubles beside the slots are scaled as the column says."""
    point = Point("p", "int16", 0, scale=Decimal("0.1"), offset=Decimal(-40))
    meter = MeterSpec(0, 1, 0, 1, (RequestSpec(3, 0, 1, (field_spec(point, 0, 0),)),), values=True)
    value = decode_answer(meter, 0, struct.pack(">h", raw))[3][0]
    assert value == column_of(point).value(raw)


@pytest.mark.parametrize(
    "wrong",
    [
        FieldSpec(1, 1, 0, 0, 1),  # column beyond
        FieldSpec(0, 1, 0, 2, 1),  # register beyond
        FieldSpec(0, 1, 0, -1, 1),
        FieldSpec(0, 5, 0, 0, 2),  # uint64 in two registers
        FieldSpec(0, 99, 0, 0, 1),
        FieldSpec(0, 10, 0, 0, 65),
        FieldSpec(0, 9, 0, 0, 1, 64, 1),
        FieldSpec(0, 11, 0, 0, 1),  # a bool in a register
    ],
)
def test_decode_field_out_of_bounds_is_refused(wrong: FieldSpec) -> None:
    """Nothing that could read or write beyond its memory gets into the engine."""
    with pytest.raises((ValueError, OverflowError)):
        decode_answer(MeterSpec(0, 1, 0, 1, (RequestSpec(3, 0, 2, (wrong,)),)), 0, b"\0" * 4)
