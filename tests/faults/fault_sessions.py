"""fault-sessions: 100,000 gateways come and go, in every way that there is, and leave nothing behind in the controller.

Mutual TLS, a session that is claimed, stored and ended each time: by a goodbye, by garbage, in the middle of
heartbeats, or before the welcome was read. Afterwards memory, descriptors and tasks are where they were.
"""

import argparse
import asyncio
import re
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from parkfleet.agent.identity import Credentials
from parkfleet.controller.authority import Authority
from parkfleet.proto.session_pb2 import ControllerMessage
from tests.benchmarks.reporting import Measure, write_report
from tests.controller.fleet_site import credentials, names
from tests.controller.raw_agent import METHOD, goodbye, heartbeat, hello
from tests.identity.guarded import Guarded, guarded

CYCLES = 100_000
#: Gateways that come by turns: none so often that the controller takes it for a nuisance.
GATEWAYS = 2_000
#: At a time. More would only wait.
WORKERS = 48
#: Until here caches fill and the allocator finds its size; from here on nothing may grow. Cycles.
SETTLED = 20_000
#: Memory is counted in pages that an allocator may keep: so much is no leak of 80,000 sessions. MiB.
MAX_GROWTH_MIB = 8.0
#: The longest that one cycle, with its waiting for a turn, may take before it is a fault. Seconds.
CYCLE_S = 120.0
HEADER = (
    "One controller process (SQLite, mutual TLS), {workers} clients at a time in this process: {cycles} sessions of\n"
    "{gateways} gateways, each a handshake, a hello and a welcome, then a goodbye, garbage, a heartbeat and a dropped\n"
    "connection, or one that is dropped at once. No peer. Growth is counted from cycle {settled} on."
)


@dataclass
class Tally:
    """What became of the cycles."""

    done: int = 0
    sent_away: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Vitals:
    """The controller's own numbers."""

    rss_mib: float
    descriptors: int
    tasks: int
    sessions: int
    cpu_s: float


class Visitor:
    """Comes and goes."""

    def __init__(self, address: str, given: dict[str, Credentials], tally: Tally) -> None:
        self._address = address
        self._given = given
        self._tally = tally

    async def cycle(self, number: int, name: str) -> None:
        """One session, tried again when the controller says that its turn is later."""
        while True:
            found = self._given[name]
            tls = grpc.ssl_channel_credentials(found.ca, found.key, found.chain)
            options = (("grpc.use_local_subchannel_pool", 1),)
            async with aio.secure_channel(self._address, tls, options=options) as channel:
                away_s = await self._visit(channel, number % 4, name)
            if away_s is None:
                self._tally.done += 1
                return
            self._tally.sent_away += 1
            await asyncio.sleep(away_s)

    async def _visit(self, channel: aio.Channel, way: int, name: str) -> float | None:
        """Begins a session and ends it; or how long to stay away."""
        stream: Any = channel.stream_stream(METHOD)()
        await stream.write(hello(name).SerializeToString())
        raw = await stream.read()
        if not isinstance(raw, bytes):
            raise ConnectionError(f"no welcome: {await stream.details()}")
        message = ControllerMessage.FromString(raw)
        if message.WhichOneof("message") == "retry_after":
            stream.cancel()
            return message.retry_after.ms / 1000
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):
            match way:
                case 0:
                    await stream.write(goodbye("bye").SerializeToString())
                    await stream.code()
                case 1:
                    await stream.write(b"\xff\xff")
                    await stream.code()
                case 2:
                    await stream.write(heartbeat(sequence=1).SerializeToString())
        stream.cancel()
        return None


async def vitals(controller: Guarded) -> Vitals:
    """As /metrics tells them, once no session is open."""
    url = re.findall(r"metrics at (\S+)", controller.child.output())[-1]
    while True:
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read().decode())
        found = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
        if not found["parkfleet_sessions"]:
            break
        await asyncio.sleep(0.2)
    return Vitals(
        found["process_resident_memory_bytes"] / 2**20,
        int(found["process_open_fds"]),
        int(found["parkfleet_tasks"]),
        int(found["parkfleet_sessions"]),
        found["process_cpu_seconds_total"],
    )


