"""fault-agent: the agent between real meters, a real broker and a consumer, and everything that can fail does.

The account must come out exactly: every reading that a meter answered was received once and unchanged, or was thinned
or dropped and counted so, or was answered within the last flush interval before a kill -9.
"""

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from parkfleet.agent.store import Store
from parkfleet.protocols.config import BrokerConfig
from parkfleet.simulators.broker import RunningBroker, free_port, running_broker
from parkfleet.simulators.demo.account import answered_samples
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.processes import Child
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.record import AnswerRecord
from parkfleet.simulators.verdict import ANSWERED, Sample, Series, judge
from tests.agent.conftest import SMALL, SMALL_YAML
from tests.agent.site import FLUSH_S, Site
from tests.agent.test_room import FILL_FOR_EVER, READINGS
from tests.benchmarks.reporting import Measure, none, write_report
from tests.eventually import eventually
from tests.faults.collector import Collector

METERS = 10
INTERVAL_MS = 500
MUST_BE_NONE = ("unexplained", "twice", "changed")
#: A batch that is being committed when the kill comes may be late by this much on a busy machine. Seconds.
COMMIT_S = 0.5
#: A meter may still answer the request of an agent that is no more. Seconds.
ANSWER_S = 0.1
HEADER = (
    "One agent process, 10 simulated TCP meters (3 readings each, every 500 ms), flush 0.5 s, a TCP proxy, mosquitto,\n"
    "and a consumer that asks for its gaps. No peer: none of them states what it loses. seed {seed}."
)


@dataclass
class Run:
    """What stands, and what was done to it."""

    folder: Path
    site: Site
    link: LinkProxy
    collector: Collector
    chance: random.Random
    port: int
    agent: Child | None = None
    broker: RunningBroker | None = None
    kills: list[float] = field(default_factory=list)  # unix seconds
    agents: int = 0
    _agents: AsyncExitStack = field(default_factory=AsyncExitStack)
    _brokers: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start_agent(self) -> None:
        self._agents = AsyncExitStack()
        self.agent = await self._agents.enter_async_context(self.site.agent())
        self.agents += 1

    async def kill_agent(self) -> None:
        assert self.agent
        self.agent.kill()
        self.kills.append(time.time())
        await self._agents.aclose()

    async def stop_agent(self) -> None:
        assert self.agent
        await self.agent.stop()
        await self._agents.aclose()

    async def start_broker(self) -> None:
        folder = self.folder / "broker"
        folder.mkdir(exist_ok=True)
        self._brokers = AsyncExitStack()
        self.broker = await self._brokers.enter_async_context(running_broker(folder, self.port))

    async def kill_broker(self, *, forget: bool = False) -> None:
        assert self.broker
        self.broker.child.kill()
        await self._brokers.aclose()
        if forget:
            for file in (self.folder / "broker").glob("*.db*"):
                file.unlink()

    async def fresh_batches(self, count: int = 2) -> None:
        """So many more have come to the consumer: the agent is up and its link is."""
        seen = len(self.collector.taken)
        await eventually(lambda: len(self.collector.taken) >= seen + count, 90)


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
    assert run.agent and run.agent._process
    pid = run.agent._process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, before[1]))
    await run.fresh_batches(4)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await run.fresh_batches(2)


async def damaged_database(run: Run) -> None:
    """The file is overwritten in the middle, when all that stood in it had been received."""
    await run.fresh_batches()
    await run.kill_agent()
    await asyncio.sleep(0.5)  # what is under way to the consumer
    path = run.folder / "buffer.db"
    with path.open("r+b") as file:
        file.seek(run.chance.choice((0, 100, 4096)))
        file.write(os.urandom(8192))
    await run.start_agent()
    await run.fresh_batches(3)


FAULTS: dict[Callable[[Run], Awaitable[None]], int] = {
    kill_in_an_outage: 8,
    broker_loses_what_it_acknowledged: 8,
    broker_forgets_its_sessions: 5,
    partition: 8,
    disk_full: 5,
    damaged_database: 3,
}


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
            child.send_signal(signal.SIGKILL)
    store = Store.open(path, 3600, 200_000)
    stats = store.stats()
    store.close()
    return stats.last_seq * READINGS, stats.readings + stats.thinned_readings + stats.dropped_readings


