"""The consumer: every batch once, whatever the broker does, and everything unusual told."""

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import MqttConnection
from parkfleet.protocols.payload.chain import Encoder
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.consumer import (
    BatchDecoded,
    Consumer,
    Duplicate,
    EventSeen,
    GapLost,
    GapSeen,
    Output,
    Reading,
    Rejected,
    SchemaWanted,
    StatusSeen,
    reading_json,
)
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.memory import Source, SqliteMemory
from parkfleet.protocols.payload.parts import pack_parts
from parkfleet.protocols.payload.request import REPLAY_EVENT, ReplayRequest, unpack_request
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows, Value
from parkfleet.protocols.payload.topics import Event, GatewayTopics, Status, subscriptions
from parkfleet.simulators.broker import RunningBroker
from tests.eventually import eventually

SCHEMA = Schema((Entry("m", "p", "power", (Column("v", "V", "int", "gauge"), Column("s", "", "string", "state"))),))
TOPICS = GatewayTopics("park", "gw")


def batch(seq: int, epoch: int = 1, count: int = 1, flags: int = 0) -> bytes:
    rows = Rows(0, array("q", [seq]), array("q", [seq * 10, 0]), bytearray(2), [f"text {seq}"])
    return Envelope(CODEC, SCHEMA.id, epoch, seq, count, flags, encode(SCHEMA, [rows])).pack()


def informed(memory: SqliteMemory | None = None, **settings: Any) -> Consumer:
    """A consumer that has the schema."""
    consumer = Consumer(memory, **settings)
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


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def gaps_of(outputs: list[Output]) -> list[tuple[int, int]]:
    return [gap for output in outputs if isinstance(output, GapSeen) for gap in output.gaps]


def test_gap_is_told_when_it_is_old() -> None:
    """A jump in seq may be a batch under way: a gap is told when nothing has come for a time, with its request."""
    clock = Clock()
    consumer = informed(clock=clock, gap_age=30)
    for seq in (1, 4, 8):
        assert kinds(consumer.feed(TOPICS.batch, batch(seq))) == ["BatchDecoded"]
    clock.now += 29
    assert consumer.due() == []
    clock.now += 1
    (gap,) = consumer.due()
    assert isinstance(gap, GapSeen)
    assert gap.gaps == ((2, 3), (5, 7))
    assert gap.request_topic == TOPICS.request
    assert unpack_request(gap.request) == ReplayRequest(epoch=1, ranges=[(2, 3), (5, 7)])


def test_gap_that_is_being_filled_is_under_way() -> None:
    """A backlog that comes in order beside fresh batches is no gap, however long it takes."""
    clock = Clock()
    consumer = informed(clock=clock, gap_age=30)
    consumer.feed(TOPICS.batch, batch(1))
    for old, fresh in zip(range(2, 50), range(50, 98), strict=True):
        clock.now += 20
        told = consumer.feed(TOPICS.batch, batch(fresh)) + consumer.feed(TOPICS.batch, batch(old))
        assert kinds(told) == ["BatchDecoded", "BatchDecoded"]


def test_gap_is_asked_for_again_after_pauses_that_double() -> None:
    """A gateway that is away is not asked every moment; when something comes the count begins anew."""
    clock = Clock()
    consumer = informed(clock=clock, gap_age=10)
    consumer.feed(TOPICS.batch, batch(1))
    consumer.feed(TOPICS.batch, batch(5))
    asked = []
    for second in range(200):
        clock.now = 1000.0 + second
        if gaps_of(consumer.due()):
            asked.append(second)
    assert asked == [10, 20, 40, 80, 160]
    consumer.feed(TOPICS.batch, batch(3))
    clock.now += 10
    assert gaps_of(consumer.due()) == [(2, 2), (4, 4)]


def test_gateway_says_that_batches_are_gone() -> None:
    """What the gateway has no more is told and not asked for again; should it come after all, it is taken."""
    clock = Clock()
    consumer = informed(clock=clock, gap_age=10)
    for seq in (1, 5):
        consumer.feed(TOPICS.batch, batch(seq))
    event = Event(7, REPLAY_EVENT, "", data={"epoch": 1, "gone": [[2, 3]]}).pack()
    lost, _ = consumer.feed(TOPICS.event, event)
    assert isinstance(lost, GapLost)
    assert lost.gaps == ((2, 3),)
    clock.now += 10
    assert gaps_of(consumer.due()) == [(4, 4)]
    assert kinds(consumer.feed(TOPICS.batch, batch(2))) == ["BatchDecoded"]
    clock.now += 10
    assert gaps_of(consumer.due()) == [(4, 4)]


def test_hostile_answer_gives_up_nothing_outside() -> None:
    """An answer about batches that never came, or of another epoch, changes nothing."""
    consumer = informed()
    consumer.feed(TOPICS.batch, batch(1))
    for data in ({"epoch": 1, "gone": [[1, 2**60]]}, {"epoch": 2, "gone": [[1, 5]]}, {"gone": "all"}, {"epoch": -1}):
        consumer.feed(TOPICS.event, Event(7, REPLAY_EVENT, "", data=data).pack())
    assert kinds(consumer.feed(TOPICS.batch, batch(2))) == ["BatchDecoded"]


