"""The forwarder: fresh batches first, everything once acknowledged, and a right answer to each refusal."""

import asyncio
import contextlib
import os
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from parkfleet.agent import delivery, forwarder, pace
from parkfleet.agent.buffer import Buffer
from parkfleet.agent.forwarder import Forwarder
from parkfleet.agent.store import NewBatch
from parkfleet.protocols.config import BrokerConfig, BufferConfig, EncodingName
from parkfleet.protocols.mqtt import MqttConnection
from parkfleet.protocols.payload.chain import CHAINED, KEY
from parkfleet.protocols.payload.codecs import CODEC, decode, encode
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, GapLost, GapSeen, Output, SchemaWanted
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from parkfleet.protocols.payload.topics import GatewayTopics, subscriptions
from parkfleet.protocols.quantity import Duration, Size
from parkfleet.simulators.broker import RunningBroker, running_broker
from parkfleet.simulators.moody_broker import MoodyBroker
from parkfleet.simulators.proxy import LinkProxy
from tests.eventually import eventually

TOPICS = GatewayTopics("park", "gw")
ENTRIES = 20
LIMIT = 1500  # bytes that a broker with small packets takes
SCHEMA = Schema(tuple(Entry(f"m{n}", "p", "power", (Column("v", "V", "float64", "gauge"),)) for n in range(ENTRIES)))


def batch(number: int, rows: int = 1) -> NewBatch:
    """Rows of each meter, of random bits: a codec cannot make them much smaller than 160 bytes a row of all."""
    blocks = [
        Rows(
            entry,
            array("q", [1000 * number + row for row in range(rows)]),
            array("q", [int.from_bytes(os.urandom(7), "big") for _ in range(rows)]),
            bytearray(rows),
        )
        for entry in range(ENTRIES)
    ]
    body = encode(SCHEMA, blocks)
    return NewBatch(SCHEMA.pack(), SCHEMA.id, CODEC, body, ENTRIES * rows, 1000 * number, 1000 * number + rows - 1)


def envelopes(broker: MoodyBroker) -> list[Envelope]:
    return [Envelope.unpack(payload) for topic, payload in broker.taken if topic == TOPICS.batch]


def rows_taken(broker: MoodyBroker) -> list[tuple[int, int]]:
    """(entry, ts) of every row that the broker acknowledged."""
    return sorted(
        (rows.entry, ts)
        for envelope in envelopes(broker)
        for rows in decode(envelope.codec, SCHEMA, envelope.body)
        for ts in rows.ts
    )


def rows_of(*numbers: int, rows: int = 1) -> list[tuple[int, int]]:
    return sorted((entry, 1000 * number + row) for entry in range(ENTRIES) for number in numbers for row in range(rows))


@pytest.fixture
async def buffer(tmp_path: Path) -> AsyncIterator[Buffer]:
    buffer = Buffer(tmp_path / "b.db", BufferConfig(flush=Duration(1), retain=Duration(3600), max_bytes=Size(1 << 24)))
    await buffer.open()
    yield buffer
    await buffer.close()


@contextlib.asynccontextmanager
async def forwarding(
    buffer: Buffer, port: int, ack_timeout: float = 5.0, key_every: int = 1, encoding: EncodingName = "compact"
) -> AsyncIterator[Forwarder]:
    """A forwarder that runs for the block."""
    config = BrokerConfig(f"mqtt://127.0.0.1:{port}", ack_timeout=Duration(ack_timeout), key_every=key_every)
    running = Forwarder(buffer, config, TOPICS, Path(), "0", encoding=encoding)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None, task


