"""make bench-fleet: one controller and up to 10,000 gateways on this machine. About 15 minutes on two cores.

Each gateway has a certificate, a mutual-TLS connection and the agent's own session code (`parkfleet sim fleet`, two
processes at most); the controller is the process that `parkfleet controller run` starts, on SQLite.
"""

import asyncio
import math
import re
import shutil
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import ConfigStore
from parkfleet.controller.database import Database
from parkfleet.protocols.document import Document
from parkfleet.simulators.broker import free_port
from parkfleet.simulators.fleet.crowd import CrowdReport, CrowdState, names
from parkfleet.simulators.processes import Child
from tests.benchmarks.reporting import Measure, write_report
from tests.config.fleet import GATEWAY, HEAT, PARK, REGION
from tests.identity.guarded import PARKFLEET, Guarded, guarded

PARKS: Final = 56
HEARTBEAT: Final = "30s"
STEPS: Final = (500, 1_000, 5_000, 10_000)
LARGEST: Final = STEPS[-1]
#: How long CPU is measured at each step, and at the last. Seconds.
SHORT_S: Final = 15.0
STEADY_S: Final = 600.0
HEADER: Final = f"""
One controller process (SQLite, heartbeat {HEARTBEAT}) and up to {LARGEST} gateways in two processes, all on the two
cores of this machine: each gateway has a key, a certificate, a connection with mutual TLS, and the agent's session
code. What the gateways' processes use of the cores is theirs: the controller's figures are its own, times contain both.
No peer: hawkBit and Mender hold no sessions, devices poll them.
"""


class Vitals(NamedTuple):
    """The controller, as its metrics say."""

    at: float
    cpu_s: float
    rss: float
    sessions: float
    commits: float
    in_sync: float
    refused: float


