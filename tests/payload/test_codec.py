"""Codec 1, compiled and pure: bit-exact both ways, the same bytes from both, and no harm from hostile bodies."""

import os
import random
import subprocess
import sys
from array import array
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.protocols.payload import delta, delta_native
from parkfleet.protocols.payload.codecs import CODEC, decode
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import MAX_READINGS, Column, Entry, Rows
from parkfleet.protocols.payload.varint import put
from tests.payload.strategies import batches, float32_bits, schemas

CODECS = [delta, delta_native]


@pytest.fixture(params=CODECS, ids=["pure", "native"])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@settings(max_examples=500)
@given(batches())
def test_decode_gives_back_what_was_encoded(batch: tuple[Schema, list[Rows]]) -> None:
    """Every slot, quality, time and text comes back to the bit; both encoders write the same bytes."""
    schema, rows = batch
    body = delta.encode(schema, rows)
    assert delta_native.encode(schema, rows) == body
    assert delta.decode(schema, body) == rows
    assert delta_native.decode(schema, body) == rows


@settings(max_examples=500)
@given(batches(), st.integers(0, 2**32))
def test_damaged_body_is_refused_or_read_alike(batch: tuple[Schema, list[Rows]], seed: int) -> None:
    """A body with bytes changed, cut or added is a PayloadError or rows, the same from both decoders."""
    schema, rows = batch
    body = delta.encode(schema, rows)
    chance = random.Random(seed)
    for _ in range(8):
        bad = damaged(body, chance)
        assert outcome(delta, schema, bad) == outcome(delta_native, schema, bad)


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=100), min_size=1, max_size=8), schemas())
def test_random_body(bodies: list[bytes], schema: Schema) -> None:
    """Random bytes never do more than raise PayloadError."""
    for body in bodies:
        assert outcome(delta, schema, body) == outcome(delta_native, schema, body)


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with one to three things wrong."""
    bad = bytearray(body)
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(bad))
        match chance.randint(0, 2):
            case 0:
                del bad[at:]
            case 1:
                bad[at:at] = chance.choice([b"\0", b"\xff", b"\x80", b"\xff\xff\xff\xff\x0f"])
            case _:
                bad[at : at + 1] = bytes([chance.randint(0, 255)])
    return bytes(bad)


def outcome(codec: ModuleType, schema: Schema, body: bytes) -> list[Rows] | str:
    """The rows, or what is wrong with the body."""
    try:
        rows: list[Rows] = codec.decode(schema, body)
    except PayloadError as error:
        return str(error)
    return rows


def schema_of(*columns: Column) -> Schema:
    return Schema((Entry("m", "p", "power", columns),))


def rows_of(*slots: list[int], quality: int = 0) -> Rows:
    """Rows at one-second steps; slots: a list for each row."""
    flat = array("q", [slot for row in slots for slot in row])
    ts = array("q", [1_700_000_000_000 + 1000 * row for row in range(len(slots))])
    return Rows(0, ts, flat, bytearray([quality] * len(flat)))


def test_steady_meter_costs_nothing_more(codec: ModuleType) -> None:
    """Regular times and values that stay cost the same for ten rows and for ten thousand, but for the counts."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(10)])
    sizes = [len(codec.encode(schema, [rows_of(*[[float32_bits(230.1)] * 10] * count)])) for count in (10, 10_000)]
    assert sizes[1] - sizes[0] <= 2 + 10  # the count of rows, and of zeros in each column


