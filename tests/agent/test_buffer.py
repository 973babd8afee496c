"""Buffer and store: what is appended is there after a crash, once, in order, and a bad disk stops nobody."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.migrations import migrate
from parkfleet.agent.store import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    ForeignStoreError,
    NewBatch,
    NewerStoreError,
    Span,
    Store,
)
from parkfleet.protocols.config import BufferConfig
from parkfleet.protocols.quantity import Duration, Size
from tests.benchmarks.syncs import SyncCounter


def batch(body: bytes = b"body", readings: int = 3) -> NewBatch:
    return NewBatch(b"schema", 7, 1, body, readings, 1000, 2000)


def open_store(path: Path, max_bytes: int = 1 << 24, retain_s: float = 3600) -> Store:
    return Store.open(path, retain_s, max_bytes)


def seqs(store: Store) -> list[int]:
    return [stored.seq for stored in store.waiting(Span(), 1000)]


def test_append_counts_up_and_survives_reopening(tmp_path: Path) -> None:
    """Batches come back in order, under the same epoch, after the file was closed and opened again."""
    store = open_store(tmp_path / "b.db")
    assert [store.append(batch()) for _ in range(3)] == [1, 2, 3]
    epoch = store.epoch
    store.close()
    again = open_store(tmp_path / "b.db")
    assert (again.epoch, seqs(again), again.schema(7)) == (epoch, [1, 2, 3], b"schema")
    again.close()


def test_acknowledge_is_kept_with_the_next_append(tmp_path: Path) -> None:
    """An acknowledged batch is not sent again, and is kept for replay."""
    store = open_store(tmp_path / "b.db")
    for _ in range(3):
        store.append(batch())
    store.acknowledge([(1, 1), (2, 1)])
    assert seqs(store) == [3]
    assert (store.stats().batches, store.stats().readings) == (1, 3)
    store.append(batch())
    store.close()
    again = open_store(tmp_path / "b.db")
    assert seqs(again) == [3, 4]
    assert again.stats().kept_batches == 2
    again.close()


def test_seq_is_never_given_twice(tmp_path: Path) -> None:
    """Numbers go on behind the highest ever given, also when every batch has been deleted."""
    store = open_store(tmp_path / "b.db", retain_s=-1)  # what is acknowledged goes with the next append
    for _ in range(5):
        store.append(batch())
    store.acknowledge([(seq, 1) for seq in range(1, 6)])
    store.flush()
    store.append(batch())
    store.acknowledge([(6, 1)])
    store.close()
    again = open_store(tmp_path / "b.db", retain_s=-1)
    assert again.append(batch()) == 7
    again.close()


def test_limit_drops_acknowledged_first_then_oldest(tmp_path: Path) -> None:
    """At the limit the acknowledged go first, then the oldest; what was lost is counted."""
    store = open_store(tmp_path / "b.db", max_bytes=1 << 20)
    for _ in range(4):
        store.append(batch(os.urandom(100_000)))
    store.acknowledge([(3, 1), (4, 1)])
    for _ in range(10):
        store.append(batch(os.urandom(100_000)))
    left = seqs(store)
    assert 3 not in left and 4 not in left
    assert left == list(range(left[0], 15))
    stats = store.stats()
    dropped = left[0] - 1 - 2 * (left[0] > 4)
    assert (stats.dropped_batches, stats.dropped_readings) == (dropped, 3 * dropped)
    assert stats.bytes <= 1 << 20
    store.close()


APPEND_FOR_EVER = """
import sys
from pathlib import Path
from parkfleet.agent.store import NewBatch, Store
store = Store.open(Path(sys.argv[1]), 3600, 1 << 30)
while True:
    print(store.append(NewBatch(b"s", 7, 1, b"x" * 1000, 1, 0, 0)), flush=True)
