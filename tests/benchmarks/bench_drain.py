"""bench-drain: a day's backlog to a local mosquitto while fresh batches go on, and what it costs those.

The real buffer and forwarder, the broker's real acknowledgements. The backlog is not joined: the worst case.
"""

import asyncio
import statistics
import tempfile
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.forwarder import Forwarder
from parkfleet.agent.status import resident_bytes
from parkfleet.agent.store import NewBatch, StoredBatch
from parkfleet.protocols.config import BrokerConfig, BufferConfig
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from parkfleet.protocols.payload.topics import GatewayTopics
from parkfleet.protocols.quantity import Duration, Size
from parkfleet.simulators.broker import running_broker
from tests.benchmarks.reporting import Measure, write_report
from tests.eventually import eventually

METERS, POINTS = 50, 50
FLUSH_S = 5
BATCHES = 86_400 // FLUSH_S
LIVE_S = 0.025
IDLE_BATCHES = 600
HEADER = (
    "A backlog of 24 h at 2,500 readings/s (17,280 batches of 12,500 readings) drained to mosquitto on this machine,\n"
    "while a fresh batch of 2,500 readings comes every 25 ms. Latency: from the buffer's append to the PUBACK.\n"
    "No peer in this run."
)


class TimedBuffer(Buffer):
    """A buffer that notes when batches are acknowledged."""

    def __init__(self, path: Path, config: BufferConfig) -> None:
        super().__init__(path, config)
        self.appended: dict[int, float] = {}  # by seq
        self.latencies: list[float] = []
        self.acknowledged = 0

    async def acknowledge(self, batches: Iterable[StoredBatch]) -> None:
        taken, now = list(batches), time.monotonic()
        self.acknowledged += len(taken)
        self.latencies += [now - self.appended.pop(batch.seq) for batch in taken if batch.seq in self.appended]
        await super().acknowledge(taken)


def batch_of(seconds: int) -> NewBatch:
    """Every meter read once a second; gauges and counters that walk."""
    columns = tuple(Column(f"p{n}", "W", "int", "counter" if n % 5 == 0 else "gauge") for n in range(POINTS))
    schema = Schema(tuple(Entry(f"m{n}", "p", "power", columns) for n in range(METERS)))
    rows = []
    for meter in range(METERS):
        values = [(row * 7919 + meter * 104_729 + n * 31) % 50_000 for row in range(seconds) for n in range(POINTS)]
        stamps = array("q", range(0, 1000 * seconds, 1000))
        rows.append(Rows(meter, stamps, array("q", values), bytearray(POINTS * seconds)))
    body = encode(schema, rows)
    return NewBatch(schema.pack(), schema.id, CODEC, body, METERS * POINTS * seconds, 0, 1000 * (seconds - 1))


async def live(buffer: TimedBuffer, batch: NewBatch) -> None:
    """Fresh batches for ever."""
    seq = (await buffer.stats()).last_seq
    while True:
        began = time.monotonic()
        seq += 1
        buffer.appended[seq] = began
        await buffer.append(batch)
        await asyncio.sleep(max(LIVE_S - (time.monotonic() - began), 0))  # the interval itself


def p99(latencies: list[float]) -> float:
    return round(1000 * statistics.quantiles(latencies, n=100)[98], 1)


async def measure(folder: Path) -> list[Measure]:
    """The whole benchmark."""
    config = BufferConfig(flush=Duration(FLUSH_S), retain=Duration(86_400), max_bytes=Size(4 << 30), min_free=Size(0))
    buffer = TimedBuffer(folder / "b.db", config)
    await buffer.open()
    large, small = batch_of(FLUSH_S), batch_of(1)
    async with running_broker(folder, extra="max_queued_messages 0") as broker:
        forwarder = Forwarder(buffer, BrokerConfig(broker.url), GatewayTopics("p", "g"), folder, "0")
        forwarding = asyncio.create_task(forwarder.run())
        living = asyncio.create_task(live(buffer, small))
        await eventually(lambda: len(buffer.latencies) >= IDLE_BATCHES, 600)
        idle = buffer.latencies.copy()
        living.cancel()
        forwarding.cancel()
        await asyncio.wait([living, forwarding])
        print(
            f"idle: p99 {p99(idle)} ms. Filling the buffer with {BATCHES} batches of {len(large.body)} bytes",
            flush=True,
        )
        for _ in range(BATCHES):
            await buffer.append(large)
        buffer.latencies.clear()
        buffer.appended.clear()
        buffer.acknowledged = 0
        print("draining", flush=True)
        began, used = time.monotonic(), time.process_time()
        forwarder = Forwarder(buffer, BrokerConfig(broker.url), GatewayTopics("p", "g"), folder, "0")
        forwarding = asyncio.create_task(forwarder.run())
        await eventually(lambda: forwarder.status.connected)
        living = asyncio.create_task(live(buffer, small))
        await eventually(lambda: buffer.acknowledged >= BATCHES + len(buffer.latencies), 600)
        took, cpu = time.monotonic() - began, time.process_time() - used
        busy = buffer.latencies.copy()
        memory = resident_bytes()
        living.cancel()
        forwarding.cancel()
        await asyncio.wait([living, forwarding])
    await buffer.close()
    ratio = p99(busy) / p99(idle)
    return [
        Measure("24 h drained", "s", round(took, 1), target="≤ 60", met=took <= 60),
        Measure("batches a second", "", round(BATCHES / took)),
        Measure("CPU of buffer and forwarder", "s", round(cpu, 1)),
        Measure("live p99, no backlog", "ms", p99(idle), target="≤ 200", met=p99(idle) <= 200),
        Measure("live p99, while it drains", "ms", p99(busy), {}, ratio, "not doubled", ratio <= 2),
        Measure("fresh batches meanwhile", "", len(busy)),
        Measure("RSS of the benchmark's process", "MiB", round(memory / 2**20, 1)),
    ]


def main() -> None:
    """Prints the table; no arguments."""
    with tempfile.TemporaryDirectory() as folder:
        write_report("drain", HEADER, asyncio.run(measure(Path(folder))))


if __name__ == "__main__":
    main()