async def vitals(controller: Guarded) -> Vitals:
    """Asks for its metrics."""
    url = re.findall(r"metrics at (\S+)", controller.child.output())[-1]

    def ask() -> str:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return str(answer.read().decode())

    lines = [line for line in (await asyncio.to_thread(ask)).splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    return Vitals(
        time.monotonic(),
        found["process_cpu_seconds_total"],
        found["process_resident_memory_bytes"],
        found["parkfleet_sessions"],
        found["parkfleet_commits_total"],
        found.get('parkfleet_configuration{state="in_sync"}', 0.0),
        found.get("parkfleet_sessions_refused_total", 0.0),
    )


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, what: str) -> float:
    """Waits for it; seconds that it took, or raises TimeoutError."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.5)  # what is waited for takes seconds
    took = time.monotonic() - began
    print(f"  {what}: {took:.1f} s", flush=True)
    return took


class Gateways:
    """The gateways of one step, in one or two processes."""

    def __init__(self, folder: Path, children: list[Child]) -> None:
        self._folder = folder
        self._children = children

    @property
    def states(self) -> list[CrowdState]:
        """The last word of each process."""
        lines = [child.output().splitlines() for child in self._children]
        words = [next((line for line in reversed(own) if line.startswith("{")), None) for own in lines]
        return [msgspec.json.decode(word, type=CrowdState) for word in words if word]

    @property
    def connected(self) -> int:
        return sum(state.connected for state in self.states)

    async def reports(self) -> list[CrowdReport]:
        """Ends them; what they saw."""
        for child in self._children:
            assert await child.stop() == 0, child.output()[-2000:]
        files = sorted(self._folder.glob("*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=CrowdReport) for path in files]


@asynccontextmanager
async def gateways(folder: Path, data: Path, address: str, number: int) -> AsyncIterator[Gateways]:
    """So many, while the block runs."""
    folder.mkdir()
    processes = 2 if number > 1000 else 1
    share = number // processes
    async with AsyncExitStack() as life:
        children = []
        for own in range(processes):
            options = ["--gateways", str(share), "--first", str(own * share), "--controller", address, "--json"]
            options += ["--data", str(data), "--parks", str(PARKS), "--report", str(folder / f"{own}.json")]
            child = Child(f"fleet {own}", [*PARKFLEET, "sim", "fleet", *options], folder / f"{own}.log", grace_s=60)
            children.append(await life.enter_async_context(child))
        yield Gateways(folder, children)


async def prepare(data: Path) -> None:
    """A configuration for all gateways, before the controller runs."""
    data.mkdir(parents=True)
    database = await Database.open(f"sqlite:///{data}/controller.db")
    store = ConfigStore(database, SecretBox.at(data / "secrets.key"))
    keys = list(names(LARGEST, PARKS))
    layers = {"region/north": REGION, "label/heat": HEAT}
    layers |= {f"park/{park}": PARK for park in sorted({park for park, _ in keys})}
    layers |= {f"gateway/{park}/{gateway}": GATEWAY for park, gateway in keys}
    print(f"storing {len(layers)} layers", flush=True)
    for layer, text in layers.items():
        name = LayerName.parse(layer)
        await store.append(name, read_layer(name, Document(f"{layer}.yaml", text)), "bench", "begin", 1000, 0)
    await database.close()


class Run:
    """What is measured, step by step."""

    def __init__(self, folder: Path, listen: str) -> None:
        self.folder = folder
        self.listen = listen
        self.rows: list[Measure] = []
        self.rss: dict[int, float] = {}

    async def start(self, life: AsyncExitStack) -> Guarded:
        """The controller's process, once it listens."""
        ports = [word for name in ("enrolment", "operators", "web") for word in (f"--{name}", "127.0.0.1:0")]
        options = ("--heartbeat", HEARTBEAT, *ports)
        return await life.enter_async_context(guarded(self.folder, *options, listen=self.listen))

    async def change(self, controller: Guarded, crowd: Gateways, number: int, kept: str) -> tuple[float, str]:
        """Changes the region's layer, and waits until all run it; when the operator's command began, the revision."""
        began = time.time()
        done = await controller.fleet(
            "config", "set", "region/north", f"buffer.max_bytes={kept}", "--reason", "bench", "--json"
        )
        print(f"  the change was stored after {time.time() - began:.1f} s", flush=True)
        revision = str(_stored(done))

        def confirmed() -> bool:
            return sum(state.revisions.get(revision, 0) for state in crowd.states) >= number

        await until(_is(confirmed), 180, f"{number} gateways run revision {revision}")

        async def known() -> bool:
            return (await vitals(controller)).in_sync >= number

        await until(known, 120, "the controller knows it of all")
        return began, revision

    async def step(self, number: int) -> None:
        """One fleet of a size, on a controller that has just begun."""
        print(f"{number} gateways", flush=True)
        began, revision = 0.0, ""
        async with AsyncExitStack() as life:
            controller = await self.start(life)
            empty = await vitals(controller)
            async with gateways(self.folder / f"fleet{number}", controller.data, self.listen, number) as crowd:
                await until(_is(lambda: crowd.connected >= number), 300, "all connected")

                async def settled() -> bool:
                    return (await vitals(controller)).in_sync >= number

                await until(settled, 300, "all in sync")
                await self.steady(controller, crowd, number, empty)
                if number in (STEPS[0], LARGEST):
                    began, revision = await self.change(controller, crowd, number, f"{512 + number % 7}MiB")
                if number == LARGEST:
                    await self.restarted(life, controller, crowd)
                reports = await crowd.reports()
            if number in (STEPS[0], LARGEST):
                times = sorted(at - began for report in reports for at in report.confirmed.get(revision, []))
                bound = 2.0 if number == STEPS[0] else 30.0
                p99 = times[math.ceil(0.99 * len(times)) - 1] if times else math.inf
                what = f"region-wide change to confirmed, {number} gateways, p99"
                met = p99 <= bound and len(times) >= number
                self.rows.append(Measure(what, "s", p99, {}, None, f"<= {bound:g}", met))

    async def steady(self, controller: Guarded, crowd: Gateways, number: int, empty: Vitals) -> None:
        """CPU, memory and commits while nothing but heartbeats comes."""
        lasting = STEADY_S if number == LARGEST else SHORT_S
        print(f"  steady for {lasting:g} s", flush=True)
        before = await vitals(controller)
        least = before.sessions
        ends = before.at + lasting
        while time.monotonic() < ends:
            await asyncio.sleep(min(10.0, ends - time.monotonic()))  # the measurement itself
            least = min(least, crowd.connected)
        after = await vitals(controller)
        span = after.at - before.at
        self.rss[number] = after.rss - empty.rss
        per = (after.rss - empty.rss) / number / 1024
        cpu = 100 * (after.cpu_s - before.cpu_s) / span
        commits = (after.commits - before.commits) / span
        if number == LARGEST:
            what = f"sessions held for {lasting / 60:g} min, heartbeat {HEARTBEAT}: least at any look"
            self.rows.append(Measure(what, "sessions", least, {}, None, f"{number}", least >= number))
            self.rows.append(Measure("heartbeats cost", "commits/s", commits, {}, None, "<= 1", commits <= 1))
        if number != STEPS[0]:
            self.rows.append(Measure(f"{number} sessions: memory of the controller each", "KiB", per))
            self.rows.append(Measure(f"{number} sessions: CPU of the controller", "% of a core", cpu))

    async def restarted(self, life: AsyncExitStack, controller: Guarded, crowd: Gateways) -> None:
        """kill -9 of the controller, and all come back."""
        controller.child.kill()
        await life.aclose()
        began = time.monotonic()
        again = AsyncExitStack()
        life.push_async_exit(again)
        controller = await self.start(again)
        sessions = sum(state.sessions for state in crowd.states)

        async def back() -> bool:
            return crowd.connected >= LARGEST and (await vitals(controller)).sessions >= LARGEST

        await until(back, 300, "all back after a kill -9 of the controller")
        took = time.monotonic() - began
        now = await vitals(controller)
        begun = sum(state.sessions for state in crowd.states) - sessions
        what = f"{LARGEST} reconnect after a kill -9 of the controller"
        self.rows.append(Measure(what, "s", took, {}, None, "<= 120", took <= 120))
        self.rows.append(Measure("sessions refused meanwhile", "count", now.refused, {}, None, "0", now.refused == 0))
        self.rows.append(Measure("sessions begun twice meanwhile", "count", max(0, begun - LARGEST)))
        calm = math.inf

        async def calmed() -> bool:
            nonlocal calm
            first = await vitals(controller)
            await asyncio.sleep(5)  # over which CPU is measured
            second = await vitals(controller)
            calm = 100 * (second.cpu_s - first.cpu_s) / (second.at - first.at)
            return calm < 20

        await until(calmed, 120, "CPU below 20 % of a core")
        self.rows.append(Measure("CPU of the controller after that", "% of a core", calm, {}, None, "< 20", calm < 20))

    def growth(self) -> None:
        """Whether memory grows with the sessions, and no faster."""
        small, large = self.rss[1_000] / 1_000, self.rss[LARGEST] / LARGEST
        ratio = large / small
        what = f"memory a session, {LARGEST} beside 1000"
        self.rows.append(Measure(what, "ratio", ratio, {}, ratio, "<= 1.1 (linear)", ratio <= 1.1))


def _is(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return condition()

    return asked


def _stored(output: str) -> int:
    """The revision in what `config set --json` printed."""
    return int(re.findall(r'"revision": ?(\d+)', output)[-1])


async def bench() -> list[Measure]:
    """All steps."""
    folder = Path(tempfile.mkdtemp(prefix="parkfleet-bench-"))
    try:
        await prepare(folder / "data")
        run = Run(folder, f"127.0.0.1:{free_port()}")
        for number in STEPS:
            await run.step(number)
        run.growth()
        return run.rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Runs all and reports."""
    write_report("fleet", HEADER, asyncio.run(bench()))


if __name__ == "__main__":
    main()
