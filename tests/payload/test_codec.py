"""Codec 1, compiled and pure: bit-exact both ways, the same bytes from both, and no harm from hostile bodies."""

import os
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
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.payload.strategies import batches, float32_bits

CODECS = [delta, delta_native]


@pytest.fixture(params=CODECS, ids=["pure", "native"])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@given(batches())
def test_decode_gives_back_what_was_encoded(batch: tuple[Schema, list[Rows]]) -> None:
    """Every slot, quality, time and text comes back to the bit; both encoders write the same bytes."""
    schema, rows = batch
    body = delta.encode(schema, rows)
    assert delta_native.encode(schema, rows) == body
    assert delta.decode(schema, body) == rows
    assert delta_native.decode(schema, body) == rows


@settings(max_examples=500)
@given(batches(), st.data())
def test_damaged_body_is_refused_or_read_alike(batch: tuple[Schema, list[Rows]], data: st.DataObject) -> None:
    """A body with bytes changed, cut or added is a PayloadError or rows, the same from both decoders."""
    schema, rows = batch
    body = bytearray(delta.encode(schema, rows))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.integers(0, 2)):
            case 0:
                del body[at:]
            case 1:
                body[at:at] = data.draw(st.binary(max_size=4))
            case _:
                body[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
    assert outcome(delta, schema, bytes(body)) == outcome(delta_native, schema, bytes(body))


@settings(max_examples=500)
@given(st.binary(max_size=200), batches())
def test_random_body(body: bytes, batch: tuple[Schema, list[Rows]]) -> None:
    """Random bytes never do more than raise PayloadError."""
    schema, _ = batch
    assert outcome(delta, schema, body) == outcome(delta_native, schema, body)


def outcome(codec: ModuleType, schema: Schema, body: bytes) -> list[Rows] | None:
    try:
        rows: list[Rows] = codec.decode(schema, body)
    except PayloadError as error:
        assert str(error)
        return None
    return rows


def schema_of(*columns: Column) -> Schema:
    return Schema((Entry("m", "p", "power", columns),))


def rows_of(*slots: list[int], quality: int = 0) -> Rows:
    """Rows at one-second steps; slots: a list for each row."""
    flat = array("q", [slot for row in slots for slot in row])
    ts = array("q", [1_700_000_000_000 + 1000 * row for row in range(len(slots))])
    return Rows(0, ts, flat, bytearray([quality] * len(flat)))


def test_steady_meter_costs_nothing_more(codec: ModuleType) -> None:
    """Regular times and values that stay cost the same for ten rows and for ten thousand, within three bytes."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(10)])
    sizes = [len(codec.encode(schema, [rows_of(*[[float32_bits(230.1)] * 10] * count)])) for count in (10, 10_000)]
    assert sizes[1] - sizes[0] <= 3 + 10  # the count of rows, and of zeros in each column


def test_dead_meter_costs_a_few_bytes(codec: ModuleType) -> None:
    """A minute of a silent meter is its times and one cause."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(30)])
    assert len(codec.encode(schema, [rows_of(*[[0] * 30] * 60, quality=1)])) <= 16


def test_decimal_floats_become_integers(codec: ModuleType) -> None:
    """A float32 that is a decimal in truth costs what its change costs, not four bytes."""
    schema = schema_of(Column("voltage", "V", "float32", "gauge", digits=1))
    rows = rows_of(*[[float32_bits(230.0 + n / 10)] for n in range(100)])
    assert len(codec.encode(schema, [rows])) <= 120


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63])
def test_body_that_would_be_huge(codec: ModuleType, count: int) -> None:
    """A few bytes that stand for more readings than a batch may hold are refused before memory is taken."""
    schema = schema_of(*[Column(f"p{n}", "V", "int", "gauge") for n in range(100)])
    body = bytearray([1, 0])
    from parkfleet.protocols.payload.varint import put

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
        f"assert decode({CODEC}, Schema(()), b'\\0') == []\n"
        "assert not [name for name in sys.modules if name.startswith('parkfleet.native.')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PARKFLEET_PURE": "1"}, timeout=60)