async def settled(controller: Guarded) -> Vitals:
    """The vitals once descriptors and tasks have come to rest: connections are closed a little after their streams."""
    before = await vitals(controller)
    while True:
        await asyncio.sleep(1.0)
        now = await vitals(controller)
        if (now.descriptors, now.tasks) == (before.descriptors, before.tasks):
            return now
        before = now


async def run(folder: Path, cycles: int, settle: int) -> tuple[list[Vitals], Tally, float]:
    """The controller's vitals at each tenth from the settled cycle on."""
    tally = Tally()
    found: list[Vitals] = []
    async with guarded(folder, "--log-level", "error", "--heartbeat", "30s") as controller:
        authority = Authority.at(controller.data, time.time())
        key = ec.generate_private_key(ec.SECP256R1())
        given = {name: credentials(authority, key, f"p1/{name}") for name in names(GATEWAYS)}
        visitor = Visitor(controller.sessions, given, tally)
        every = list(given)
        numbers = iter(range(cycles))

        async def work(until: int) -> None:
            while tally.done < until and (number := next(numbers, None)) is not None:
                try:
                    async with asyncio.timeout(CYCLE_S):
                        await visitor.cycle(number, every[number % GATEWAYS])
                except (aio.AioRpcError, OSError, TimeoutError) as error:
                    tally.failed.append(f"{type(error).__name__}: {error}"[:300])

        began = time.monotonic()
        step = max(1, (cycles - settle) // 8)
        for until in [settle, *range(settle + step, cycles + 1, step)]:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(WORKERS):
                    tasks.create_task(work(until))
            found.append(await settled(controller))
            last = found[-1]
            print(
                f"{tally.done:7} cycles, {time.monotonic() - began:6.0f} s: {last.rss_mib:7.1f} MiB, "
                f"{last.descriptors} descriptors, {last.tasks} tasks, sent away {tally.sent_away}, "
                f"failed {len(tally.failed)}",
                flush=True,
            )
        return found, tally, time.monotonic() - began


def main() -> None:
    """Runs it and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    cycles = parser.parse_args().cycles
    settle = cycles * SETTLED // CYCLES
    with tempfile.TemporaryDirectory(prefix="parkfleet-fault-sessions-") as folder:
        found, tally, took_s = asyncio.run(run(Path(folder), cycles, settle))
    first, last = found[0], found[-1]
    growth = last.rss_mib - first.rss_mib
    descriptors, tasks = last.descriptors - first.descriptors, last.tasks - first.tasks
    limit = f"<= {MAX_GROWTH_MIB:g}"
    rows = [
        Measure("sessions that began and ended", "", tally.done, target=f"= {cycles}", met=tally.done >= cycles),
        Measure("failed otherwise than by their own fault", "", len(tally.failed), target="0", met=not tally.failed),
        Measure("memory grown since settled", "MiB", growth, target=limit, met=growth <= MAX_GROWTH_MIB),
        Measure("memory at the end", "MiB", last.rss_mib),
        Measure("descriptors more than when settled", "", descriptors, target="<= 0", met=descriptors <= 0),
        Measure("tasks more than when settled", "", tasks, target="<= 0", met=tasks <= 0),
        Measure("controller's CPU a session", "ms", 1000 * (last.cpu_s - first.cpu_s) / max(1, tally.done - settle)),
        Measure("sessions a second, clients on the same cores", "1/s", tally.done / took_s),
    ]
    words = {"workers": WORKERS, "cycles": cycles, "gateways": GATEWAYS, "settled": settle}
    write_report("fault-sessions", HEADER.format(**words), rows)
    for told in tally.failed[:5]:
        print(told)


if __name__ == "__main__":
    main()
