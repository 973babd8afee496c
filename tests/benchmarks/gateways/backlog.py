"""Backlog: our agent's memory while a million readings wait, and a day's backlog drained beside live readings."""

import asyncio
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.plan import make_plan
from parkfleet.agent.store import NewBatch, Store
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.payload.topics import parse_topic
from parkfleet.simulators.proxy import LinkProxy
from tests.benchmarks.gateways.account import Account, Taken, p99, taken
from tests.benchmarks.gateways.ground import VALUES, Ground, Watched
from tests.benchmarks.gateways.leg import GRACE_S, Window, at_work, folder, leg_of, settled, watch
from tests.benchmarks.gateways.ours import Ours, arrivals_of
from tests.benchmarks.reporting import Measure, at_most, none

MILLION: Final = 1_000_000
#: Of the memory: 10,000 readings/s.
MEMORY_METERS: Final = 200
WARM_S, DRAINED_S, LIVE_S = 10.0, 20.0, 15.0
#: A day of 2,500 readings/s in batches of five seconds.
METERS, FLUSH_S, DAY_S = 50, 5, 86_400
BATCHES: Final = DAY_S // FLUSH_S
DIFFERENT: Final = 20  # bodies
PATIENCE_S: Final = 120.0


async def memory(duration_s: float) -> list[Measure]:
    """Resident memory at work for a while, and while a million readings wait for the broker."""
    with folder() as name:
        async with (
            Ground.prepared(Path(name), MEMORY_METERS) as ground,
            LinkProxy("127.0.0.1", ground.broker.port) as link,
        ):
            gateway = Ours(port=link.port)
            gateway.configure(ground, 1.0)
            async with at_work(gateway, ground) as watched:
                await asyncio.sleep(WARM_S)
                print(f"memory at work for {duration_s:g} s", flush=True)
                steady = await watch(watched, duration_s)
                print("memory while a million readings wait", flush=True)
                await link.cut()
                waiting = await _until(ground, watched, MILLION)
                link.mend()
                after = await watch(watched, DRAINED_S)
            answered = await ground.meters.number()
            await settled(ground)
            leg = leg_of(gateway.account(ground), ground, MEMORY_METERS * VALUES, steady, answered)
    row = f"{MEMORY_METERS} meters x 50 values, 1 s: RSS"
    return [
        at_most(f"{row}, the most in {duration_s:g} s", "MB", leg.rss_mb, 50),
        at_most(f"{row} grown in {duration_s:g} s (flat)", "MB", leg.grown_mb, 1),
        at_most(f"{row} grown while 1,000,000 readings waited (flat)", "MB", max(waiting) - steady.rss_mb[-1], 1),
        at_most(f"{row}, the most when they were sent", "MB", max(after.rss_mb), 50),
        none(f"{row}: scans lost or twice, of {leg.answered}", leg.answered - leg.came + leg.twice),
    ]


async def _until(ground: Ground, watched: Watched, readings: int) -> list[float]:
    """RSS, once a second, until the meters have given so many readings more."""
    wanted, rss = await ground.meters.number() + readings / VALUES, [watched.rss_mb()]
    while await ground.meters.number() < wanted:
        await asyncio.sleep(1.0)  # the samples' distance
        rss.append(watched.rss_mb())
    return rss


@dataclass
class Seen:
    """What the taker got of a run with a backlog."""

    live: Account = field(default_factory=Account)
    arrived: dict[int, float] = field(default_factory=dict)  # by seq of the backlog: when first, ms since the base
    again: int = 0
    changed: int = 0

    def take(self, message: Taken, envelope: Envelope, expected: bytes, base_ms: int) -> None:
        """A batch of the backlog."""
        self.again += envelope.seq_first in self.arrived
        self.changed += envelope.body != expected or envelope.seq_count != 1
        self.arrived.setdefault(envelope.seq_first, message.ns / 1e6 - base_ms)


