"""bench-writes: what a day of readings costs an SD card: bytes written, syncs, and the file's size, by the real store.

The day is played as fast as the disk takes it: 1,000 readings/s (20 meters of 50 points), a batch a flush interval,
each acknowledged before the next, encoded once and repeated.
"""

import random
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

from parkfleet.agent.store import NewBatch, Store
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.benchmarks.reporting import Measure, write_report
from tests.benchmarks.syncs import SyncCounter, Written

METERS, POINTS = 20, 50
DAY_S = 86_400
HEADER = (
    "One day of 1,000 readings/s through the agent's store, every batch acknowledged: what goes to the disk.\n"
    "No peer: TECH.md and ANCHORS.md have no figures of others. Counted between process and C library, not estimated.\n"
    "A checkpoint (2,000 pages of log into the database) takes two syncs more: that is what misses the target."
)


def batches(flush_s: int) -> list[NewBatch]:
    """A few different batches: power meters' gauges walk, a fifth of the points are counters."""
    chance = random.Random(1)
    columns = tuple(Column(f"p{n}", "W", "int", "counter" if n % 5 == 0 else "gauge") for n in range(POINTS))
    schema = Schema(tuple(Entry(f"m{n}", "p", "power", columns) for n in range(METERS)))
    values = [[chance.randrange(100_000) for _ in range(POINTS)] for _ in range(METERS)]
    made = []
    for number in range(20):
        rows = []
        for meter in range(METERS):
            slots = array("q")
            for _ in range(flush_s):
                now = values[meter]
                for n in range(POINTS):
                    now[n] += chance.randrange(3) if n % 5 == 0 else chance.randrange(-20, 21)
                slots.extend(now)
            start = 1000 * flush_s * number
            stamps = array("q", range(start, start + 1000 * flush_s, 1000))
            rows.append(Rows(meter, stamps, slots, bytearray(POINTS * flush_s)))
        body, readings = encode(schema, rows), METERS * POINTS * flush_s
        made.append(NewBatch(schema.pack(), schema.id, CODEC, body, readings, stamps[0], stamps[-1]))
    return made


def play(path: Path, flush_s: int) -> None:
    """The child: a day."""
    store, made = Store.open(path, 7 * DAY_S, 1 << 30), batches(flush_s)
    for number in range(DAY_S // flush_s):
        seq = store.append(made[number % len(made)])
        store.acknowledge([(seq, 1)])
    store.close()


def measure(flush_s: int) -> tuple[Written, int, int]:
    """What a day writes; the file's bytes; the bytes of all bodies."""
    with tempfile.TemporaryDirectory() as folder:
        counter, path = SyncCounter(Path(folder)), Path(folder) / "b.db"
        command = [sys.executable, "-m", "tests.benchmarks.bench_writes", str(path), str(flush_s)]
        subprocess.run(command, env=counter.environment, check=True)
        made = batches(flush_s)
        bodies = sum(len(made[n % len(made)].body) for n in range(DAY_S // flush_s))
        return counter.written, path.stat().st_size, bodies


def main() -> None:
    """Prints the table; no arguments. With FILE and SECONDS: plays a day into a file."""
    if len(sys.argv) == 3:
        return play(Path(sys.argv[1]), int(sys.argv[2]))
    rows = []
    for flush_s in (5, 60):
        print(f"a day with flush {flush_s} s …", flush=True)
        written, size, bodies = measure(flush_s)
        flushes = DAY_S // flush_s
        name = f"flush {flush_s} s: "
        target = "≤ 1"
        per_flush = written.syncs / flushes
        rows += [
            Measure(f"{name}syncs a flush", "", round(per_flush, 3), target=target, met=per_flush <= 1),
            Measure(f"{name}syncs a minute", "", round(written.syncs / 1440, 2)),
            Measure(f"{name}written a day", "MB", round(written.bytes / 1e6, 1)),
            Measure(f"{name}written for each byte of batches", "", round(written.bytes / bodies, 2)),
            Measure(f"{name}bytes of batches a day", "MB", round(bodies / 1e6, 1)),
            Measure(f"{name}file after a day", "MB", round(size / 1e6, 1)),
        ]
    write_report("writes", HEADER, rows)
    return None


if __name__ == "__main__":
    main()