async def play(folder: Path, kills: int, chance: random.Random) -> tuple[Run, dict[str, int]]:
    """Everything in a random order; returns when all is healed, or has had a minute for it."""
    (folder / "profiles").mkdir()
    (folder / "profiles/small.yaml").write_text(SMALL_YAML)
    record = AnswerRecord()
    meters = [SimulatedMeter(SMALL, unit, load_of("power", unit), unit) for unit in range(1, METERS + 1)]
    site, port = Site(folder, meters, record), free_port()
    faults = [kill_anywhere] * kills + [fault for fault, times in FAULTS.items() for _ in range(times)]
    chance.shuffle(faults)
    done: dict[str, int] = {}
    async with site.park, LinkProxy("127.0.0.1", port) as link:
        path = site.configure(link.port)
        text = path.read_text().replace("200ms", f"{INTERVAL_MS}ms")
        path.write_text(text.replace("keepalive: 5s", "keepalive: 5s\n  ack_timeout: 2s"))
        collector = Collector(BrokerConfig(f"mqtt://127.0.0.1:{port}"), folder / "taken.db")
        run = Run(folder, site, link, collector, chance, port)
        await run.start_broker()
        collecting = asyncio.create_task(collector.run())
        await run.start_agent()
        await run.fresh_batches(1)
        for number, fault in enumerate(faults, 1):
            await fault(run)
            done[fault.__name__] = done.get(fault.__name__, 0) + 1
            if number % 20 == 0:
                print(f"{number} of {len(faults)} faults, {len(collector.taken)} batches received", flush=True)
        await run.fresh_batches(3)
        await asyncio.sleep(20)  # gaps are asked for after 1 s, 2 s, 4 s, 8 s: the last ones have their time
        await run.stop_agent()
        await asyncio.sleep(1)  # what is under way
        collecting.cancel()
        await asyncio.wait([collecting])
        await run.kill_broker()
    return run, done


def account(run: Run) -> dict[str, int]:
    """What was answered, and what became of it."""
    delivered = [
        (Series(reading.meter, reading.point), Sample(reading.ts, reading.value))
        for batch in run.collector.taken
        for reading in batch.readings()
        if reading.quality in ANSWERED
    ]
    tolerance = {f"m{unit}": INTERVAL_MS // 2 for unit in range(1, METERS + 1)}
    verdict = judge(answered_samples(run.site.park), delivered, tolerance)
    near_a_kill = sum(
        any(kill - FLUSH_S - COMMIT_S <= sample.ts / 1000 <= kill + ANSWER_S for kill in run.kills)
        for _, sample in verdict.missing
    )
    for example in verdict.examples:
        print(example)
    return {
        "answered": verdict.readings_answered,
        "received": verdict.readings_delivered,
        "within the last flush of a kill": near_a_kill,
        "unexplained": verdict.lost - near_a_kill,
        "twice": verdict.duplicates,
        "changed": verdict.mismatched,
    }


def main() -> None:
    """Prints the account; FAULT_KILLS and FAULT_SEED in the environment change the run."""
    kills = int(os.environ.get("FAULT_KILLS", "270"))
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.randrange(1, 10**6)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        appended, found = kill_the_store(folder, max(kills // 9, 1), chance)
        run, done = asyncio.run(play(folder, kills, chance))
        found_in = account(run)
        log = (folder / "agent.log").read_text("utf-8", "replace")
        aside = len([file for file in folder.glob("buffer.db.aside-*") if not file.name.endswith(("-wal", "-shm"))])
        if any(found_in[what] for what in MUST_BE_NONE) or "Traceback" in log:
            kept = Path("build/fault-agent.log")
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(log)
            print(f"the agent's log is kept: {kept}")
    rows = [Measure(f"{name}", "times", times) for name, times in sorted(done.items())]
    rows += [
        Measure("kill -9 of the agent", "times", len(run.kills)),
        Measure("batches received", "", len(run.collector.taken)),
        Measure("batches received again, and dropped", "", run.collector.repeated),
        Measure("requests for gaps", "", run.collector.asked),
        Measure("files moved aside", "", aside),
        none("messages not understood", len(run.collector.rejected)),
        none("tracebacks in the log", log.count("Traceback")),
        *(Measure(f"readings {what}", "", count) for what, count in found_in.items() if what not in MUST_BE_NONE),
        *(none(f"readings {what}", count) for what, count in found_in.items() if what in MUST_BE_NONE),
        none("store killed while it joins and thins: readings appended less found", appended - found),
    ]
    write_report("fault-agent", HEADER.format(seed=seed), rows)
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
