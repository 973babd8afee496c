"""Batches of every shape, for the properties of codecs and consumers."""

import struct
from array import array

from hypothesis import strategies as st

from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, ColumnType, Entry, Rows, has_value
from parkfleet.protocols.profile import Factor

INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300), st.sampled_from([-(2**63), 2**63 - 1, 0]))
QUALITY = st.one_of(st.just(0), st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0x82, 0xFF]))


def float32_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def float64_bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


#: Any 32 bits: also every NaN, ±0, ±inf and denormal; and decimals as meters say them.
FLOAT32 = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(-(10**7), 10**7).map(lambda n: float32_bits(n / 100)),
    st.sampled_from([0, float32_bits(-0.0), float32_bits(float("inf")), 0x7FC0_0001, 0xFFC0_0000, 1]),
)
FLOAT64 = st.one_of(
    INT64,
    st.integers(-(10**15), 10**15).map(lambda n: float64_bits(n / 1000)),
    st.sampled_from([0, float64_bits(-0.0)]),
)
SLOTS: dict[ColumnType, st.SearchStrategy[int]] = {
    "int": INT64,
    "uint64": INT64,
    "float32": FLOAT32,
    "float64": FLOAT64,
    "string": st.just(0),
}

columns = st.builds(
    Column,
    point=st.text("abcdef_", min_size=1, max_size=8),
    unit=st.sampled_from(["V", "kWh", "m³", ""]),
    type=st.sampled_from(list(SLOTS)),
    kind=st.sampled_from(["gauge", "counter", "state"]),
    factor=st.builds(Factor, st.integers(1, 1000), st.integers(0, 6), st.integers(-1000, 1000)),
    digits=st.integers(-1, 6),
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A few meters, some of them of the same model."""
    models = draw(st.lists(st.lists(columns, max_size=6).map(tuple), min_size=1, max_size=2))
    names = draw(st.lists(st.text("abc-", min_size=1, max_size=8), min_size=1, max_size=4))
    return Schema(tuple(Entry(name, "profile", "power", draw(st.sampled_from(models))) for name in names))


@st.composite
def blocks(draw: st.DrawFn, schema: Schema, entry: int) -> Rows:
    """Rows of one entry: regular, irregular or wild times; good, dead or mixed qualities."""
    count = draw(st.integers(1, 8))
    first = draw(st.integers(0, 2**42))
    step = draw(st.integers(0, 10**6))
    regular = [first + step * row for row in range(count)]
    ts = draw(st.one_of(st.just(regular), st.lists(INT64, min_size=count, max_size=count)))
    own = schema.entries[entry].columns
    quality = bytearray(
        draw(
            st.one_of(
                st.just([0] * (count * len(own))),
                QUALITY.map(lambda code: [code] * (count * len(own))),
                st.lists(QUALITY, min_size=count * len(own), max_size=count * len(own)),
            )
        )
    )
    slots, texts = array("q"), []
    for row in range(count):
        for index, column in enumerate(own):
            valued = has_value(quality[row * len(own) + index])
            slots.append(draw(SLOTS[column.type]) if valued else 0)
            if column.type == "string":
                texts.append(draw(st.text(max_size=5)) if valued else None)
    return Rows(entry, array("q", ts), slots, quality, texts)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Schema, list[Rows]]:
    """A schema and rows of some of its entries."""
    schema = draw(schemas())
    chosen = draw(st.sets(st.integers(0, len(schema.entries) - 1)))
    return schema, [draw(blocks(schema, entry)) for entry in sorted(chosen)]
