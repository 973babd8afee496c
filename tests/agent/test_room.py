"""Room: what waits takes less, and every reading is there once, thinned or dropped, and counted."""

import os
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from parkfleet.agent import room
from parkfleet.agent.buffer import Buffer
from parkfleet.agent.joining import join, split
from parkfleet.agent.losses import Losses
from parkfleet.agent.room import Room
from parkfleet.agent.store import Loss, NewBatch, Span, Store
from parkfleet.protocols.config import BufferConfig
from parkfleet.protocols.payload.codecs import CODEC, decode, encode
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows, has_value
from parkfleet.protocols.profile import Kind
from parkfleet.protocols.quantity import Size

COLUMNS = (
    Column("power", "W", "int", "gauge"),
    Column("energy", "kWh", "int", "counter"),
    Column("state", "", "int", "state"),
)
SCHEMA = Schema(tuple(Entry(f"m{n}", "p", "power", COLUMNS) for n in range(4)))
KEEP: tuple[Kind, ...] = ("counter", "gauge", "state")
SECONDS = 5  # rows of each meter in a batch
READINGS = 4 * 3 * SECONDS


def batch(number: int) -> NewBatch:
    """Five seconds of four meters, of random bits: about 700 bytes."""
    start = 1000 * SECONDS * number
    rows = [
        Rows(
            entry,
            array("q", range(start, start + 1000 * SECONDS, 1000)),
            array("q", [int.from_bytes(os.urandom(4), "big") for _ in range(3 * SECONDS)]),
            bytearray(3 * SECONDS),
        )
        for entry in range(4)
    ]
    body = encode(SCHEMA, rows)
    return NewBatch(SCHEMA.pack(), SCHEMA.id, CODEC, body, READINGS, start, start + 1000 * (SECONDS - 1))


def fill(store: Store, batches: range, *, quiet: bool = False) -> None:
    planner = Room(store, KEEP)
    for number in batches:
        store.append(batch(number), planner.next(quiet=quiet))


def stamps(store: Store) -> list[tuple[int, int]]:
    """(entry, ts) of every row that waits."""
    found = []
    for stored in store.waiting(Span(), 10_000):
        for rows in decode(stored.codec, Schema.unpack(store.schema(stored.schema_id)), stored.body):
            found += [(rows.entry, ts) for ts in rows.ts]
    return sorted(found)


def expected(batches: range) -> list[tuple[int, int]]:
    times = range(1000 * SECONDS * batches.start, 1000 * SECONDS * batches.stop, 1000)
    return sorted((entry, ts) for entry in range(4) for ts in times)


def seqs(store: Store) -> list[int]:
    return [seq for stored in store.waiting(Span(), 10_000) for seq in range(stored.seq, stored.last_seq + 1)]


def test_backlog_is_joined_while_nobody_reads(tmp_path: Path) -> None:
    """A long outage leaves few large batches, in fewer bytes, with every row once and every seq covered once."""
    store = Store.open(tmp_path / "b.db", 3600, 1 << 30)
    fill(store, range(200), quiet=True)
    rows = store.waiting(Span(), 1000)
    assert len(rows) < 50
    assert max(len(row.body) for row in rows) <= room.JOIN_BYTES
    assert seqs(store) == list(range(1, 201))
    assert stamps(store) == expected(range(200))
    assert store.stats().readings == 200 * READINGS
    store.close()


def test_nothing_is_joined_while_somebody_reads(tmp_path: Path) -> None:
    """What may be under way to the broker stays as it is."""
    store = Store.open(tmp_path / "b.db", 3600, 1 << 30)
    fill(store, range(100))
    assert len(store.waiting(Span(), 1000)) == 100
    store.close()


def test_acknowledgement_of_what_was_joined_meanwhile(tmp_path: Path) -> None:
    """A late acknowledgement of one batch does not take away those it was joined with."""
    store = Store.open(tmp_path / "b.db", 3600, 1 << 30)
    fill(store, range(40), quiet=True)
    assert store.waiting(Span(), 1)[0].count > 1
    store.acknowledge([(1, 1)])
    store.flush()
    assert seqs(store) == list(range(1, 41))
    store.close()


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("limit", [200_000, 100_000, 60_000])
def test_thinned_before_dropped_and_all_counted(tmp_path: Path, limit: int, quiet: bool) -> None:
    """At the limit seconds become minutes, then kinds go, then the oldest; the count of readings comes out exactly."""
    store = Store.open(tmp_path / "b.db", 3600, limit)
    fill(store, range(600), quiet=quiet)
    stats = store.stats()
    assert store.used() <= limit
    assert stats.thinned_readings > 0
    assert stats.readings + stats.thinned_readings + stats.dropped_readings == 600 * READINGS
    levels = [stored.level for stored in store.waiting(Span(), 10_000)]
    assert levels == sorted(levels, reverse=True)  # the oldest is the thinnest
    assert len(set(seqs(store))) == len(seqs(store))
    store.close()


def test_what_is_thinned_may_be_joined_and_split(tmp_path: Path) -> None:
    """Means and extremes are no readings: their count does not grow by rewriting."""
    store = Store.open(tmp_path / "b.db", 3600, 150_000)
    fill(store, range(500))
    thinned = [stored for stored in store.waiting(Span(), 10_000) if stored.level == 1]
    schema = Schema.unpack(store.schema(thinned[0].schema_id))
    joined = join(schema, thinned)
    halves = split(schema, thinned[0])
    assert joined is not None and halves is not None
    assert joined.readings == sum(stored.readings for stored in thinned)
    assert sum(half.readings for half in halves) == thinned[0].readings
    store.close()


