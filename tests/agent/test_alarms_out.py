"""The way of an alarm: from the meter's registers to the broker, ahead of batches, over outages and kill -9."""

import asyncio
import contextlib
import struct
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import yaml

from parkfleet.agent import pace
from parkfleet.agent.alarm import AlarmState
from parkfleet.agent.buffer import Buffer
from parkfleet.agent.control_client import connected
from parkfleet.agent.events import Events
from parkfleet.agent.forwarder import Forwarder
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.config import BrokerConfig, BufferConfig
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer
from parkfleet.protocols.payload.topics import Event, GatewayTopics, unpack_event
from parkfleet.protocols.profile import Table
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.moody_broker import MoodyBroker
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.record import AnswerRecord
from tests.agent.conftest import SMALL
from tests.agent.site import Site, running, subscribed
from tests.agent.test_forwarder import TOPICS, batch
from tests.eventually import eventually

HIGH = {"id": "high", "kind": "limit", "points": ["voltage_l1"], "above": 100, "priority": True}

#: Would send a batch an hour.
GATEWAY = {"park": "park", "gateway": "gw", "profile": "small", "buffer": {"flush": "1h"}}


class Dial(SimulatedMeter):
    """A meter whose registers the test sets."""

    def __init__(self, unit: int = 1) -> None:
        super().__init__(SMALL, unit, load_of("power", unit))
        self.volts = 0.0

    def read(self, table: Table, address: int, count: int, time: float) -> "array[int]":
        """voltage_l1 stands in the first two input registers; everything else is 0."""
        words = [*struct.unpack(">HH", struct.pack(">f", self.volts)), 0, 0]
        return array("H", words[address : address + count] if table == "input" else [0] * count)


def events_in(broker: MoodyBroker) -> list[Event]:
    return [unpack_event(payload) for topic, payload in broker.taken if topic == TOPICS.event]


def rule_events(events: list[Event]) -> list[tuple[str, str]]:
    """(kind, rule) of those that rules made."""
    return [(event.kind, event.data["rule"]) for event in events if event.kind.startswith("rule-")]


async def test_alarm_and_its_reading_go_out_at_once(tmp_path: Path, profiles: Path) -> None:
    """The event before the batch of the reading that raised it; both long before the batch's time."""
    dial = Dial()
    async with (
        MoodyBroker(lambda *_: 0) as broker,
        TcpEndpoint("hall", [dial], AnswerRecord()) as line,
        running(tmp_path, line, {**GATEWAY, "broker": {"url": broker.url}, "rules": [HIGH]}),
    ):
        await eventually(lambda: any(topic == TOPICS.status for topic, _ in broker.taken))
        dial.volts = 101.0
        await eventually(lambda: any(topic == TOPICS.batch for topic, _ in broker.taken))
        topics = [topic for topic, _ in broker.taken if topic in (TOPICS.event, TOPICS.batch)]
        assert rule_events(events_in(broker)) == [("rule-raised", "high")]
        assert topics.index(TOPICS.batch) > [event.kind for event in events_in(broker)].index("rule-raised")
        consumer = Consumer()
        outputs = [out for topic, payload in broker.taken for out in consumer.feed(topic, payload)]
        (decoded,) = (out for out in outputs if isinstance(out, BatchDecoded))
        (event,) = (event for event in events_in(broker) if event.kind == "rule-raised")
        hot = [r.ts for r in decoded.readings() if r.point == "voltage_l1" and r.value == 101]
        assert hot[0] == event.data["ts"]
        async with connected(tmp_path / "agent.sock") as asking:
            status = await asking.status()
        assert [(alarm.rule, alarm.meter, alarm.since) for alarm in status.alarms] == [("high", "m1", event.data["ts"])]
        assert status.early == 1