async def nothing_waits(buffer: Buffer) -> None:
    async def waiting() -> int:
        return (await buffer.stats()).batches

    while await waiting():  # noqa: ASYNC110  # what is waited for is itself asynchronous
        await asyncio.sleep(0.005)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after refusals that a test can wait for."""
    monkeypatch.setattr(pace, "BUSY_S", (0.02, 0.1))
    monkeypatch.setattr(pace, "FORBIDDEN_S", 0.1)


async def test_backlog_goes_in_order(buffer: Buffer) -> None:
    """What waited comes in the order of its seqs, each once, and the topic is said once."""
    for number in range(100):
        await buffer.append(batch(number))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port):
        await nothing_waits(buffer)
        assert [envelope.seq_first for envelope in envelopes(broker)] == list(range(1, 101))


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_receive_maximum_is_kept(buffer: Buffer, most: int) -> None:
    """However much waits, no more is in flight than the broker lets be: batches, schema, state and events together."""
    for number in range(30):
        await buffer.append(batch(number))
    held: list[str] = []

    def mood(topic: str, _: bytes) -> int | None:
        held.append(topic)
        return None

    async with MoodyBroker(mood, receive_maximum=most) as broker, forwarding(buffer, broker.port, 0.3):
        await eventually(lambda: broker.connections >= 2)
        assert 0 < len(held) <= most * broker.connections
    async with MoodyBroker(lambda *_: 0, receive_maximum=most) as broker, forwarding(buffer, broker.port):
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(*range(30))


async def test_session_and_alias_are_asked_for(buffer: Buffer) -> None:
    """The broker is to remember us for a day; the topic of batches is said once, and then by two bytes."""
    for number in range(10):
        await buffer.append(batch(number))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port):
        await nothing_waits(buffer)
        assert broker.session_expiry == forwarder.SESSION_EXPIRY_S
        assert broker.bare_topics == 9
        assert [topic for topic, _ in broker.taken].count(TOPICS.batch) == 10


async def test_live_goes_before_backlog(buffer: Buffer) -> None:
    """A batch that comes while a backlog is being sent does not wait for its end; the backlog stays in order."""
    for number in range(300):
        await buffer.append(batch(number))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port):
        await eventually(lambda: len(envelopes(broker)) > 20)
        await buffer.append(batch(1000))
        await nothing_waits(buffer)
        seqs = [envelope.seq_first for envelope in envelopes(broker)]
        assert seqs.index(301) < seqs.index(300)
        seqs.remove(301)
        assert seqs == list(range(1, 301))


async def test_live_batches_continue_each_other(buffer: Buffer) -> None:
    """With key_every 4 every fourth live batch stands alone; what waited, and the first after a reconnect, do too."""
    await buffer.append(batch(0))
    async with MoodyBroker(lambda *_: 0) as broker:
        for connection in range(2):
            async with forwarding(buffer, broker.port, key_every=4) as running:
                await eventually(lambda: running.status.connected)
                await nothing_waits(buffer)
                for number in range(1 + 6 * connection, 7 + 6 * connection):
                    await buffer.append(batch(number))
                    await nothing_waits(buffer)
        sent = envelopes(broker)
        assert [e.codec for e in sent] == [KEY, *[KEY, CHAINED, CHAINED, CHAINED, KEY, CHAINED] * 2]
        consumer = Consumer()
        consumer.feed(TOPICS.schema(SCHEMA.id), SCHEMA.pack())
        taken = [output for e in sent for output in consumer.feed(TOPICS.batch, e.pack())]
        decoded = [output for output in taken if isinstance(output, BatchDecoded)]
        assert sorted((r.entry, ts) for o in decoded for r in o.rows for ts in r.ts) == rows_of(*range(13))


async def test_schema_that_no_batch_has_is_taken_back(tmp_path: Path) -> None:
    """Its retained message is cleared, and it is sent again should a batch have it after all."""
    config = BufferConfig(flush=Duration(1), retain=Duration(0.001), max_bytes=Size(1 << 24))
    buffer = Buffer(tmp_path / "b.db", config)
    await buffer.open()
    old, new = batch(0), replace(batch(1), schema=Schema(SCHEMA.entries, (b"",)).pack(), schema_id=1)
    async with MoodyBroker(lambda *_: 0) as broker:
        for each in (old, new, new):  # each of them makes the ones before go, as nothing is retained
            async with forwarding(buffer, broker.port):
                await buffer.append(each)
                await nothing_waits(buffer)
        async with forwarding(buffer, broker.port):
            await eventually(lambda: (TOPICS.schema(SCHEMA.id), b"") in broker.taken)
            await buffer.append(old)
            await nothing_waits(buffer)
            sent = [payload for topic, payload in broker.taken if topic == TOPICS.schema(SCHEMA.id)]
            assert (sent[0], sent[-1]) == (old.schema, old.schema)
            assert (TOPICS.schema(1), b"") not in broker.taken
    await buffer.close()


@pytest.mark.usefixtures("hasty")
async def test_refused_batch_breaks_the_chain(buffer: Buffer) -> None:
    """What the broker refused comes again as a key: no consumer waits for what it will never have."""
    async with MoodyBroker(refusing_once(seq=3)) as broker, forwarding(buffer, broker.port, key_every=100) as running:
        await eventually(lambda: running.status.connected)
        for number in range(5):
            await buffer.append(batch(number))
            await nothing_waits(buffer)
        sent = [(envelope.seq_first, envelope.codec) for envelope in envelopes(broker)]
        assert sent == [(1, KEY), (2, CHAINED), (3, KEY), (4, CHAINED), (5, CHAINED)]


async def test_request_for_a_gap_breaks_the_chain(buffer: Buffer) -> None:
    """Who has lost a batch can read none that continues it: the replay is a key, and so is the next live batch."""
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port, key_every=100) as running:
        await eventually(lambda: running.status.connected)
        for number in range(3):
            await buffer.append(batch(number))
            await nothing_waits(buffer)
        await running.replay(ReplayRequest(epoch=envelopes(broker)[0].epoch, ranges=[(2, 2)]))
        await eventually(lambda: len(envelopes(broker)) == 4)
        for number in range(3, 5):
            await buffer.append(batch(number))
            await nothing_waits(buffer)
        sent = [(envelope.seq_first, envelope.codec) for envelope in envelopes(broker)]
        assert sent == [(1, KEY), (2, CHAINED), (3, CHAINED), (2, KEY), (4, KEY), (5, CHAINED)]


def refusing_once(seq: int) -> Callable[[str, bytes], int]:
    """A broker that is over its quota when it first gets this batch."""
    refused = False

    def mood(topic: str, payload: bytes) -> int:
        nonlocal refused
        if not refused and topic == TOPICS.batch and Envelope.unpack(payload).seq_first == seq:
            refused = True
            return 0x97
        return 0

    return mood


async def test_flight_is_bounded(buffer: Buffer, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that acknowledges nothing gets no more than the window."""
    for number in range(200):
        await buffer.append(batch(number))
    heard: list[bytes] = []

    def mood(topic: str, payload: bytes) -> int | None:
        if topic == TOPICS.batch:
            heard.append(payload)
            return None
        return 0

    async with MoodyBroker(mood) as broker, forwarding(buffer, broker.port, 0.3):
        await eventually(lambda: broker.connections >= 2)
        assert "acknowledged nothing for 0.3 s" in caplog.text
        assert 0 < len(heard) <= delivery.WINDOW * broker.connections
    assert (await buffer.stats()).batches == 200


