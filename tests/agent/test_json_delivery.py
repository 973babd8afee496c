"""Delivery in JSON: what waits in the buffer goes out as scans, live, from the backlog, joined, split and replayed."""

import json
import sqlite3
from pathlib import Path

import pytest
import yaml

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.encoding import JOINED_READINGS
from parkfleet.agent.joining import join
from parkfleet.agent.room import Room
from parkfleet.agent.store import Rewrite, Span, Store
from parkfleet.protocols.config import BufferConfig, EncodingName
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, Reading
from parkfleet.protocols.payload.request import ReplayRequest
from parkfleet.protocols.payload.topics import SCANS_CONTENT_TYPE, SERIES_CONTENT_TYPE
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.moody_broker import MoodyBroker
from parkfleet.simulators.proxy import LinkProxy
from tests.agent.site import Site, stopped, subscribed
from tests.agent.test_forwarder import ENTRIES, LIMIT, SCHEMA, TOPICS, batch, forwarding, nothing_waits, rows_of
from tests.eventually import eventually

pytest_plugins = ["tests.agent.test_forwarder"]


def taken(broker: MoodyBroker) -> list[BatchDecoded]:
    """What a consumer makes of all that the broker acknowledged."""
    consumer = Consumer()
    outputs = [output for topic, payload in broker.taken for output in consumer.feed(topic, payload)]
    return [output for output in outputs if isinstance(output, BatchDecoded)]


def rows_taken(broker: MoodyBroker) -> list[tuple[int, int]]:
    """(number of the meter, ts) of every reading."""
    readings: list[Reading] = [reading for output in taken(broker) for reading in output.readings()]
    return sorted((int(reading.meter[1:]), reading.ts) for reading in readings)


async def test_backlog_and_live_batches_in_json(buffer: Buffer) -> None:
    """Each once, behind their series, on a topic and with a content type of their own; nothing on the compact one's."""
    for number in range(5):
        await buffer.append(batch(number))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port, encoding="json"):
        await nothing_waits(buffer)
        await buffer.append(batch(5))
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(*range(6))
        topics = [topic for topic, _ in broker.taken if topic not in (TOPICS.status, TOPICS.event)]
        assert topics == [TOPICS.series(SCHEMA.id), *[TOPICS.json] * 6]
        assert broker.content_types[TOPICS.json] == SCANS_CONTENT_TYPE
        assert broker.content_types[TOPICS.series(SCHEMA.id)] == SERIES_CONTENT_TYPE


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.usefixtures("hasty")
async def test_too_large_in_json_is_split(buffer: Buffer, announced: bool) -> None:
    """By the size that a message has, not by that of the stored batch."""
    limit = 12_000
    await buffer.append(batch(1, rows=20))

    def mood(topic: str, payload: bytes) -> int:
        return 0x95 if topic == TOPICS.json and len(payload) > limit else 0

    async with (
        MoodyBroker(mood, announced_bytes=limit if announced else 0) as broker,
        forwarding(buffer, broker.port, encoding="json"),
    ):
        await nothing_waits(buffer)
        assert rows_taken(broker) == rows_of(1, rows=20)
        assert len(taken(broker)) > 2


@pytest.mark.parametrize("encoding", ["compact", "json"])
async def test_replay_of_a_joined_batch_that_is_too_large(
    buffer: Buffer, tmp_path: Path, encoding: EncodingName
) -> None:
    """A broker that takes less now gets it in pieces of the same seqs, each marked; no loop."""
    store = joined_store(tmp_path / "b.db", 32)
    store.close()
    again = Buffer(tmp_path / "b.db", BufferConfig())
    await again.open()
    (epoch,) = await again.last_seqs()
    limit = LIMIT if encoding == "compact" else 10_000
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(again, broker.port, encoding=encoding):
        await nothing_waits(again)
    async with (
        MoodyBroker(lambda *_: 0, announced_bytes=limit) as broker,
        forwarding(again, broker.port, encoding=encoding) as running,
    ):
        await eventually(lambda: running.status.connected)
        assert (await running.replay(ReplayRequest(epoch=epoch, ranges=[(1, 32)]))).batches == 1
        await eventually(
            lambda: {s for b in taken(broker) for f, t in b.seqs for s in range(f, t + 1)} >= {*range(1, 33)}
        )
        assert rows_taken(broker) == rows_of(*range(32))
        assert all(output.envelope.replayed for output in taken(broker))
        assert broker.connections == 1
    await again.close()


def joined_store(path: Path, count: int) -> Store:
    """A buffer whose batches wait joined into one."""
    store = Store.open(path, 3600, 1 << 24)
    for number in range(count):
        store.append(batch(number))
    group = store.waiting(Span(), count)
    whole = join(SCHEMA, group)
    assert whole is not None
    assert store.rewrite(Rewrite(group, [(1, whole)], SCHEMA.id))
    return store


async def test_damaged_batch_cannot_be_said_and_holds_nothing_up(
    buffer: Buffer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, once; the others go."""
    for number in range(3):
        await buffer.append(batch(number))
    with sqlite3.connect(tmp_path / "b.db") as db:
        db.execute("UPDATE batches SET codec = 99 WHERE seq = 2")
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port, encoding="json"):
        await eventually(lambda: rows_taken(broker) == rows_of(0, 2))
        await buffer.append(batch(3))
        await eventually(lambda: rows_taken(broker) == rows_of(0, 2, 3))
    assert caplog.text.count("batch 2 of epoch") == 1


def test_outage_joins_no_more_than_a_slow_link_carries(tmp_path: Path) -> None:
    """In JSON a joined batch has at most a thousand readings."""
    store = Store.open(tmp_path / "b.db", 3600, 1 << 24)
    planner = Room(store, ("counter",), JOINED_READINGS["json"])
    for number in range(200):
        store.append(batch(number, rows=2), planner.next(quiet=True))
    joined = [row for row in store.waiting(Span(), 1000) if row.count > 1]
    assert joined
    assert max(row.readings for row in joined) == JOINED_READINGS["json"] == 2 * ENTRIES * 25


async def test_run_in_json_with_the_link_cut(site: Site, broker: RunningBroker, link: LinkProxy) -> None:
    """The whole way: every answered reading once, with its value, through an outage."""
    path = site.configure(link.port)
    path.write_text(path.read_text() + yaml.safe_dump({"encoding": "json"}))
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 2)
        await link.cut()
        await eventually(site.answers(20))
        link.mend()
        seen = subscriber.batches
        await eventually(lambda: subscriber.batches > seen + 2, 60)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_message_is_json_for_everybody(buffer: Buffer) -> None:
    """What any JSON reader sees: one object a meter scan, with the quality only where it is not good."""
    await buffer.append(batch(7))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, broker.port, encoding="json"):
        await nothing_waits(buffer)
    message = json.loads(next(payload for topic, payload in broker.taken if topic == TOPICS.json))
    assert [(scan["meter"], scan["seq"], scan["ts"]) for scan in message["scans"]] == [
        (f"m{n}", 1, 7000) for n in range(ENTRIES)
    ]
    assert all(set(scan) == {"epoch", "seq", "ts", "meter", "values"} for scan in message["scans"])