async def test_alarm_of_an_outage_comes_once_over_kill(
    site: Site, broker: RunningBroker, link: LinkProxy, profiles: Path
) -> None:
    """Raised while the link is down and the agent then killed: one event, when the link is back, and it is cleared."""
    path = site.configure(link.port)
    document = yaml.safe_load(path.read_text("utf-8"))
    rule = {"id": "any", "kind": "limit", "points": ["voltage_l1"], "meters": ["m1"], "above": 0, "clear_delay": "1s"}
    store, key = TruthStore(site.folder / "truth.db"), ("any", "m1", "voltage_l1")
    async with subscribed(broker):
        await link.cut()
        path.write_text(yaml.safe_dump({**document, "rules": [rule]}))
        for _ in range(2):
            async with site.agent() as agent:
                await eventually(lambda: store.alarms().get(key, AlarmState()).side == "above")
                await eventually(site.answers(10))
                agent.kill()
        kept = [msgspec.json.decode(packed, type=Event) for _, packed in store.events()]
        assert rule_events(kept) == [("rule-raised", "any")]
        link.mend()
        path.write_text(yaml.safe_dump(document))
        async with site.agent() as agent:
            await eventually(lambda: store.events() == [])
            assert store.alarms().get(key, AlarmState()).side == ""
            assert "rule-cleared: any: the rule for voltage_l1 is gone or another" in agent.output()
            assert await agent.stop() == 0


async def test_events_of_an_outage_come_before_its_batches(tmp_path: Path) -> None:
    """However many wait: the alarms are the first thing that is heard of a gateway that is back."""
    events, buffer = Events(TruthStore(tmp_path / "truth.db")), await opened(tmp_path)
    for number in range(150):
        events.emit("test", str(number))
    await events.end()
    for number in range(50):
        await buffer.append(batch(number))
    async with MoodyBroker(lambda *_: 0) as broker, forwarding(buffer, events, broker.port):
        await eventually(lambda: sum(topic == TOPICS.batch for topic, _ in broker.taken) == 50)
        own = [topic for topic, _ in broker.taken if topic in (TOPICS.event, TOPICS.batch)]
        assert own == [TOPICS.event] * 150 + [TOPICS.batch] * 50
        assert [event.text for event in events_in(broker)] == [str(number) for number in range(150)]
        await eventually(lambda: TruthStore(tmp_path / "truth.db").events() == [])
    await buffer.close()


async def test_event_that_was_under_way_goes_again(tmp_path: Path) -> None:
    """On the next connection, with the same id, and without waiting for another event."""
    events, buffer = Events(TruthStore(tmp_path / "truth.db")), await opened(tmp_path)
    deaf = True
    async with (
        MoodyBroker(lambda topic, _: None if deaf and topic == TOPICS.event else 0) as broker,
        LinkProxy("127.0.0.1", broker.port) as link,
        forwarding(buffer, events, link.port) as forwarder,
    ):
        events.emit("test", "under way")
        await events.end()
        await eventually(lambda: forwarder.status.connected)
        deaf = False
        await link.cut()
        link.mend()
        await eventually(lambda: [event.text for event in events_in(broker)] == ["under way"])
    await buffer.close()


@pytest.mark.parametrize("code", [0x87, 0x97])
async def test_broker_that_refuses_events(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches do not wait for it; the events are tried again, and come once they may."""
    monkeypatch.setattr(pace, "BUSY_S", (0.02, 0.1))
    monkeypatch.setattr(pace, "FORBIDDEN_S", 0.1)
    events, buffer = Events(TruthStore(tmp_path / "truth.db")), await opened(tmp_path)
    refusing = True
    async with (
        MoodyBroker(lambda topic, _: code if refusing and topic == TOPICS.event else 0) as broker,
        forwarding(buffer, events, broker.port),
    ):
        for number in range(3):
            events.emit("test", str(number))
        await events.end()
        await buffer.append(batch(1))
        await eventually(lambda: any(topic == TOPICS.batch for topic, _ in broker.taken) and broker.refused)
        refusing = False
        await eventually(lambda: [event.text for event in events_in(broker)] == ["0", "1", "2"])
        assert broker.connections == 1
    await buffer.close()


async def opened(folder: Path) -> Buffer:
    buffer = Buffer(folder / "b.db", BufferConfig())
    await buffer.open()
    return buffer


@contextlib.asynccontextmanager
async def forwarding(buffer: Buffer, events: Events, port: int) -> AsyncIterator[Forwarder]:
    """A forwarder with its events, for the block."""
    config, topics = BrokerConfig(f"mqtt://127.0.0.1:{port}"), GatewayTopics("park", "gw")
    forwarder = Forwarder(buffer, config, topics, Path(), "0", events)
    tasks = [asyncio.create_task(forwarder.run()), asyncio.create_task(events.run())]
    try:
        yield forwarder
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks), tasks