async def test_silence_is_noticed_while_batches_keep_coming(buffer: Buffer) -> None:
    """New batches do not put off the moment at which a broker that acknowledges nothing is given up."""
    async with (
        MoodyBroker(lambda topic, _: 0 if topic != TOPICS.batch else None) as broker,
        forwarding(buffer, broker.port, 0.5) as running,
    ):

        async def append_for_ever() -> None:
            while True:
                await buffer.append(batch(1))
                await asyncio.sleep(0.05)  # a scan's interval, shorter than the time-out

        appending = asyncio.create_task(append_for_ever())
        await eventually(lambda: "acknowledged nothing" in running.status.told)
        appending.cancel()
        await asyncio.wait([appending])


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x97, 0x99])
async def test_refused_batch_goes_again_after_a_pause(buffer: Buffer, code: int) -> None:
    """A refusal is told, keeps the connection, loses nothing, and is no loop: few tries until it is taken back."""
    for number in range(50):
        await buffer.append(batch(number))
    refusing = True

    def mood(topic: str, payload: bytes) -> int:
        return code if refusing and topic == TOPICS.batch and Envelope.unpack(payload).seq_first > 20 else 0

    async with MoodyBroker(mood) as broker, forwarding(buffer, broker.port) as running:
        await eventually(lambda: running.status.refused > 3)
        await eventually(lambda: f"0x{code:02x}" in running.status.told)
        refusing = False
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(*range(50))
        assert broker.connections == 1
        assert running.status.told == ""


async def test_forbidden_is_not_tried_in_a_loop(buffer: Buffer) -> None:
    """Not authorised: one window of batches is refused, then nothing for a long pause."""
    for number in range(200):
        await buffer.append(batch(number))
    async with (
        MoodyBroker(lambda topic, _: 0x87 if topic == TOPICS.batch else 0) as broker,
        forwarding(buffer, broker.port) as running,
    ):
        await eventually(lambda: running.status.refused)
        await buffer.append(batch(1000))
        await eventually(lambda: "Not authorized" in running.status.told)
        assert broker.refused <= delivery.WINDOW


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("announced", [True, False])
async def test_too_large_is_split(buffer: Buffer, announced: bool) -> None:
    """A batch that the broker does not take goes in pieces, every row once; a known limit is kept at once."""
    for number in range(3):
        await buffer.append(batch(number, rows=20))

    def mood(topic: str, payload: bytes) -> int:
        return 0x95 if topic == TOPICS.batch and len(payload) > LIMIT else 0

    async with (
        MoodyBroker(mood, announced_bytes=LIMIT if announced else 0) as broker,
        forwarding(buffer, broker.port),
    ):
        if not announced:
            await eventually(lambda: broker.refused)
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(0, 1, 2, rows=20)
        assert (broker.refused == 0) is announced
        seqs = sorted(envelope.seq_first for envelope in envelopes(broker))
        assert seqs == list(range(1, len(seqs) + 1))