"""


def test_append_survives_kill(tmp_path: Path) -> None:
    """Every number that append() returned is in the file after kill -9, with none missing between."""
    path = tmp_path / "b.db"
    with subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().splitlines() if line]
    store = open_store(path)
    found = seqs(store)
    assert found == list(range(1, len(found) + 1))
    assert len(told) <= len(found) <= len(told) + 1  # the last may have been stored and not told
    store.close()


def test_open_foreign_database(tmp_path: Path) -> None:
    """A database that is not ours is never written to."""
    path = tmp_path / "b.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE pictures (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(ForeignStoreError, match="not a ParkFleet buffer"):
        open_store(path)
    assert path.read_bytes() == before


def test_open_newer_database(tmp_path: Path) -> None:
    """A buffer written by a newer agent is refused, not touched."""
    path = tmp_path / "b.db"
    open_store(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(NewerStoreError, match="written by a newer agent"):
        open_store(path)
    assert path.read_bytes() == before


async def test_older_agent_on_a_newer_buffer(tmp_path: Path) -> None:
    """It leaves the file alone and works in one beside; the newer agent sends what stands in both."""
    path = tmp_path / "b.db"
    newer = await opened(path)
    await newer.append(batch(b"newer"))
    await newer.close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    older = await opened(path)
    await older.append(batch(b"older"))
    assert older.trouble == ""
    assert [stored.body for stored in await older.waiting(everything, 10)] == [b"older"]
    await older.close()
    assert path.read_bytes() == before
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.close()
    (tmp_path / f"b.db.v{SCHEMA_VERSION}").rename(tmp_path / f"b.db.v{SCHEMA_VERSION - 1}")  # as an older one names it
    again = await opened(path)
    waiting = await again.waiting(everything, 10)
    assert sorted(stored.body for stored in waiting) == [b"newer", b"older"]
    again.acknowledge(waiting)
    assert await again.waiting(everything, 10) == []
    await again.close()


def test_migration_from_version_1(tmp_path: Path) -> None:
    """A buffer of the first version keeps its epoch, its batches, and what was acknowledged."""
    path = tmp_path / "b.db"
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.close()
    store = open_store(path)
    assert store.epoch == 77
    assert [(stored.seq, stored.count, stored.body) for stored in store.waiting(Span(), 10)] == [(2, 1, b"waits")]
    assert store.stats().kept_batches == 1
    assert store.append(batch()) == 3
    store.close()


class Dying(sqlite3.Connection):
    """Dies at a statement, as by kill -9: nothing after it reaches the file."""

    left = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if self.left == 0:
            raise SystemExit
        self.left -= 1
        return super().execute(*arguments)


def test_migration_that_dies_anywhere(tmp_path: Path) -> None:
    """Killed at any statement of the migrations, the next start finds a file that it brings forward."""
    for start in ("", VERSION_1):
        for statements in range(2, 30, 3):
            path = tmp_path / f"{bool(start)}-{statements}.db"
            dying = sqlite3.connect(path, isolation_level=None, factory=Dying)
            dying.executescript(start)
            dying.left = statements
            with contextlib.suppress(SystemExit):
                migrate(dying)
            dying.left = -1
            dying.close()
            store = open_store(path)
            assert len(store.waiting(Span(), 10)) == bool(start)
            assert store.append(batch()) == (3 if start else 1)
            store.close()


async def test_damage_that_shows_while_it_runs(tmp_path: Path) -> None:
    """A file that goes bad under a running agent is moved aside; what comes then is durable, in a new epoch."""
    path = tmp_path / "b.db"
    buffer = await opened(path)
    for _ in range(300):
        await buffer.append(batch(os.urandom(3000)))
    (epoch,) = await buffer.last_seqs()
    assert buffer._disk is not None
    buffer._disk._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        for page in range(2, 200):
            file.seek(4096 * page)
            file.write(os.urandom(4096))
    buffer._disk._db.execute("PRAGMA cache_size = 0")
    await buffer.waiting(everything, 1000)
    await buffer.append(batch(b"after"))
    (stored,) = await buffer.waiting(everything, 10)
    assert (stored.body, stored.epoch != epoch, buffer.trouble) == (b"after", True, "")
    assert len(list(tmp_path.glob("b.db.aside-*-1"))) == 1
    await buffer.close()


APPEND = """
import sys
from pathlib import Path
from parkfleet.agent.store import NewBatch, Store
store = Store.open(Path(sys.argv[1]), 3600, 1 << 30)
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        seq = store.append(NewBatch(b"s", 7, 1, b"x" * 1000, 1, 0, 0))
        store.acknowledge([(seq, 1)])
    print("done", flush=True)
