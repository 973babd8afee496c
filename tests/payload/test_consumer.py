"""The consumer: every batch once, whatever the broker does, and everything unusual told."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.consumer import (
    BatchDecoded,
    Consumer,
    Duplicate,
    EventSeen,
    GapFilled,
    GapSeen,
    Output,
    Reading,
    Rejected,
    StatusSeen,
    reading_json,
)
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows, Value
from parkfleet.protocols.payload.topics import Event, GatewayTopics, Status

SCHEMA = Schema((Entry("m", "p", "power", (Column("v", "V", "int", "gauge"), Column("s", "", "string", "state"))),))
TOPICS = GatewayTopics("park", "gw")


def batch(seq: int, epoch: int = 1, count: int = 1, flags: int = 0) -> bytes:
    rows = Rows(0, array("q", [seq]), array("q", [seq * 10, 0]), bytearray(2), [f"text {seq}"])
    return Envelope(CODEC, SCHEMA.id, epoch, seq, count, flags, encode(SCHEMA, [rows])).pack()


def informed() -> Consumer:
    """A consumer that has the schema."""
    consumer = Consumer()
    assert consumer.feed(TOPICS.schema(SCHEMA.id), SCHEMA.pack()) == []
    return consumer


def kinds(outputs: list[Output]) -> list[str]:
    return [type(output).__name__ for output in outputs]


def test_batch_gives_its_readings() -> None:
    """A batch's readings carry all that a platform stores."""
    (decoded,) = informed().feed(TOPICS.batch, batch(3))
    assert isinstance(decoded, BatchDecoded)
    assert [tuple(reading) for reading in decoded.readings()] == [
        ("park", "gw", "m", "v", "V", 3, 30, "good", 1, 3),
        ("park", "gw", "m", "s", "", 3, "text 3", "good", 1, 3),
    ]


@given(st.lists(st.integers(1, 12), max_size=40))
def test_each_batch_is_taken_once_in_any_order(seqs: list[int]) -> None:
    """Whatever is repeated or reordered, each seq is decoded exactly once."""
    consumer = informed()
    taken = []
    for seq in seqs:
        for output in consumer.feed(TOPICS.batch, batch(seq)):
            if isinstance(output, BatchDecoded):
                taken.append(output.envelope.seq_first)
    assert sorted(taken) == sorted(set(seqs))


def test_gap_is_told_once_and_its_filling_too() -> None:
    """A jump in seq is a gap; what comes later is said to fill it."""
    consumer = informed()
    assert kinds(consumer.feed(TOPICS.batch, batch(1))) == ["BatchDecoded"]
    gap, decoded = consumer.feed(TOPICS.batch, batch(4))
    assert isinstance(gap, GapSeen)
    assert (gap.first, gap.last) == (2, 3)
    assert isinstance(decoded, BatchDecoded)
    assert kinds(consumer.feed(TOPICS.batch, batch(5))) == ["BatchDecoded"]
    filled, decoded = consumer.feed(TOPICS.batch, batch(2))
    assert isinstance(filled, GapFilled)
    assert (filled.first, filled.last) == (2, 2)


def test_what_came_before_the_first_is_no_gap() -> None:
    """A consumer that joins at batch 5 misses nothing; an earlier one that comes late is no gap's filling."""
    consumer = informed()
    assert kinds(consumer.feed(TOPICS.batch, batch(5))) == ["BatchDecoded"]
    assert kinds(consumer.feed(TOPICS.batch, batch(3))) == ["BatchDecoded"]
    assert kinds(consumer.feed(TOPICS.batch, batch(6))) == ["BatchDecoded"]


@given(st.permutations(range(1, 9)))
def test_gaps_told_less_gaps_filled_is_what_is_missing(order: list[int]) -> None:
    """At any moment the gaps that were told and not filled are what is missing behind the first batch."""
    consumer = informed()
    open_gaps: set[int] = set()
    for count, seq in enumerate(order, 1):
        for output in consumer.feed(TOPICS.batch, batch(seq)):
            if isinstance(output, GapSeen):
                open_gaps |= set(range(output.first, output.last + 1))
            if isinstance(output, GapFilled):
                assert open_gaps >= set(range(output.first, output.last + 1))
                open_gaps -= set(range(output.first, output.last + 1))
        assert open_gaps == set(range(order[0], max(order[:count]) + 1)) - set(order[:count])


def test_replayed_batch_says_so() -> None:
    """A batch that was asked for again is told apart; it counts like any other."""
    (decoded,) = informed().feed(TOPICS.batch, batch(1, flags=1))
    assert isinstance(decoded, BatchDecoded)
    assert decoded.envelope.replayed


