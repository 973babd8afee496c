"""Run: what stands in a fault run (meters, agent, link, broker, consumer), what was done to it, and its account."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from parkfleet.protocols.config import BrokerConfig
from parkfleet.simulators.broker import RunningBroker, free_port, running_broker
from parkfleet.simulators.demo.account import answered_samples
from parkfleet.simulators.processes import Child
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.record import AnswerRecord
from parkfleet.simulators.verdict import ANSWERED, Series
from tests.agent.site import FLUSH_S, Site
from tests.eventually import eventually
from tests.faults.collector import Collector
from tests.faults.ledger import Ledger, Life, Timed, balance
from tests.faults.numbered_meter import NumberedMeter, as_yaml, numbered_profile
from tests.faults.shifted_clock import ShiftedClock

#: A batch that is being committed when the kill comes may be late by this much. Seconds.
COMMIT_S: Final = 0.5
#: So far a reading's time may be from the moment its answer left the meter. Seconds.
TIME_S: Final = 1.0
#: How often it is looked at how late this machine is, and how far back a kill's allowance looks. Seconds.
_LOOK_S: Final = 0.05
_LATELY_S: Final = 5.0
#: An agent that joins what waits at once, and not only in an outage of half a minute; thins to two seconds, and not to
#: a minute; has room for so many bytes, fewer than one may configure.
_HASTY: Final = """
import sys
from pathlib import Path
from parkfleet.agent import buffer, process, thinning
from parkfleet.agent.store import Store
buffer.JOIN_QUIET_S, thinning.WINDOWS_MS = 0.2, (2_000, *thinning.WINDOWS_MS)
limit, Store.limit = Store.limit, lambda self: min(limit(self), {room})
sys.exit(process.main(Path(sys.argv[1]), sys.argv[2]))
"""


class Lateness:
    """How late this machine wakes who waits: on a starved one a flush comes later too."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []  # monotonic, seconds late
        self.most = 0.0

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            due = time.monotonic() + _LOOK_S
            await asyncio.sleep(_LOOK_S)  # what is measured is how much longer that takes
            now = time.monotonic()
            self._seen = [(at, late) for at, late in self._seen if now - at < _LATELY_S] + [(now, now - due)]
            self.most = max(self.most, now - due)

    def lately(self) -> float:
        """The latest of the last seconds."""
        return max((late for _, late in self._seen), default=0.0)


@dataclass
class Run:
    """One."""

    folder: Path
    site: Site
    link: LinkProxy
    collector: Collector
    chance: random.Random
    port: int
    clock: ShiftedClock
    room: int  # bytes of the buffer; 0: as many as an agent usually has
    lateness: Lateness = field(default_factory=Lateness)
    lives: list[Life] = field(default_factory=list)
    agent: Child | None = None
    broker: RunningBroker | None = None
    _began: float = 0.0
    _agents: AsyncExitStack = field(default_factory=AsyncExitStack)
    _brokers: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def kills(self) -> int:
        return sum(life.killed for life in self.lives)

    @property
    def buffer(self) -> Path:
        return self.folder / "buffer.db"

    async def start_agent(self) -> None:
        configuration = str(self.folder / "gateway.yaml")
        command = ["env", *(f"{name}={value}" for name, value in self.clock.environment.items()), sys.executable]
        if self.room:
            command += ["-c", _HASTY.format(room=self.room), configuration, "INFO"]
        else:
            command += ["-m", "parkfleet", "agent", "run", "--config", configuration]
        self._agents, self._began = AsyncExitStack(), time.time()
        self.agent = await self._agents.enter_async_context(Child("agent", command, self.folder / "agent.log"))

    async def kill_agent(self) -> None:
        assert self.agent
        allowed = FLUSH_S + COMMIT_S + 2 * self.lateness.lately()
        self.agent.kill()
        self.lives.append(Life(self._began, time.time(), killed=True, allowed=allowed))
        await self._agents.aclose()

    async def stop_agent(self) -> None:
        assert self.agent
        await self.agent.stop()
        self.lives.append(Life(self._began, time.time(), killed=False))
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

    def answered(self) -> list[Timed]:
        """Every reading that the meters gave."""
        return [(series, sample.value, sample.ts / 1000) for series, sample in answered_samples(self.site.park)]

    def received(self) -> list[Timed]:
        """Every reading that the consumer has. What thinning makes of gauges are other points: no meter gave those."""
        return [
            (Series(reading.meter, reading.point), reading.value, reading.ts / 1000)
            for batch in self.collector.taken
            for reading in batch.readings()
            if reading.quality in ANSWERED and not reading.point.endswith(("_mean", "_min", "_max"))
        ]

    def timeouts(self) -> list[tuple[Series, float]]:
        """Every reading that says that the meter did not answer in time."""
        return [
            (Series(reading.meter, reading.point), reading.ts / 1000)
            for batch in self.collector.taken
            for reading in batch.readings()
            if reading.quality == "timeout"
        ]

    def account(self, since: float = 0.0) -> Ledger:
        """Every reading that was answered, since a unix time, against those that were received."""
        late = TIME_S + 2 * self.lateness.most

        def is_right(answered_at: float, told: float) -> bool:
            # What waited until the clock was right has the right time.
            shifts = {0, *self.clock.shifts_at(answered_at)}
            return any(abs(told - answered_at - shift) <= late for shift in shifts)

        answered = [timed for timed in self.answered() if timed[2] >= since]
        return balance(answered, self.received(), self.timeouts(), self.lives, is_right)


@asynccontextmanager
async def standing(
    folder: Path, chance: random.Random, *, meters: int, gauges: int, interval_ms: int, room: int = 0
) -> AsyncIterator[Run]:
    """Everything stands, the broker and the agent not yet; in the end both are gone."""
    (folder / "profiles").mkdir(parents=True)
    profile = numbered_profile(gauges)
    (folder / "profiles/numbered.yaml").write_text(as_yaml(profile))
    record, port = AnswerRecord(), free_port()
    site = Site(folder, [NumberedMeter(profile, unit) for unit in range(1, meters + 1)], record)
    async with site.park, LinkProxy("127.0.0.1", port) as link:
        path = site.configure(link.port)
        text = path.read_text().replace("200ms", f"{interval_ms}ms")
        path.write_text(text.replace("keepalive: 5s", "keepalive: 5s\n  ack_timeout: 2s"))
        collector = Collector(BrokerConfig(f"mqtt://127.0.0.1:{port}"), folder / "taken.db")
        run = Run(folder, site, link, collector, chance, port, ShiftedClock(folder), room)
        tasks = [asyncio.create_task(collector.run()), asyncio.create_task(run.lateness.run())]
        try:
            yield run
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await run._agents.aclose()
            await run._brokers.aclose()


def pid_of(child: Child) -> int:
    """The process's id: `env` and `setpriv` become the command they start."""
    assert child._process is not None
    return child._process.pid


def children_of(pid: int) -> list[int]:
    """Processes that it has started and that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found