async def test_replay_by_seq_and_by_time(buffer: Buffer) -> None:
    """Acknowledged batches go again, marked, once for each request; what is not there is said to be gone."""
    for number in range(10):
        await buffer.append(batch(number))
    (epoch,) = await buffer.last_seqs()
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port) as running:
        await nothing_waits(buffer)
        broker.taken.clear()
        answer = await running.replay(ReplayRequest(epoch=epoch, ranges=[(3, 4), (9, 20)]))
        assert answer == ReplayAnswer(epoch, 4, [])
        await eventually(lambda: running.status.replayed == 4)
        assert [envelope.seq_first for envelope in envelopes(broker)] == [3, 4, 9, 10]
        assert all(envelope.replayed for envelope in envelopes(broker))
        assert await running.replay(ReplayRequest(since=5000, until=6000)) == ReplayAnswer(0, 2, [])
        await eventually(lambda: running.status.replayed == 6)
        assert await running.replay(ReplayRequest(epoch=epoch ^ 1, ranges=[(1, 2)])) == ReplayAnswer(
            epoch ^ 1, 0, [(1, 2)]
        )
        await buffer.append(batch(10))
        await nothing_waits(buffer)
        assert running.status.batches == 11


async def test_replay_goes_on_over_a_broken_connection(buffer: Buffer) -> None:
    """What was asked for is sent until it is acknowledged, whatever ends the connection."""
    for number in range(40):
        await buffer.append(batch(number))
    (epoch,) = await buffer.last_seqs()
    async with (
        MoodyBroker(lambda *_: 0) as broker,
        LinkProxy("127.0.0.1", broker.port) as link,
        forwarding(buffer, link.port, 0.5) as running,
    ):
        await nothing_waits(buffer)
        broker.taken.clear()
        link.silence()
        await running.replay(ReplayRequest(epoch=epoch, ranges=[(1, 40)]))
        await eventually(lambda: not running.status.connected)
        link.mend()
        await eventually(lambda: running.status.replayed == 40)
        assert {envelope.seq_first for envelope in envelopes(broker)} == set(range(1, 41))