def test_dead_meter_costs_a_few_bytes(codec: ModuleType) -> None:
    """A minute of a silent meter is its times and one cause."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(30)])
    alone = codec.encode(schema, [rows_of(*[[0] * 30] * 60, quality=1)])
    assert len(alone) <= 16


def test_meter_that_falls_silent_costs_a_few_bytes(codec: ModuleType) -> None:
    """From one row on every point is without a value: two runs along the rows, not two for each point."""
    schema = schema_of(*[Column(f"p{n}", "V", "int", "gauge") for n in range(30)])
    rows = rows_of(*[[7] * 30] * 60)
    steady = len(codec.encode(schema, [rows]))
    rows.quality[30 * 20 :] = bytes([1]) * 30 * 40
    rows.slots[30 * 20 :] = array("q", [0]) * 30 * 40
    assert len(codec.encode(schema, [rows])) <= steady + 6


def test_sick_point_costs_a_few_bytes(codec: ModuleType) -> None:
    """One point that never has a value: three runs down the columns, not three for each row."""
    schema = schema_of(*[Column(f"p{n}", "V", "int", "gauge") for n in range(30)])
    rows = rows_of(*[[7] * 30] * 60)
    steady = len(codec.encode(schema, [rows]))
    rows.quality[5::30] = bytes([4]) * 60
    rows.slots[5::30] = array("q", [0]) * 60
    assert len(codec.encode(schema, [rows])) <= steady + 9


def test_decimal_floats_become_integers(codec: ModuleType) -> None:
    """A float32 that is a decimal in truth costs what its change costs, not four bytes."""
    schema = schema_of(Column("voltage", "V", "float32", "gauge", digits=1))
    rows = rows_of(*[[float32_bits(230.0 + n / 10)] for n in range(100)])
    assert len(codec.encode(schema, [rows])) <= 117


def test_equal_meters_cost_their_difference(codec: ModuleType) -> None:
    """One scan of the second of two equal meters begins near the first one's values."""
    columns = tuple(Column(f"p{n}", "V", "float32", "gauge", digits=1) for n in range(10))
    schema = Schema(tuple(Entry(name, "p", "power", columns) for name in ("m1", "m2")))
    first, second = (
        Rows(entry, array("q", [1_700_000_000_000]), array("q", [float32_bits(value)] * 10), bytearray(10))
        for entry, value in enumerate((230.1, 229.4))
    )
    one, both = codec.encode(schema, [first]), codec.encode(schema, [first, second])
    assert len(both) - len(one) == 4 + 10


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([Rows(0)], "each with a row or more"),
        ([rows_of([1]), rows_of([1])], "by entry ascending"),
        ([Rows(0, array("q", [1]), array("q", [1, 2]), bytearray(1))], "do not fit together"),
        ([Rows(0, array("q", [1]), array("q", [1]), bytearray(2))], "do not fit together"),
        ([Rows(0, array("q", [1]), array("q", [1]), bytearray(1), ["text"])], "do not fit together"),
    ],
)
def test_rows_without_sense(codec: ModuleType, rows: list[Rows], told: str) -> None:
    """Rows that break the interface are refused, not read beyond their end."""
    with pytest.raises(ValueError, match=told):
        codec.encode(schema_of(Column("p", "V", "int", "gauge")), rows)


def test_more_readings_than_a_batch_holds(codec: ModuleType) -> None:
    """What no decoder would take is not written."""
    count = MAX_READINGS + 1
    rows = Rows(0, array("q", bytes(8 * count)), array("q", bytes(8 * count)), bytearray(count))
    with pytest.raises(ValueError, match="more"):
        codec.encode(schema_of(Column("p", "V", "int", "gauge")), [rows])


def test_long_text_is_cut_between_characters(codec: ModuleType) -> None:
    """A text longer than any point has loses its end, not the batch."""
    schema = schema_of(Column("p", "", "string", "state"))
    rows = Rows(0, array("q", [1]), array("q", [0]), bytearray(1), ["é" * 300 + "x"])
    (again,) = codec.decode(schema, codec.encode(schema, [rows]))
    assert again.texts == ["é" * 256]


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63])
def test_body_that_would_be_huge(codec: ModuleType, count: int) -> None:
    """A few bytes that stand for more readings than a batch may hold are refused before memory is taken."""
    schema = schema_of(*[Column(f"p{n}", "V", "int", "gauge") for n in range(100)])
    body = bytearray([1, 0])
    put(body, count)
    with pytest.raises(PayloadError, match="readings together"):
        codec.decode(schema, bytes(body) + bytes(20))


def test_unknown_codec() -> None:
    """A batch of a newer codec is told as such."""
    with pytest.raises(PayloadError, match="codec 99: this decoder knows 1"):
        decode(99, schema_of(), b"\0")


def test_pure_codec_needs_nothing_compiled() -> None:
    """With PARKFLEET_PURE=1 a consumer decodes without any compiled module of ours."""
    program = (
        "import sys\n"
        "from parkfleet.protocols.payload.codecs import decode\n"
        "from parkfleet.protocols.payload.schema import Schema\n"
        f"assert decode({CODEC}, Schema(()), b'') == []\n"
        "assert not [name for name in sys.modules if name.startswith('parkfleet.native.')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PARKFLEET_PURE": "1"}, timeout=60)