def test_new_epoch_counts_anew() -> None:
    """The same seq of another epoch is another batch."""
    consumer = informed()
    consumer.feed(TOPICS.batch, batch(1, epoch=1))
    assert kinds(consumer.feed(TOPICS.batch, batch(1, epoch=2))) == ["BatchDecoded"]
    assert kinds(consumer.feed(TOPICS.batch, batch(1, epoch=1))) == ["Duplicate"]


def test_joined_batches_cover_their_range() -> None:
    """One message for several batches makes each of them a duplicate afterwards."""
    consumer = informed()
    assert kinds(consumer.feed(TOPICS.batch, batch(1, count=3))) == ["BatchDecoded"]
    assert isinstance(consumer.feed(TOPICS.batch, batch(2))[0], Duplicate)
    assert isinstance(consumer.feed(TOPICS.batch, batch(3, count=2))[0], Rejected)


def test_batch_before_its_schema_waits() -> None:
    """Batches whose schema is not yet known come out when it arrives, in order, once."""
    consumer = Consumer()
    assert consumer.feed(TOPICS.batch, batch(1)) == []
    assert kinds(consumer.feed(TOPICS.batch, batch(1))) == ["Duplicate"]
    assert consumer.feed(TOPICS.batch, batch(2)) == []
    assert kinds(consumer.feed(TOPICS.schema(SCHEMA.id), SCHEMA.pack())) == ["BatchDecoded", "BatchDecoded"]
    assert kinds(consumer.feed(TOPICS.batch, batch(2))) == ["Duplicate"]


def test_too_many_bytes_wait_for_a_schema() -> None:
    """What waits is bounded; what does not find room is told, and may come again."""
    consumer = Consumer()
    body = bytes(15 * 1024 * 1024)
    outputs = [
        consumer.feed(TOPICS.batch, Envelope(CODEC, SCHEMA.id, 1, seq, 1, 0, body).pack()) for seq in range(1, 6)
    ]
    assert [kinds(told) for told in outputs] == [[], [], [], [], ["Rejected"]]
    consumer.feed(TOPICS.schema(SCHEMA.id), SCHEMA.pack())
    assert kinds(consumer.feed(TOPICS.batch, batch(5))) == ["BatchDecoded"]


def test_schema_under_a_wrong_id_is_rejected() -> None:
    """A schema whose bytes are not those of its topic is never used to decode."""
    consumer = Consumer()
    assert kinds(consumer.feed(TOPICS.schema(SCHEMA.id ^ 1), SCHEMA.pack())) == ["Rejected"]
    assert consumer.feed(TOPICS.batch, batch(1)) == []


def test_damaged_batch_may_come_again() -> None:
    """A batch that cannot be decoded does not count as taken."""
    consumer = informed()
    bad = Envelope(CODEC, SCHEMA.id, 1, 1, 1, 0, b"\xff\xff").pack()
    assert kinds(consumer.feed(TOPICS.batch, bad)) == ["Rejected"]
    assert kinds(consumer.feed(TOPICS.batch, batch(1))) == ["BatchDecoded"]


def test_status_and_event() -> None:
    """Words about the gateway come out as such."""
    consumer = Consumer()
    (status,) = consumer.feed(TOPICS.status, Status("offline", 7).pack())
    assert isinstance(status, StatusSeen)
    assert status.status.state == "offline"
    (event,) = consumer.feed(TOPICS.event, Event(7, "gap", "a gap").pack())
    assert isinstance(event, EventSeen)


@given(st.sampled_from([TOPICS.batch, TOPICS.event, TOPICS.status, TOPICS.schema(SCHEMA.id), "other"]), st.binary())
def test_hostile_message(topic: str, payload: bytes) -> None:
    """Whatever a broker delivers, the consumer lives on."""
    consumer = informed()
    consumer.feed(topic, payload)
    assert kinds(consumer.feed(TOPICS.batch, batch(1))) == ["BatchDecoded"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (230.1, 230.1),
        (None, None),
        (float("nan"), None),
        (float("-inf"), None),
        ("Zähler", "Zähler"),
        (2**64 - 1, 2**64 - 1),
        (-(10**30), -1e30),
    ],
)
def test_reading_as_json(value: Value, told: Value) -> None:
    """One JSON object with every field, whatever the value is."""
    found = json.loads(reading_json(Reading("p", "g", "m", "v", "V", 5, value, "good", 7, 9)))
    assert found == {
        "park": "p", "gateway": "g", "meter": "m", "point": "v", "unit": "V",
        "ts": 5, "value": told, "quality": "good", "epoch": 7, "seq": 9,
    }  # fmt: skip
