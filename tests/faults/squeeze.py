"""Squeeze: an outage that is too long for the buffer, and an agent that is killed while it joins, thins and drops."""

import asyncio
import shutil
import sqlite3
import tempfile
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.eventually import eventually
from tests.faults.run import Run

KILLS: Final = 30
#: The longest life of an agent between two kills. Seconds.
_LIFE_S: Final = 4.0


@dataclass(frozen=True)
class Held:
    """What the buffer has taken, and what became of it. Readings."""

    waiting: int
    thinned: int
    dropped: int
    joined: int  # rows that stand for several batches

    @property
    def taken(self) -> int:
        return self.waiting + self.thinned + self.dropped


@dataclass(frozen=True)
class Account:
    """Of all readings."""

    answered: int
    received: int
    thinned: int
    dropped: int
    lost_at_kills: int
    came_too_late: int  # in the last life, told as time-outs; those of the others are among the lost
    too_many_at_a_kill: int  # kills that cost more than was answered in the last flush interval before them

    @property
    def unexplained(self) -> int:
        return self.answered - self.received - self.thinned - self.dropped - self.lost_at_kills - self.came_too_late


@dataclass
class Squeezed:
    """What the buffer had taken at each kill."""

    held: list[Held] = field(default_factory=list)

    @property
    def kills_while_joining(self) -> int:
        """Kills between which the buffer joined what waited."""
        return sum(now.joined > 0 for now in self.held)

    @property
    def kills_while_thinning(self) -> int:
        """Kills between which it thinned or dropped."""
        pairs = zip(self.held, self.held[1:], strict=False)
        return sum(now.thinned + now.dropped > before.thinned + before.dropped for before, now in pairs)


def account(run: Run, squeezed: Squeezed, received: int) -> Account:
    """What a kill cost is what was answered in that life, less what the buffer took in it."""
    times = sorted(at for _, _, at in run.answered())
    taken, lost, too_many = 0, 0, 0
    ends = [life.began for life in run.lives[1:]]
    for life, end, held in zip(run.lives, ends, squeezed.held, strict=False):
        own = times[bisect_left(times, life.began) : bisect_left(times, end)]
        cost = len(own) - (held.taken - taken)
        at_risk = len(own) - bisect_left(own, life.ended - life.allowed)
        too_many += not 0 <= cost <= at_risk
        lost, taken = lost + cost, held.taken
    last = squeezed.held[-1]
    late = run.account(since=run.lives[-1].began).came_too_late
    return Account(len(times), received, last.thinned, last.dropped, lost, late, too_many)


async def play(run: Run, kills: int) -> Squeezed:
    """From the first batch on the link is away; then it comes back, and all that is left is received."""
    squeezed = Squeezed()
    await run.link.cut()
    await run.start_broker()
    await run.start_agent()
    for number in range(1, kills + 1):
        if number == kills // 3:
            await _until_it_thins(run)
        await asyncio.sleep(_LIFE_S * (0.2 + 0.8 * run.chance.random()))  # the moment is what is random
        await run.kill_agent()
        squeezed.held.append(await asyncio.to_thread(held_by, run.buffer))
        await run.start_agent()
        if number % 10 == 0:
            print(f"squeeze: {number} of {kills} kills, {squeezed.held[-1]}", flush=True)
    run.link.mend()
    await run.fresh_batches(3)
    await eventually(lambda: nothing_waits(run.buffer), 60)
    await run.stop_agent()
    await asyncio.sleep(1)  # what is under way
    squeezed.held.append(await asyncio.to_thread(held_by, run.buffer))
    return squeezed


async def _until_it_thins(run: Run) -> None:
    """The agent is left alone until its buffer is full."""
    async with asyncio.timeout(240):
        while not (await asyncio.to_thread(held_by, run.buffer)).thinned:  # noqa: ASYNC110 (a file tells nobody)
            await asyncio.sleep(1)  # how often it is looked


def held_by(path: Path) -> Held:
    """Of a copy: what a killed agent left is found by the next one as it was."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            if file.name in (path.name, f"{path.name}-wal"):
                shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as db:
            if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'bodies'").fetchone()[0]:
                return Held(0, 0, 0, 0)  # killed before it was made
            facts = dict(db.execute("SELECT name, value FROM facts"))
            waiting, joined = db.execute("SELECT total(readings), count(nullif(count, 1)) FROM batches").fetchone()
    thinned, dropped = (int(facts.get(f"{what}_readings", 0)) for what in ("thinned", "dropped"))
    return Held(int(waiting), thinned, dropped, joined)


def nothing_waits(path: Path) -> bool:
    """Whether everything has been acknowledged, but for what has just come."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        (rows,) = db.execute("SELECT count(*) FROM batches WHERE acked_ms > ?", (2**46,)).fetchone()
    return int(rows) < 4
