"""Ground: what stands around a gateway that is measured: meters, broker, and a taker of everything that is published.

All of it on one core, the gateway alone on the other. The meters and the taker are C programs (peers/), so that what is
measured is the gateway.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from parkfleet.simulators.broker import RunningBroker, running_broker
from tests.benchmarks.harness import CLIENT_CORE, SERVER_CORE, compiled

#: What every unit of peers/meters.c gives in one read: 100 registers.
VALUES: Final = 50
#: Units behind one endpoint, as behind a box with an RS-485 bus.
UNITS: Final = 50
#: mosquitto keeps everything for the taker, and has as much under way to it as comes.
BROKER: Final = "max_queued_messages 0\nmax_inflight_messages 0"


class Program:
    """A C program of peers/ that answers each byte on its standard input with a number."""

    def __init__(self, process: asyncio.subprocess.Process, greeting: str) -> None:
        self._process = process
        self.greeting = greeting  # its first line

    @classmethod
    @asynccontextmanager
    async def started(cls, source: str, *arguments: object) -> AsyncIterator[Self]:
        """Ends with the block."""
        program, pipe = compiled(source), asyncio.subprocess.PIPE
        assert program is not None
        process = await asyncio.create_subprocess_exec(program, *map(str, arguments), stdin=pipe, stdout=pipe)
        try:
            assert process.stdout
            yield cls(process, (await process.stdout.readline()).decode().strip())
        finally:
            assert process.stdin
            process.stdin.close()
            await process.wait()

    async def number(self) -> int:
        """What it counts, now."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"?")
        return int(await self._process.stdout.readline())


@dataclass(frozen=True)
class Ground:
    """What stands."""

    folder: Path
    meters: Program  # its number: scans answered
    taker: Program  # its number: messages taken
    broker: RunningBroker
    ports: tuple[int, ...]  # of the meters' endpoints
    base_ms: int  # unix; the meters' times count from here
    count: int  # meters

    @property
    def taken(self) -> Path:
        """What the taker writes, see peers/taker.c."""
        return self.folder / "taken"

    @classmethod
    @asynccontextmanager
    async def prepared(cls, folder: Path, meters: int) -> AsyncIterator[Self]:
        """Starts everything but the gateway. meters: a multiple of UNITS, or fewer."""
        units, port = min(meters, UNITS), None
        os.sched_setaffinity(0, {int(SERVER_CORE)})  # for ourselves and all we start
        async with AsyncExitStack() as stack:
            program = await stack.enter_async_context(Program.started("meters.c", max(meters // units, 1), units))
            base, *ports = map(int, program.greeting.split())
            broker = await stack.enter_async_context(running_broker(folder, port, BROKER))
            taker = await stack.enter_async_context(Program.started("taker.c", broker.port, folder / "taken"))
            yield cls(folder, program, taker, broker, tuple(ports), base, meters)


class Watched:
    """The processes of a gateway, pinned to its core: what they use."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        """Processor time of all its threads and children so far, to the nanosecond."""
        spent = 0
        for pid in self._family():
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                spent += int(thread.read_text().split()[0])
        return spent / 1e9

    def rss_mb(self) -> float:
        """Resident memory of all of them, in MB (10^6 bytes)."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._family())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _family(self) -> list[int]:
        found = [self._pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found


@asynccontextmanager
async def running(command: list[str], folder: Path, environment: dict[str, str]) -> AsyncIterator[Watched]:
    """A gateway on its core; ended by SIGTERM, by SIGKILL when it does not leave. Its output: `folder`/gateway.log."""
    pinned = ["taskset", "-c", CLIENT_CORE, *command]
    with (folder / "gateway.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *pinned, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment}
        )
        try:
            yield Watched(process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()