def test_what_came_before_the_first_is_no_gap() -> None:
    """A consumer that joins at batch 5 misses nothing before it; of a later epoch it wants all, from 1 on."""
    clock = Clock()
    consumer = informed(clock=clock, gap_age=10)
    for seq in (5, 3, 6):
        assert kinds(consumer.feed(TOPICS.batch, batch(seq))) == ["BatchDecoded"]
    clock.now += 100
    assert consumer.due() == []
    consumer.feed(TOPICS.batch, batch(3, epoch=2))
    clock.now += 100
    assert gaps_of(consumer.due()) == [(1, 2)]


@given(st.permutations(range(1, 13)), st.integers(1, 12), st.lists(st.integers(1, 12), max_size=3))
def test_gaps_are_what_is_missing(order: list[int], count: int, gone: list[int]) -> None:
    """Whatever came in whatever order, gaps are what is between the first and the highest, less what is gone."""
    memory = SqliteMemory()
    source = Source("p", "g", 1)
    taken = order[:count]
    for seq in taken:
        assert memory.take(source, [(seq, seq)], 0.0) == [(seq, seq)]
        assert memory.take(source, [(seq, seq)], 0.0) == []
    memory.give_up(source, [(seq, seq) for seq in gone])
    found = {seq for told in memory.overdue(1.0, 10.0) for low, high in told.gaps for seq in range(low, high + 1)}
    assert found == set(range(taken[0], max(taken) + 1)) - set(taken) - set(gone)
    assert {s for low, high in memory.missing(source, 1, 12) for s in range(low, high + 1)} == set(order[count:])


def test_memory_over_a_restart(tmp_path: Path) -> None:
    """What was taken, and what is missing, is known after the consumer was started anew."""
    clock = Clock()
    consumer = informed(SqliteMemory(tmp_path / "m.db"), clock=clock, gap_age=10)
    for seq in (1, 2, 5):
        consumer.feed(TOPICS.batch, batch(seq))
    again = informed(SqliteMemory(tmp_path / "m.db"), clock=clock, gap_age=10)
    assert kinds(again.feed(TOPICS.batch, batch(2))) == ["Duplicate"]
    clock.now += 10
    assert gaps_of(again.due()) == [(3, 4)]


def test_consumers_that_share_a_memory(tmp_path: Path) -> None:
    """Two members of a shared subscription: each batch is taken by one, and one asks for a gap."""
    clock = Clock()
    one, two = (informed(SqliteMemory(tmp_path / "m.db"), clock=clock, gap_age=10) for _ in range(2))
    for seq in range(1, 9):
        assert kinds((one if seq % 2 else two).feed(TOPICS.batch, batch(seq))) == ["BatchDecoded"]
    clock.now += 20
    assert one.due() == [] == two.due()
    assert kinds(two.feed(TOPICS.batch, batch(1))) == ["Duplicate"]
    one.feed(TOPICS.batch, batch(11))
    clock.now += 10
    assert [gaps_of(one.due()), gaps_of(two.due())] == [[(9, 10)], []]


def test_batch_counts_when_it_is_stored(tmp_path: Path) -> None:
    """With confirm, a consumer that dies before it has stored a batch gets it again; one that is slow gets it once."""
    consumer = informed(SqliteMemory(tmp_path / "m.db"), confirm=True)
    (first,) = consumer.feed(TOPICS.batch, batch(1))
    assert isinstance(first, BatchDecoded)
    assert kinds(consumer.feed(TOPICS.batch, batch(1))) == ["Duplicate"]
    after_crash = informed(SqliteMemory(tmp_path / "m.db"), confirm=True)
    (again,) = after_crash.feed(TOPICS.batch, batch(1))
    assert isinstance(again, BatchDecoded)
    assert after_crash.stored(again)
    assert not consumer.stored(first)  # another one was faster: roll back
    (failed,) = consumer.feed(TOPICS.batch, batch(2))
    assert isinstance(failed, BatchDecoded)
    consumer.forget(failed)
    assert kinds(consumer.feed(TOPICS.batch, batch(2))) == ["BatchDecoded"]


def joined(first: int, count: int) -> bytes:
    """Batches first to first + count - 1 in one message, a row each."""
    seqs = range(first, first + count)
    slots = array("q", [x for seq in seqs for x in (seq * 10, 0)])
    rows = Rows(0, array("q", seqs), slots, bytearray(2 * count), [f"text {seq}" for seq in seqs])
    parts = pack_parts([[(count, 1)]])
    return Envelope(CODEC, SCHEMA.id, 1, first, count, 0, encode(SCHEMA, [rows]), parts).pack()


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), max_size=15))
def test_duplicates_are_dropped_in_part(messages: list[tuple[int, int]]) -> None:
    """However joined batches overlap, each row comes out once."""
    consumer = informed()
    rows = []
    for first, count in messages:
        payload = joined(first, count) if count > 1 else batch(first)
        for output in consumer.feed(TOPICS.batch, payload):
            assert not isinstance(output, Rejected)
            if isinstance(output, BatchDecoded):
                rows += [ts for block in output.rows for ts in block.ts]
    assert sorted(rows) == sorted({seq for first, count in messages for seq in range(first, first + count)})


