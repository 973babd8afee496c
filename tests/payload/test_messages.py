"""Schema, envelope, topics and values: what they are, and what hostile ones become."""

import math
import struct
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, shortest_float32
from parkfleet.protocols.payload.topics import GatewayTopics, Status, Topic, parse_topic, unpack_event, unpack_status
from parkfleet.protocols.profile import Factor
from tests.payload.strategies import schemas

envelopes = st.builds(
    Envelope,
    codec=st.integers(0, 255),
    schema_id=st.integers(0, 2**32 - 1),
    epoch=st.integers(1, 2**32 - 1),
    seq_first=st.integers(1, 2**62 - 1),
    seq_count=st.integers(1, 1000),
    flags=st.integers(0, 1),
    body=st.binary(max_size=100),
)


@given(envelopes)
def test_envelope_comes_back(envelope: Envelope) -> None:
    """An envelope survives packing."""
    assert Envelope.unpack(envelope.pack()) == envelope


@given(st.one_of(st.binary(max_size=60), envelopes.map(Envelope.pack).map(lambda data: data[:-1] + b"\xc1")))
def test_envelope_hostile(data: bytes) -> None:
    """Any bytes are an envelope or a PayloadError."""
    try:
        Envelope.unpack(data)
    except PayloadError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not an envelope"),
        (b"\x01", "not an envelope: no array"),
        (b"\x91\x09", "envelope version 9: this decoder knows 1"),
        (b"\x91\xc3", "envelope version True: this decoder knows 1"),
        (b"\x92\x01\x01", "seven integers and a body"),
        (b"\x98\x01\x01\x00\x00\x01\x01\x00\xc4\x00", "out of its range"),
        (b"\xdd\xff\xff\xff\xff", "not an envelope"),
    ],
)
def test_envelope_wrong(data: bytes, told: str) -> None:
    """What is wrong is said."""
    with pytest.raises(PayloadError, match=told):
        Envelope.unpack(data)


@given(schemas())
def test_schema_comes_back_with_the_same_id(schema: Schema) -> None:
    """A schema survives packing, and equal schemas have equal bytes and ids."""
    again = Schema.unpack(schema.pack())
    assert again == schema
    assert (again.pack(), again.id) == (schema.pack(), schema.id)


@given(st.one_of(st.binary(max_size=100), schemas().map(Schema.pack).flatmap(lambda data: st.just(data[1:]))))
def test_schema_hostile(data: bytes) -> None:
    """Any bytes are a schema or a PayloadError."""
    try:
        Schema.unpack(data)
    except PayloadError as error:
        assert str(error)


def test_schema_of_equal_meters_is_small() -> None:
    """Two hundred equal meters cost their names only."""
    columns = tuple(Column(f"point_{n}", "V", "float32", "gauge") for n in range(50))
    one, many = (
        len(Schema(tuple(Entry(f"meter-{n:03}", "profile", "power", columns) for n in range(count))).pack())
        for count in (1, 200)
    )
    assert (many - one) / 199 < 30


def test_schema_with_equal_sets() -> None:
    """Column sets are told once: codec 1 remembers by set, and equal ones would be taken for one."""
    packed = [1, [[], []], [["m", "p", "power", 0], ["n", "p", "power", 1]]]
    with pytest.raises(PayloadError, match="same column set twice"):
        Schema.unpack(msgspec.msgpack.encode(packed))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (["p", "V", "complex", "gauge"], "complex"),
        (["p", "V", "int", "gauge", [1, 400, 0]], "impossible factor"),
        (["p", "V", "int", "gauge", [2**60, 0, 0]], "impossible factor"),
        (["p", "V", "float32", "gauge", [1, 0, 0], 200], "impossible factor"),
        (["p", 7, "int", "gauge"], "not a schema"),
    ],
)
def test_schema_with_an_impossible_column(column: list[object], told: str) -> None:
    """A column that no meter has is refused before anything is computed with it."""
    with pytest.raises(PayloadError, match=told):
        Schema.unpack(msgspec.msgpack.encode([1, [[column]], [["m", "p", "power", 0]]]))


def test_schema_of_too_many_entries() -> None:
    """A schema's size in memory is bounded."""
    packed = msgspec.msgpack.encode([1, [[]], [["", "", "", 0]] * 100_001])
    with pytest.raises(PayloadError, match="length <= 100000"):
        Schema.unpack(packed)


def test_schema_that_refers_to_nothing() -> None:
    """An entry without its column set is refused."""
    with pytest.raises(PayloadError, match="refers to a column set that it does not have"):
        Schema.unpack(b"\x93\x01\x90\x91\x94\xa1m\xa1p\xa1w\x05")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True), st.integers(0, 2**32 - 1))
