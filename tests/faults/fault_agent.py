"""fault-agent: the agent between real meters, a real broker and a consumer, and everything that can fail does.

The account must come out exactly: every reading that a meter answered was received once, unchanged and at its time, or
was thinned or dropped and counted so, or was answered within the last flush interval before a kill -9. In any other
moment of a life nothing may be missing, and behind what a kill costs nothing may have come.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from parkfleet.agent.store import Store
from tests.agent.test_room import FILL_FOR_EVER, READINGS
from tests.benchmarks.reporting import Measure, none, write_report
from tests.faults import faults, squeeze
from tests.faults.run import Run, standing

HEADER = (
    "Two runs, each with one agent process, simulated TCP meters, a TCP proxy, mosquitto, and a consumer that asks\n"
    "for its gaps; flush 0.5 s. Everything: 10 meters of 3 readings every 500 ms. Squeeze: 20 meters of 60 readings\n"
    "every 250 ms, a buffer of 200 KiB, no link until the end. Every reading has a value of its own, and is looked\n"
    "for one by one. No peer: none of them states what it loses. seed {seed}."
)
#: Processes that only append, join, thin and drop, killed beside the agents.
STORE_KILLS = 30


def kill_the_store(folder: Path, times: int, chance: random.Random) -> tuple[int, int]:
    """kill -9 of a process that appends, joins, thins and drops without a pause. Returns readings appended, and found.

    Found: those that wait, those that were thinned, those that were dropped.
    """
    path = folder / "store.db"
    for _ in range(times):
        with subprocess.Popen([sys.executable, "-c", FILL_FOR_EVER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.random() / 4)  # the moment is what is random
            child.kill()
    with closing(Store.open(path, 3600, 200_000)) as store:
        stats = store.stats()
    return stats.last_seq * READINGS, stats.readings + stats.thinned_readings + stats.dropped_readings


def healthy(run: Run, name: str) -> list[Measure]:
    """What must not be in any run; keeps the agent's log if it is."""
    log = (run.folder / "agent.log").read_text("utf-8", "replace")
    rows = [
        none(f"{name}: messages not understood", len(run.collector.rejected)),
        none(f"{name}: tracebacks in the log", log.count("Traceback")),
    ]
    kept = Path("build") / f"fault-agent-{name}.log"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(log)
    return rows


async def everything(folder: Path, chance: random.Random, share: float) -> list[Measure]:
    """Every fault of faults.py, and its account."""
    async with standing(folder, chance, meters=10, gauges=2, interval_ms=500) as run:
        done = await faults.play(run, share)
        ledger = run.account()
    for example in ledger.examples:
        print(example)
    aside = [file for file in folder.glob("buffer.db.aside-*") if not file.name.endswith(("-wal", "-shm"))]
    return [
        *(Measure(f"everything: {name}", "times", times) for name, times in sorted(done.items())),
        Measure("everything: kill -9 of the agent", "times", run.kills),
        Measure("everything: batches received", "", len(run.collector.taken)),
        Measure("everything: batches received again, and dropped", "", run.collector.repeated),
        Measure("everything: requests for gaps", "", run.collector.asked),
        Measure("everything: files moved aside", "", len(aside)),
        *healthy(run, "everything"),
        Measure("everything: this machine woke who waited late by up to", "s", run.lateness.most),
        Measure("everything: readings answered", "", ledger.answered),
        Measure("everything: readings received", "", ledger.received),
        Measure("everything: readings within the last flush of a kill", "", ledger.lost_at_kills),
        Measure("everything: the oldest of them, before its kill", "s", ledger.oldest_lost),
        Measure("everything: answers that came too late, and were told as time-outs", "", ledger.came_too_late),
        none("everything: readings unexplained", ledger.unexplained),
        none("everything: readings twice", ledger.twice),
        none("everything: readings changed", ledger.never_answered),
        none("everything: readings at a wrong time", ledger.wrong_time),
    ]


async def squeezed(folder: Path, chance: random.Random, kills: int) -> list[Measure]:
    """An outage that is too long for the buffer, and its account."""
    async with standing(folder, chance, meters=20, gauges=59, interval_ms=250, room=200 * 1024) as run:
        what = await squeeze.play(run, kills)
        ledger = run.account()
        account = squeeze.account(run, what, ledger.received)
    return [
        Measure("squeeze: kill -9 of the agent", "times", run.kills),
        Measure("squeeze: of them while it joined", "times", what.kills_while_joining),
        Measure("squeeze: of them while it thinned or dropped", "times", what.kills_while_thinning),
        *healthy(run, "squeeze"),
        Measure("squeeze: this machine woke who waited late by up to", "s", run.lateness.most),
        Measure("squeeze: readings answered", "", account.answered),
        Measure("squeeze: readings received", "", account.received),
        Measure("squeeze: readings thinned", "", account.thinned),
        Measure("squeeze: readings dropped", "", account.dropped),
        Measure("squeeze: readings lost at kills", "", account.lost_at_kills),
        none("squeeze: kills that cost more than their last flush", account.too_many_at_a_kill),
        none("squeeze: readings unexplained", account.unexplained),
        none("squeeze: readings twice", ledger.twice),
        none("squeeze: readings changed", ledger.never_answered),
        none("squeeze: readings at a wrong time", ledger.wrong_time),
    ]


def main() -> None:
    """Prints the account; FAULT_SHARE (of all faults, 0 to 1) and FAULT_SEED in the environment change the run."""
    share = float(os.environ.get("FAULT_SHARE", "1"))
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.randrange(1, 10**6)
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        rows = asyncio.run(squeezed(folder / "squeeze", chance, max(1, round(share * squeeze.KILLS))))
        rows += asyncio.run(everything(folder / "everything", chance, share))
        appended, found = kill_the_store(folder, max(1, round(share * STORE_KILLS)), chance)
    kills = sum(row.ours for row in rows if row.measure.endswith("kill -9 of the agent"))
    wanted = round(300 * share)
    rows += [
        none("store killed while it joins and thins: readings appended less found", appended - found),
        Measure("kill -9 of the agent in all", "times", kills, target=f">= {wanted}", met=kills >= wanted),
    ]
    write_report("fault-agent", HEADER.format(seed=seed), rows)
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