def test_schema_that_does_not_come_is_asked_for() -> None:
    """A broker may have lost a retained schema: the gateway is asked, with pauses that double."""
    clock = Clock()
    consumer = Consumer(clock=clock, gap_age=10)
    consumer.feed(TOPICS.batch, batch(1))
    assert consumer.due() == []
    clock.now += 10
    (wanted,) = consumer.due()
    assert isinstance(wanted, SchemaWanted)
    assert unpack_request(wanted.request).schemas == [f"{SCHEMA.id:08x}"]
    clock.now += 10
    assert consumer.due() == []
    clock.now += 10
    assert len(consumer.due()) == 1


async def test_shared_subscription(broker: RunningBroker, tmp_path: Path) -> None:
    """Two members at a real broker get each batch once between them, and both know the schema."""
    publisher = await MqttConnection.open(BrokerConfig(broker.url), "gw")
    await publisher.publish(TOPICS.schema(SCHEMA.id), SCHEMA.pack(), retain=True)
    taken: list[tuple[int, int]] = []
    members = []
    for number in range(2):
        consumer = Consumer(SqliteMemory(tmp_path / "m.db"))

        def feed(topic: str, payload: bytes, _: bool, member: int = number, consumer: Consumer = consumer) -> None:
            found = consumer.feed(topic, payload)
            taken.extend((member, out.envelope.seq_first) for out in found if isinstance(out, BatchDecoded))

        connection = await MqttConnection.open(BrokerConfig(broker.url), f"member-{number}", on_message=feed)
        await connection.subscribe(*subscriptions(share="platform"))
        members.append(connection)
    for seq in range(1, 41):
        await publisher.publish(TOPICS.batch, batch(seq))
    await eventually(lambda: len(taken) >= 40)
    assert sorted(seq for _, seq in taken) == list(range(1, 41))
    assert {member for member, _ in taken} == {0, 1}
    for connection in (publisher, *members):
        await connection.close()


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


def test_chained_batches_are_decoded_and_a_lost_one_is_told() -> None:
    """A chained batch is known by its link; without the one before it is refused, not read wrongly, until a replay."""
    encoder = Encoder(SCHEMA, key_every=10)
    payloads, consumer = [], informed()
    for seq in range(1, 5):
        rows = Rows(0, array("q", [1000 * seq]), array("q", [230 + seq, 0]), bytearray(2), ["text"])
        codec, body = encoder.encode([rows])
        payloads.append(Envelope(codec, SCHEMA.id, 1, seq, 1, 0, body).pack())

    def fed(number: int) -> int | str:
        (output,) = consumer.feed(TOPICS.batch, payloads[number])
        if isinstance(output, BatchDecoded):
            return output.rows[0].slots[0]
        assert isinstance(output, Rejected)
        return output.reason

    assert [fed(0), fed(1)] == [231, 232]
    assert "one before it is missing" in str(fed(3))
    assert [fed(2), fed(3)] == [233, 234]


def test_refused_chained_batches_are_a_gap_at_once() -> None:
    """What cannot be read without the batch before is asked for with it, though no later batch has been taken."""
    encoder, now = Encoder(SCHEMA, key_every=100), [0.0]
    consumer = informed(clock=lambda: now[0], gap_age=30)
    for seq in range(1, 9):
        rows = Rows(0, array("q", [1000 * seq]), array("q", [230 + seq, 0]), bytearray(2), ["text"])
        codec, body = encoder.encode([rows])
        now[0] += 5
        if seq != 3:
            consumer.feed(TOPICS.batch, Envelope(codec, SCHEMA.id, 1, seq, 1, 0, body).pack())
    assert kinds(consumer.due()) == []  # the first was refused 20 s ago
    now[0] += 10
    (gap,) = consumer.due()
    assert isinstance(gap, GapSeen)
    assert gap.gaps == ((3, 8),)


def test_consumer_that_comes_into_a_chain_asks_for_what_it_could_not_read() -> None:
    """Its first message is a chained batch: it is a gap from that one on, not from seq 1."""
    encoder, now = Encoder(SCHEMA, key_every=100), [0.0]
    rows = [Rows(0, array("q", [1000]), array("q", [230, 0]), bytearray(2), ["text"])]
    sent = [encoder.encode(rows) for _ in range(3)]
    consumer = informed(clock=lambda: now[0], gap_age=30)
    for seq in (41, 42):
        codec, body = sent[seq - 40]
        consumer.feed(TOPICS.batch, Envelope(codec, SCHEMA.id, 1, seq, 1, 0, body).pack())
    now[0] += 31
    (gap,) = consumer.due()
    assert isinstance(gap, GapSeen)
    assert gap.gaps == ((41, 42),)
