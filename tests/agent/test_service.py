"""The agent as it ships, a process between simulated meters and a real broker: readings in, readings out."""

import time
from pathlib import Path

import pytest
import yaml

from parkfleet.agent.line_parts import LineParts
from parkfleet.protocols.payload.topics import unpack_event
from parkfleet.simulators.broker import RunningBroker, free_port, running_broker
from parkfleet.simulators.demo.account import answered_samples, delivered_samples
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.moody_broker import MoodyBroker
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.record import AnswerRecord
from tests.agent.conftest import SMALL
from tests.agent.site import FLUSH_S, Site, running, stopped, subscribed
from tests.eventually import eventually


async def test_run_delivers_all_and_leaves_on_sigterm(site: Site, broker: RunningBroker) -> None:
    """Every answered reading is delivered once; SIGTERM sends what is left, and the agent leaves within its 5 s."""
    site.configure(broker.port)
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 3)
        began = time.monotonic()
        await stopped(agent, subscriber)
        assert time.monotonic() - began < 5  # the promise of the manual, not a benchmark
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_run_deadband_loses_nothing(site: Site, broker: RunningBroker) -> None:
    """Every answered reading is delivered, or there as held: the account comes out, and what is delivered is right."""
    path = site.configure(broker.port)
    band = {"id": "calm", "points": ["voltage_l1", "power_active"], "absolute": 1e9, "silence": "1s"}
    path.write_text(path.read_text() + yaml.safe_dump({"deadbands": [band]}))
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 4)
        await stopped(agent, subscriber)
        readings = [reading for batch in subscriber.taken for reading in batch.readings(held=True)]
        held = [reading for reading in readings if reading.quality == "held"]
        assert {reading.point for reading in held} == {"voltage_l1", "power_active"}
        answered = list(answered_samples(site.park))
        assert len(readings) == len({(r.meter, r.point, r.ts) for r in readings}) == len(answered)
        values = {(series, sample.value) for series, sample in answered}
        assert all((series, sample.value) in values for series, sample in delivered_samples(subscriber))


async def test_run_link_cut(site: Site, broker: RunningBroker, link: LinkProxy) -> None:
    """What is read while the link is down comes when it is back, once."""
    site.configure(link.port)
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 2)
        await link.cut()
        answered = len(site.park.record)
        await eventually(lambda: len(site.park.record) > answered + 20)
        link.mend()
        seen = subscriber.batches
        await eventually(lambda: subscriber.batches > seen + 2, 60)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_run_partition(site: Site, broker: RunningBroker, link: LinkProxy) -> None:
    """A link that carries nothing and tells nobody is noticed; what was on its way comes once, whoever brings it."""
    path = site.configure(link.port)
    path.write_text(path.read_text().replace("keepalive: 5s", "keepalive: 5s\n  ack_timeout: 1s"))
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 2)
        link.silence()
        await eventually(lambda: "acknowledged nothing for 1 s" in agent.output())
        link.mend()  # what was under way in the old connection arrives now too, and shows nothing of the new one
        await eventually(lambda: agent.output().count("connected to the broker") >= 2)
        seen = subscriber.batches
        await eventually(lambda: subscriber.batches > seen + 2, 60)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_run_killed(site: Site, broker: RunningBroker) -> None:
    """kill -9 costs at most the open batch: what was answered within the last flush interval, and nothing twice."""
    site.configure(broker.port)
    async with subscribed(broker) as subscriber:
        async with site.agent() as agent:
            await eventually(lambda: subscriber.batches >= 3)
            killed = time.time()
            agent.kill()
        async with site.agent() as agent:
            seen = subscriber.batches
            await eventually(lambda: subscriber.batches >= seen + 3)
            await stopped(agent, subscriber)
        verdict = site.verdict(subscriber)
        assert (verdict.duplicates, verdict.mismatched) == (0, 0), verdict
        delivered = {(series, sample.value) for series, sample in delivered_samples(subscriber)}
        lost = [sample for series, sample in answered_samples(site.park) if (series, sample.value) not in delivered]
        # A scan belongs to the batch that is closed at the next multiple of the flush interval.
        assert all(killed - 2 * FLUSH_S < sample.ts / 1000 < killed + FLUSH_S for sample in lost), lost