def test_topics_come_back(name: str, schema_id: int) -> None:
    """Each topic a gateway uses is parsed to what it is."""
    topics = GatewayTopics("park", name)
    assert parse_topic(topics.batch) == Topic("park", name, "batch")
    assert parse_topic(topics.event) == Topic("park", name, "event")
    assert parse_topic(topics.status) == Topic("park", name, "status")
    assert parse_topic(topics.schema(schema_id)) == Topic("park", name, "schema", schema_id)


@pytest.mark.parametrize(
    "topic",
    [
        "pf/v1/park/gw",
        "pf/v2/park/gw/batch",
        "pf/v1/park/gw/other",
        "pf/v1//gw/batch",
        "pf/v1/+/gw/batch",
        "pf/v1/park/.gw/batch",
        "pf/v1/park/gw/batch/x",
        "pf/v1/park/gw/batch\n",
        f"pf/v1/{'p' * 65}/gw/batch",
        "pf/v1/park/gw/schema",
        "pf/v1/park/gw/schema/0x123456",
        "pf/v1/park/gw/schema/+1234567",
        "pf/v1/park/gw/schema/1234ABCD",
        "pf/v1/park/gw/schema/123456789",
    ],
)
def test_topic_wrong(topic: str) -> None:
    """What is no topic of ours is None, also where it is nearly one."""
    assert parse_topic(topic) is None


@given(st.text(max_size=60))
def test_topic_hostile(topic: str) -> None:
    """Other topics are None, never an error."""
    assert parse_topic(topic) is None or topic.startswith("pf/v1/")


@given(st.binary(max_size=60))
def test_json_messages_hostile(data: bytes) -> None:
    """Any bytes are a message or a PayloadError."""
    for unpack in (unpack_status, unpack_event):
        try:
            unpack(data)
        except PayloadError as error:
            assert str(error)


def test_status_reads_as_json() -> None:
    """The status is JSON that a person can read at the broker."""
    assert Status("online", 5, "1.0").pack() == b'{"state":"online","ts":5,"version":"1.0"}'


@given(st.integers(0, 2**32 - 1))
def test_shortest_float32_has_its_bits(bits: int) -> None:
    """The short decimal's nearest float32 is the meter's own; NaN stays NaN."""
    short = shortest_float32(bits)
    (exact,) = struct.unpack("<f", struct.pack("<I", bits))
    assert math.isnan(short) if math.isnan(exact) else struct.pack("<f", short) == struct.pack("<f", exact)


def test_shortest_float32_is_what_the_display_shows() -> None:
    """230.1 on the display is 230.1 for the consumer, not 230.10000610351562."""
    assert shortest_float32(0x4366_199A) == 230.1


@pytest.mark.parametrize(
    ("column", "slot", "value"),
    [
        (Column("p", "V", "int", "gauge", Factor(1, 1, 0)), 2301, 230.1),
        (Column("p", "°C", "int", "gauge", Factor(1, 1, -400)), 650, 25.0),
        (Column("p", "Wh", "int", "counter", Factor(10, 0, 0)), 7, 70),
        (Column("p", "", "uint64", "counter"), -1, 2**64 - 1),
        (Column("p", "V", "float32", "gauge", Factor(1, 1, 0)), 0x450F_D000, 230.1),
        (Column("p", "", "float64", "gauge"), 0x3FF8_0000_0000_0000, 1.5),
    ],
)
def test_value_of_a_slot(column: Column, slot: int, value: float) -> None:
    """value = (raw × multiply + add) / 10^decimals; integers stay integers where nothing is divided."""
    assert column.value(slot) == value
    assert type(column.value(slot)) is type(value)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=30), st.integers(0, 60), st.integers(0, 30))
def test_interval_set_is_a_set(ranges: list[tuple[int, int]], first: int, length: int) -> None:
    """The ranges remember exactly the numbers added, neither touch nor overlap, and know what is missing."""
    numbers: set[int] = set()
    intervals = IntervalSet()
    for start, more in ranges:
        intervals.add(start, start + more)
        numbers |= set(range(start, start + more + 1))
    assert {n for a, b in intervals for n in range(a, b + 1)} == numbers
    found = list(intervals)
    assert all(b + 1 < c for (_, b), (c, _) in pairwise(found))
    assert all((n in intervals) == (n in numbers) for n in range(-2, 80))
    missing = {n for a, b in intervals.missing(first, first + length) for n in range(a, b + 1)}
    assert missing == set(range(first, first + length + 1)) - numbers