def test_dropped_only_when_all_is_thinned(tmp_path: Path) -> None:
    """While there are seconds to be thinned nothing is dropped."""
    store = Store.open(tmp_path / "b.db", 3600, 150_000)
    fill(store, range(350))
    stats = store.stats()
    assert (stats.dropped_batches, stats.dropped_readings) == (0, 0)
    assert stats.thinned_readings > 0
    store.close()


@pytest.mark.parametrize(
    ("keep", "last"),
    [
        (KEEP, {"energy"}),
        (("gauge", "counter", "state"), {"power_mean", "power_min", "power_max"}),
        (("state", "counter"), {"state"}),
    ],
)
def test_kept_longest_is_what_is_named_first(tmp_path: Path, keep: tuple[Kind, ...], last: set[str]) -> None:
    """keep: the last named kind goes first, and the first named is there to the end; by default counters."""
    store = Store.open(tmp_path / "b.db", 3600, 60_000)
    planner = Room(store, keep)
    for number in range(800):
        store.append(batch(number), planner.next(quiet=False))
    points = {
        stored.level: {c.point for c in Schema.unpack(store.schema(stored.schema_id)).sets[0]}
        for stored in store.waiting(Span(), 10_000)
    }
    assert points[max(points)] == last
    store.close()


def test_acknowledged_go_before_anything_is_thinned(tmp_path: Path) -> None:
    """What the broker has is given up first."""
    store = Store.open(tmp_path / "b.db", 3600, 150_000)
    planner = Room(store, KEEP)
    for number in range(600):
        seq = store.append(batch(number), planner.next(quiet=False))
        store.acknowledge([(seq, 1)])
    stats = store.stats()
    assert (stats.thinned_readings, stats.dropped_readings) == (0, 0)
    assert 0 < stats.kept_batches < 600
    store.close()


def test_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file does not grow while its disk has less than min_free: what is in it is thinned instead."""
    store = Store.open(tmp_path / "b.db", 3600, 1 << 30, min_free=1 << 20)
    fill(store, range(100))
    size = store.used()
    monkeypatch.setattr("parkfleet.agent.store.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    fill(store, range(100, 400))
    store.flush()
    stats = store.stats()
    assert stats.thinned_readings > 0
    assert stats.readings + stats.thinned_readings + stats.dropped_readings == 400 * READINGS
    store.close()
    assert (tmp_path / "b.db").stat().st_size <= 1.2 * size


FILL_FOR_EVER = """
import sys
from pathlib import Path
from parkfleet.agent.joining import join, split
from parkfleet.agent.room import Room
from parkfleet.agent.store import Store
from tests.agent.test_room import KEEP, batch
store = Store.open(Path(sys.argv[1]), 3600, 200_000)
planner = Room(store, KEEP)
number = store.last_seq()
while True:
    store.append(batch(number), planner.next(quiet=number % 3 > 0))
    number += 1
    print(number, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9 while it joins, thins and drops: the count of readings comes out exactly, every time."""
    path = tmp_path / "b.db"
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", FILL_FOR_EVER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(int.from_bytes(os.urandom(1), "big") + 1):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            told = [int(line) for line in child.stdout.read().split()]
        store = Store.open(path, 3600, 200_000)
        stats = store.stats()
        assert stats.last_seq >= max(told, default=0)
        assert stats.readings + stats.thinned_readings + stats.dropped_readings == stats.last_seq * READINGS
        counted = sum(
            sum(map(has_value, rows.quality))
            for stored in store.waiting(Span(), 10_000)
            if stored.level == 0
            for rows in decode(stored.codec, SCHEMA, stored.body)
        )
        assert counted == sum(stored.readings for stored in store.waiting(Span(), 10_000) if stored.level == 0)
        store.close()


def test_losses_are_told_once_a_minute() -> None:
    """The first loss is told at once, what follows is gathered; an event names the batches and counts the readings."""
    told: list[tuple[str, dict[str, object]]] = []
    now = [1000.0]
    losses = Losses(lambda kind, _text, data: told.append((kind, data)), lambda: now[0])
    losses.add(7, [Loss("dropped", 1, 2, 30)])
    losses.tell()
    assert told == [("dropped", {"epoch": 7, "ranges": [(1, 2)], "readings": 30})]
    for seq in (3, 4, 9):
        losses.add(7, [Loss("dropped", seq, 1, 10), Loss("thinned", 100 + seq, 1, 5)])
        losses.tell()
    assert len(told) == 1
    now[0] += 60
    losses.tell()
    assert told[1:] == [
        ("dropped", {"epoch": 7, "ranges": [(3, 4), (9, 9)], "readings": 30}),
        ("thinned", {"epoch": 7, "ranges": [(103, 104), (109, 109)], "readings": 15}),
    ]
    losses.tell(now=True)
    assert len(told) == 3


async def test_buffer_tells_what_it_loses(tmp_path: Path) -> None:
    """What an event says was lost is what the buffer counts."""
    told: list[tuple[str, dict[str, object]]] = []
    config = BufferConfig(max_bytes=Size(1 << 20), min_free=Size(0))
    buffer = Buffer(tmp_path / "b.db", config, lambda kind, _text, data: told.append((kind, data)))
    await buffer.open()
    for number in range(2500):
        await buffer.append(batch(number))
    stats = await buffer.stats()
    await buffer.close()
    for kind, counted in (("thinned", stats.thinned_readings), ("dropped", stats.dropped_readings)):
        assert sum(int(str(data["readings"])) for found, data in told if found == kind) == counted
    assert stats.thinned_readings > 0