async def test_run_broker_restarted(site: Site, tmp_path: Path) -> None:
    """A broker that is killed and comes back gets everything; what it had acknowledged was seen by the subscriber."""
    folder = tmp_path / "broker"
    folder.mkdir()
    port = free_port()
    site.configure(port)
    async with site.agent() as agent:
        async with running_broker(folder, port) as broker, subscribed(broker) as first:
            await eventually(lambda: first.batches >= 2)
            broker.child.kill()
            await broker.child.wait()
        answered = len(site.park.record)
        await eventually(lambda: len(site.park.record) > answered + 20)
        async with running_broker(folder, port) as broker, subscribed(broker) as second:
            await eventually(lambda: second.batches >= 3, 60)
            await stopped(agent, second)
            # The two subscriptions are one consumer's view: batches that both saw are duplicates by their seq.
            seen = {(batch.envelope.epoch, batch.envelope.seq_first) for batch in first.taken}
            fresh = [b for b in second.taken if (b.envelope.epoch, b.envelope.seq_first) not in seen]
            first.taken += fresh
            assert site.verdict(first).ok, site.verdict(first)


@pytest.mark.usefixtures("mosquitto")
async def test_run_broker_refuses(site: Site, tmp_path: Path) -> None:
    """A broker that refuses us is told in a sentence; polling goes on, batches wait."""
    (tmp_path / "passwords").write_text("")
    extra = f"allow_anonymous false\npassword_file {tmp_path}/passwords"
    async with running_broker(tmp_path, extra=extra) as broker:
        site.configure(broker.port)
        async with site.agent() as agent:
            await eventually(lambda: "batches wait in the buffer" in agent.output())
            answered = len(site.park.record)
            await eventually(lambda: len(site.park.record) > answered + 10)
            assert await agent.stop() == 0
        assert "refuses us: Not authorized" in agent.output()


async def test_run_disk_that_cannot_be_written(site: Site, broker: RunningBroker) -> None:
    """Where the buffer's folder does not take it, readings go through memory, and the log says so."""
    site.configure(broker.port, path="/proc/no-such-folder/buffer.db")
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 2)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok
        assert "batches are kept in memory until it works" in agent.output()


async def test_run_configuration_with_mistakes(site: Site) -> None:
    """An agent whose configuration is wrong does not start, and says where."""
    path = site.configure(1883)
    path.write_text(path.read_text().replace("profile: small", "profile: smal"))
    async with site.agent() as agent:
        assert await agent.wait() == 1
    assert "did you mean 'small'?" in agent.output()
    assert "not started: mend" in agent.output()


async def test_scans_that_this_side_did_not_take_are_told(
    tmp_path: Path, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap is data: an event says how many, once."""
    document = {"park": "p", "gateway": "g", "profile": "small", "buffer": {"flush": "50ms"}}
    meter = SimulatedMeter(SMALL, 1, load_of("power", 1), 1)
    async with (
        MoodyBroker(lambda *_: 0) as broker,
        TcpEndpoint("hall", [meter], AnswerRecord()) as line,
        running(tmp_path, line, {**document, "broker": {"url": broker.url}}),
    ):
        monkeypatch.setattr(LineParts, "overruns", property(lambda _: 7))
        told = await eventually(lambda: [payload for topic, payload in broker.taken if b"scans-lost" in payload])
        await eventually(lambda: len(broker.taken) > 10)
    assert [unpack_event(payload).data for payload in told] == [{"scans": 7}]
    assert sum(b"scans-lost" in payload for _, payload in broker.taken) == 1