async def test_consumer_asks_for_what_the_broker_lost(buffer: Buffer, broker: RunningBroker) -> None:
    """Batches that a broker acknowledged and lost are asked for by the consumer, and come; so does a lost schema."""
    taken: list[BatchDecoded] = []
    lost: list[GapLost] = []
    requests: list[tuple[str, bytes]] = []
    consumer = Consumer(gap_age=0.2)

    def feed(topic: str, payload: bytes) -> None:
        envelope = Envelope.unpack(payload) if topic == TOPICS.batch else None
        if envelope and not envelope.replayed and 3 <= envelope.seq_first <= 5:
            return  # this is what a broker does that is killed 0.2 s after it has acknowledged
        if topic.startswith(f"{TOPICS.base}/schema") and len(requests) == 0:
            return
        take(consumer.feed(topic, payload))

    def take(outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case BatchDecoded():
                    taken.append(output)
                case GapLost():
                    lost.append(output)
                case GapSeen() | SchemaWanted():
                    requests.append((output.request_topic, output.request))
                    connection.publish(*requests[-1])

    connection = await MqttConnection.open(
        BrokerConfig(broker.url), "consumer", on_message=lambda topic, payload, _: feed(topic, payload)
    )
    await connection.subscribe(*subscriptions())
    for number in range(10):
        await buffer.append(batch(number))
    async with forwarding(buffer, broker.port):

        def healed() -> bool:
            take(consumer.due())
            return len(taken) == 10

        await eventually(healed)
        assert sorted(b.envelope.seq_first for b in taken) == list(range(1, 11))
        assert lost == []
        await buffer.append(batch(11))
        await eventually(lambda: len(taken) == 11)
    await connection.close()


async def test_broker_that_lets_nobody_subscribe(buffer: Buffer, caplog: pytest.LogCaptureFixture) -> None:
    """Without the right to hear requests batches go all the same, and it is told."""
    await buffer.append(batch(1))
    async with MoodyBroker(lambda *_: 0, subscribe_code=0x87) as broker, forwarding(buffer, broker.port):
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(1)
        assert "does not let us hear requests" in caplog.text


async def test_hostile_request(buffer: Buffer, broker: RunningBroker) -> None:
    """Whatever stands on the request topic, the forwarder lives on."""
    stranger = await MqttConnection.open(BrokerConfig(broker.url), "stranger")
    async with forwarding(buffer, broker.port) as running:
        await eventually(lambda: running.status.connected)
        for payload in (b"", b"{}", b"\xff", b"[" * 70_000, b'{"epoch":1,"ranges":[[1,4611686018427387903]]}'):
            await stranger.publish(TOPICS.request, payload)
        for number in range(3):
            await buffer.append(batch(number))
        await nothing_waits(buffer)
    await stranger.close()


async def test_connection_refused_by_code(buffer: Buffer) -> None:
    """A broker that does not let us in is told and not pressed."""
    async with MoodyBroker(lambda *_: 0, connect_code=0x87) as broker, forwarding(buffer, broker.port) as running:
        await eventually(lambda: "refuses us: Not authorized" in running.status.told)
        await buffer.append(batch(1))
        assert broker.connections == 1


async def test_broker_that_breaks_off_at_large_packets(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some brokers close the connection without a word: after a few times the batch is made smaller."""
    monkeypatch.setattr(forwarder, "SUSPECT", (2, LIMIT))
    await buffer.append(batch(1, rows=20))

    class Closing(MoodyBroker):
        def _answer(self, kind: int, body: bytes, aliases: dict[int, str]) -> bytes:
            return b"" if kind == 3 and len(body) > LIMIT else super()._answer(kind, body, aliases)

    async with Closing(lambda *_: 0) as broker, forwarding(buffer, broker.port):
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(1, rows=20)


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize("setting", ["max_packet_size", "message_size_limit"])
async def test_mosquitto_with_a_limit(
    buffer: Buffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """The real broker's two limits, one announced and one not: what is larger goes in pieces."""
    monkeypatch.setattr(forwarder, "SUSPECT", (2, LIMIT))
    await buffer.append(batch(1, rows=20))
    async with (
        running_broker(tmp_path, extra=f"{setting} {LIMIT}") as broker,
        forwarding(buffer, broker.port) as running,
    ):
        await nothing_waits(buffer)
        assert running.status.readings == 20 * ENTRIES


async def test_reconnect_after_short_cut(buffer: Buffer) -> None:
    """After a cut the connection is made again and what came meanwhile arrives."""
    async with (
        MoodyBroker(lambda *_: 0) as broker,
        LinkProxy("127.0.0.1", broker.port) as link,
        forwarding(buffer, link.port) as running,
    ):
        await buffer.append(batch(0))
        await nothing_waits(buffer)
        await link.cut()
        await eventually(lambda: not running.status.connected)
        await buffer.append(batch(1))
        link.mend()
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(0, 1)


def test_reconnect_pause_follows_the_outage() -> None:
    """The pause is at most a quarter of the outage: 8 s are over 2 s after the link's return; and it is bounded."""
    assert pace.reconnect_pause(8, lambda: 1.0) == 2.0
    assert pace.reconnect_pause(0, lambda: 1.0) == 0.25
    assert pace.reconnect_pause(1e6, lambda: 1.0) == 30.0
    assert pace.reconnect_pause(8, lambda: 0.0) == 0.0


def test_refusal_pause_doubles_and_never_vanishes() -> None:
    """Quota: from half a second on, doubled, to a minute. Not authorised: long at once."""
    quota = [pace.refusal_pause(0x97, tries, lambda: 1.0) for tries in range(1, 9)]
    assert quota == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pace.refusal_pause(0x97, 1, lambda: 0.0) == 0.5
    assert pace.refusal_pause(0x87, 1, lambda: 0.0) == 30


def test_backlog_pace_yields() -> None:
    """While round trips are short the window grows to its limit; when they grow it shrinks to one."""
    paced = pace.BacklogPace(31)
    now = 0.0
    for _ in range(2000):
        now += 0.01
        paced.acknowledged(0.02, now)
    assert paced.window == 31
    for _ in range(2000):
        now += 0.01
        paced.acknowledged(0.5, now)
    assert paced.window == 1