async def drain(_: float) -> list[Measure]:
    """24 h of backlog to the broker, while live readings go out."""
    with folder() as name:
        async with Ground.prepared(Path(name), METERS) as ground:
            gateway = Ours(flush="100ms", spread=True, max_bytes="4GiB")
            gateway.configure(ground, 1.0)
            print("live readings, no backlog", flush=True)
            async with at_work(gateway, ground) as watched:
                await asyncio.sleep(WARM_S)
                idle = await watch(watched, LIVE_S)
            print(f"filling the buffer with {BATCHES} batches", flush=True)
            backlog = fill(ground.folder)
            print("draining", flush=True)
            wanted = await ground.taker.number() + BATCHES
            async with at_work(gateway, ground) as watched:
                cpu_s, rss = watched.cpu_s(), [watched.rss_mb()]
                async with asyncio.timeout(PATIENCE_S):
                    while await ground.taker.number() < wanted:
                        await asyncio.sleep(0.5)  # the samples' distance
                        rss.append(watched.rss_mb())
                cpu_s = watched.cpu_s() - cpu_s
                await asyncio.sleep(GRACE_S)
            answered = await ground.meters.number()
            await settled(ground)
            return _rows(seen_of(ground, backlog), idle, ground.base_ms, answered, cpu_s, max(rss))


def fill(place: Path) -> dict[int, bytes]:
    """Puts the backlog into the agent's buffer; each batch's body by its seq."""
    schema = make_plan(load_configuration(place / "gateway.yaml")).schema
    batches = [_batch(schema, number) for number in range(DIFFERENT)]
    store = Store.open(place / "buffer.db", 7 * DAY_S, 4 << 30)
    found = {}
    for number in range(BATCHES):
        batch = batches[number % DIFFERENT]
        found[store.append(batch)] = batch.body
    store.close()
    return found


def _batch(schema: Schema, number: int) -> NewBatch:
    """Five seconds of all meters: float32 values that walk in steps of a quarter."""
    chance, rows = random.Random(number), []
    first = 1000 * FLUSH_S * number
    stamps = array("q", range(first, first + 1000 * FLUSH_S, 1000))
    for meter in range(METERS):
        values = [chance.randrange(1000, 4000) for _ in range(VALUES)]
        slots: array[int] = array("q")
        for _ in range(FLUSH_S):
            values = [value + chance.randrange(-3, 4) for value in values]
            slots.extend(array("q", array("I", array("f", [value / 4 for value in values]).tobytes())))
        rows.append(Rows(meter, stamps, slots, bytearray(VALUES * FLUSH_S)))
    readings = METERS * VALUES * FLUSH_S
    return NewBatch(schema.pack(), schema.id, CODEC, encode(schema, rows), readings, stamps[0], stamps[-1])


def seen_of(ground: Ground, backlog: Mapping[int, bytes]) -> Seen:
    """What came: of the backlog each batch by its seq and bytes, everything else as a consumer has it."""
    seen, live = Seen(), []
    for message in taken(ground.taken):
        topic = parse_topic(message.topic)
        envelope = Envelope.unpack(message.payload) if topic and topic.channel == "batch" else None
        if envelope is not None and envelope.seq_first in backlog:
            seen.take(message, envelope, backlog[envelope.seq_first], ground.base_ms)
        else:
            live.append(message)
    for arrival in arrivals_of(live, ground.base_ms):
        seen.live.add(arrival)
    return seen


def _rows(seen: Seen, idle: Window, base_ms: int, answered: int, cpu_s: float, rss_mb: float) -> list[Measure]:
    begun, over = min(seen.arrived.values()), max(seen.arrived.values())
    took_s = (over - begun) / 1000
    quiet = [delay for delay, _ in seen.live.answered_between(idle.since_ms - base_ms, idle.until_ms - base_ms)]
    busy = [delay for delay, _ in seen.live.answered_between(begun, over)]
    before, while_ = p99(quiet), p99(busy)
    wrong = BATCHES - len(seen.arrived) + seen.again + seen.changed
    row, ratio = "24 h at 2,500 readings/s: ", while_ / before
    return [
        at_most(f"{row}{METERS * VALUES * DAY_S:,} readings drained", "s", took_s, 60),
        at_most(f"{row}live delay p99 without it", "ms", before, 200),
        Measure(f"{row}live delay p99 meanwhile", "ms", while_, {}, ratio, "not doubled", ratio <= 2),
        Measure(f"{row}live scans meanwhile", "", len(busy)),
        Measure(f"{row}CPU of the agent", "s", cpu_s),
        at_most(f"{row}RSS, the most", "MB", rss_mb, 50),
        none(f"{row}batches lost, twice or changed, of {BATCHES}", wrong),
        none(f"{row}live scans lost or twice, of {answered}", answered - seen.live.scans + seen.live.twice),
    ]