"""


def test_one_sync_for_each_append_and_none_in_between(tmp_path: Path) -> None:
    """SD cards: an append with all that rides on it is one sync of the disk, and nothing due is none."""
    counter = SyncCounter(tmp_path)
    command = [sys.executable, "-c", APPEND, str(tmp_path / "b.db")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=counter.environment, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        counts = []
        for appends in (1, 100, 0):
            before = counter.written.syncs
            child.stdin.write(f"{appends}\n")
            child.stdin.flush()
            child.stdout.readline()
            counts.append(counter.written.syncs - before)
        child.stdin.close()
    assert counts[1:] == [100, 0]  # the first append begins the log, which is a sync of its own


def everything(_epoch: int) -> Span:
    return Span()


VERSION_1 = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
INSERT INTO facts VALUES ('epoch', '77');
CREATE TABLE schemas (id INTEGER PRIMARY KEY, packed BLOB);
CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT, schema_id INTEGER NOT NULL REFERENCES schemas(id),
    codec INTEGER NOT NULL, body BLOB NOT NULL, readings INTEGER NOT NULL, first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL, acked_ms INTEGER);
CREATE INDEX idx_batches_acked_ms_seq ON batches (acked_ms, seq);
CREATE TABLE _sqlite_migrations (migration_set TEXT, name TEXT, applied_at TEXT, PRIMARY KEY (migration_set, name));
INSERT INTO _sqlite_migrations VALUES ('parkfleet-buffer', 'm1_batches', '2026-01-01');
INSERT INTO schemas VALUES (7, x'01');
INSERT INTO batches VALUES (1, 7, 1, x'00', 1, 0, 0, 1795438548000);
INSERT INTO batches VALUES (2, 7, 1, CAST('waits' AS BLOB), 1, 0, 0, NULL);
PRAGMA user_version = 1;
"""


def config() -> BufferConfig:
    return BufferConfig(flush=Duration(1), retain=Duration(3600), max_bytes=Size(1 << 24))


async def opened(path: Path) -> Buffer:
    buffer = Buffer(path, config())
    await buffer.open()
    return buffer


async def test_buffer_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    """A damaged file is kept under another name, and a new epoch begins."""
    path = tmp_path / "b.db"
    store = open_store(path)
    for _ in range(100):
        store.append(batch(os.urandom(1000)))
    epoch = store.epoch
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(30000))
    buffer = await opened(path)
    await buffer.append(batch())
    (stored,) = await buffer.waiting(everything, 10)
    assert stored.epoch != epoch
    assert len(list(tmp_path.glob("b.db.aside-*"))) == 1
    await buffer.close()


@pytest.mark.parametrize("content", [b"no database" * 1000, b"foreign", b"newer"])
async def test_buffer_tells_the_fleet_of_a_file_it_cannot_use(tmp_path: Path, content: bytes) -> None:
    """An event says where the old file is; nothing waits for anybody to look."""
    path = tmp_path / "b.db"
    if content == b"foreign":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE t (x)")
    elif content == b"newer":
        Store.open(path, 3600, 1 << 24).close()
        with sqlite3.connect(path) as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    else:
        path.write_bytes(content)
    told: list[tuple[str, dict[str, object]]] = []
    buffer = Buffer(path, config(), lambda kind, _text, data: told.append((kind, data)))
    await buffer.open()
    await buffer.append(batch())
    await buffer.close()
    ((kind, data),) = told
    assert kind == ("buffer-newer" if content == b"newer" else "buffer-aside")
    assert (tmp_path / str(data.get("aside") or data.get("used"))).exists()


async def test_buffer_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Where the disk refuses, batches wait in memory, under an epoch that will never be on the disk."""
    buffer = await opened(tmp_path / "no-such-folder/b.db")
    assert "cannot open" in buffer.trouble
    await buffer.append(batch())
    assert len(await buffer.waiting(everything, 10)) == 1
    await buffer.close()


async def test_buffer_disk_full_then_free(tmp_path: Path) -> None:
    """A full disk: nothing is lost while it is full, and both stores' batches come out."""
    buffer = await opened(tmp_path / "b.db")
    await buffer.append(batch())
    disk = buffer._disk
    assert disk is not None
    pages = disk._db.execute("PRAGMA page_count").fetchone()[0]
    disk._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as when the device has no block left
    await buffer.append(batch(os.urandom(50_000)))
    assert "full" in buffer.trouble
    disk._db.execute("PRAGMA max_page_count = 1000000")
    await buffer.append(batch())
    waiting = await buffer.waiting(everything, 10)
    assert [(stored.epoch == disk.epoch, stored.seq) for stored in waiting] == [(True, 1), (True, 2), (False, 1)]
    assert buffer.trouble == ""
    buffer.acknowledge(waiting)
    assert await buffer.waiting(everything, 10) == []
    await buffer.close()


async def test_buffer_wakes_who_waits(tmp_path: Path) -> None:
    """A forwarder that waits is woken by the next batch."""
    buffer = await opened(tmp_path / "b.db")
    waiter = asyncio.create_task(buffer.wait_for_batch())
    await buffer.append(batch())
    await waiter
    await buffer.close()


def test_application_id_is_ours(tmp_path: Path) -> None:
    """`file b.db` and the agent both know whose file it is."""
    open_store(tmp_path / "b.db").close()
    database = sqlite3.connect(tmp_path / "b.db")
    assert database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    database.close()
