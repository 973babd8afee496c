"""Faults: what is done to a run. Each returns when it is healed, or some way into its healing."""

import asyncio
import os
import resource
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Final

from tests.agent.site import FLUSH_S
from tests.faults.run import Run, children_of, pid_of

DAY_S: Final = 86_400
Fault = Callable[[Run], Awaitable[None]]


async def kill_anywhere(run: Run) -> None:
    """kill -9 at any moment of the agent's life, also while it starts."""
    await asyncio.sleep(run.chance.choice((0.3, 1.0, 2.5)) * run.chance.random())  # the moment is what is random
    await run.kill_agent()
    await run.start_agent()


async def kill_in_an_outage(run: Run) -> None:
    """The link is away, the backlog grows, and the agent is killed meanwhile."""
    await run.link.cut()
    await kill_anywhere(run)
    await asyncio.sleep(1 + run.chance.random())  # the outage
    run.link.mend()
    await run.fresh_batches()


async def kill_in_a_migration(run: Run) -> None:
    """An agent that finds a file of an older version is killed while that is brought forward, with the child that does
    it or without."""
    await run.stop_agent()
    await asyncio.to_thread(_as_version_2, str(run.buffer))
    await run.start_agent()
    assert run.agent
    pid = pid_of(run.agent)
    for _ in range(2000):
        if found := children_of(pid):
            break
        await asyncio.sleep(0.005)
    else:
        raise AssertionError("nobody migrates")
    await asyncio.sleep(0.4 * run.chance.random())  # the moment is what is random
    if run.chance.random() < 0.5:
        for child in found:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    await run.kill_agent()
    await run.start_agent()
    await run.fresh_batches()


def _as_version_2(path: str) -> None:
    """The file as the version before would have written it: m3_bodies_apart of agent/migrations.py, backwards."""
    columns = "seq, count, acked_ms, schema_id, codec, readings, first_ts, last_ts, thinned"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in (
            "BEGIN",
            "DROP TRIGGER body_goes_too",
            "ALTER TABLE batches RENAME TO batches_3",
            "DROP INDEX batches_by_acknowledgement",
            "CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
            " count INTEGER NOT NULL, acked_ms INTEGER NOT NULL,"
            " schema_id INTEGER NOT NULL REFERENCES schemas(id), codec INTEGER NOT NULL, readings INTEGER NOT NULL,"
            " first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, thinned INTEGER NOT NULL, parts BLOB NOT NULL,"
            " body BLOB NOT NULL)",
            f"INSERT INTO batches SELECT {columns}, parts, body FROM batches_3 JOIN bodies USING (seq)",
            "DELETE FROM sqlite_sequence WHERE name = 'batches'",
            "UPDATE sqlite_sequence SET name = 'batches' WHERE name = 'batches_3'",
            "DROP TABLE batches_3",
            "DROP TABLE bodies",
            "CREATE INDEX batches_by_acknowledgement ON batches (acked_ms, seq)",
            "DELETE FROM _sqlite_migrations WHERE name = 'm3_bodies_apart'",
            "PRAGMA user_version = 2",
            "COMMIT",
        ):
            db.execute(statement)


async def broker_loses_what_it_acknowledged(run: Run) -> None:
    """The broker is killed 0.2 s after it has acknowledged batches that it had delivered to nobody."""
    await run.fresh_batches()
    await run.collector.leave()
    await asyncio.sleep(2 * FLUSH_S + 0.2)  # batches are acknowledged, and 0.2 s later:
    await run.kill_broker()
    await run.start_broker()
    run.collector.return_()
    await run.fresh_batches(4)


async def broker_forgets_its_sessions(run: Run) -> None:
    """A broker that comes back empty: no session, no schema, no message."""
    await run.kill_broker(forget=True)
    await asyncio.sleep(run.chance.random())  # how long it is away
    await run.start_broker()
    await run.fresh_batches(3)


async def partition(run: Run) -> None:
    """Half-open TCP: nothing comes through, and nobody is told."""
    run.link.silence()
    await asyncio.sleep(1 + 3 * run.chance.random())  # longer than ack_timeout, or shorter
    run.link.mend()
    await run.fresh_batches(3)


async def disk_full(run: Run) -> None:
    """The buffer's files may not grow: what is read goes through memory, and to the disk again afterwards."""
    await run.fresh_batches()
    assert run.agent
    pid = pid_of(run.agent)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, before[1]))
    await run.fresh_batches(4)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await run.fresh_batches(2)


async def clock_jumps(run: Run) -> None:
    """The wall clock is a day ahead, or behind, for a while, and then right again; kills meanwhile. An agent that is
    started when it is behind what it has read keeps its readings until it is right."""
    await run.stop_agent()  # keeps what it has read last
    await run.start_agent()
    await run.fresh_batches()
    for shift in (run.chance.choice((DAY_S, -DAY_S)), 0):
        run.clock.shift(shift)
        await asyncio.sleep(1 + 2 * run.chance.random())  # so long it is wrong
        for _ in range(run.chance.choice((0, 1, 2))):
            await kill_anywhere(run)
    await run.fresh_batches(3)


async def damaged_database(run: Run) -> None:
    """The file is overwritten in the middle, when all that stood in it had been received."""
    await run.fresh_batches()
    await run.kill_agent()
    await asyncio.sleep(0.5)  # what is under way to the consumer
    with run.buffer.open("r+b") as file:
        file.seek(run.chance.choice((0, 100, 4096)))
        file.write(os.urandom(8192))
    await run.start_agent()
    await run.fresh_batches(3)


#: How often each. Kills: 300 together with those of squeeze.py.
FAULTS: Final[dict[Fault, int]] = {
    kill_anywhere: 250,
    kill_in_an_outage: 8,
    kill_in_a_migration: 10,
    broker_loses_what_it_acknowledged: 8,
    broker_forgets_its_sessions: 5,
    partition: 8,
    disk_full: 5,
    clock_jumps: 6,
    damaged_database: 3,
}


async def play(run: Run, share: float) -> dict[str, int]:
    """A share of all of them in a random order, each once at least; returns when all is healed, or has had its time."""
    faults = [fault for fault, times in FAULTS.items() for _ in range(max(1, round(share * times)))]
    run.chance.shuffle(faults)
    done: dict[str, int] = {}
    await run.start_broker()
    await run.start_agent()
    await run.fresh_batches(1)
    for number, fault in enumerate(faults, 1):
        await fault(run)
        done[fault.__name__] = done.get(fault.__name__, 0) + 1
        if number % 20 == 0:
            print(f"{number} of {len(faults)} faults, {len(run.collector.taken)} batches received", flush=True)
    await run.fresh_batches(3)
    await asyncio.sleep(20)  # gaps are asked for after 1 s, 2 s, 4 s, 8 s: the last ones have their time
    await run.stop_agent()
    await asyncio.sleep(1)  # what is under way
    return done
