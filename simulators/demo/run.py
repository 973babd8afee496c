"""Run: starts every part of the demo in order, cuts the link when it is due, and ends all of it again."""

import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import BrokerError
from parkfleet.simulators.broker import NoBrokerError, running_broker
from parkfleet.simulators.demo.account import Account
from parkfleet.simulators.demo.control_room import PARKFLEET, ControlRoomError, control_room
from parkfleet.simulators.demo.fleet_watch import FleetWatch
from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.demo.view import Observer, Plain, Screen, View
from parkfleet.simulators.park import Park, demo_park
from parkfleet.simulators.processes import Child
from parkfleet.simulators.proxy import LinkProxy
from parkfleet.simulators.verdict import Verdict

PARK: Final = "demo"
GATEWAY: Final = "gw-01"
FLUSH: Final = "2s"
#: Longest wait, after the last outage, for the agent to be connected again before it is stopped. Seconds.
RECONNECT_S: Final = 60.0
#: Longest wait for the agent's last word behind the broker. Seconds.
LAST_WORD_S: Final = 10.0


class DemoError(Exception):
    """The demo cannot run; the message says what to do."""


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asked for; times in seconds."""

    duration_s: float | None
    outage_s: float
    report: Path | None
    broker: BrokerConfig | None
    seed: int
    keep: Path | None
    plain: bool


async def run_demo(options: DemoOptions) -> Verdict:
    """The whole demo. Raises DemoError when a part does not start or ends by itself."""
    async with _folder(options.keep) as folder, contextlib.AsyncExitStack() as parts:
        stop = _stop_on_signals()
        try:
            demo = await _start(options, folder, parts)
            await _let_run(demo, options, stop)
            account = await _finish(demo)
        except (NoBrokerError, BrokerError, ControlRoomError) as error:
            raise DemoError(str(error)) from None
        report = account.report(options.outage_s)
        if options.report:
            options.report.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
        demo.view.end(report)
        return account.verdict


@dataclass
class _Demo:
    """The parts while they run."""

    park: Park
    link: LinkProxy
    broker: str
    agent: Child
    controller: Child
    fleet: FleetWatch
    subscriber: Subscriber
    view: View


async def _start(options: DemoOptions, folder: Path, parts: contextlib.AsyncExitStack) -> _Demo:
    """Starts broker, link, controller, park, subscriber and agent, each when the one before is ready."""
    name, url = await _broker(options, folder, parts)
    broker = BrokerConfig(url)
    link = await parts.enter_async_context(LinkProxy(broker.host, broker.port))
    room = await parts.enter_async_context(control_room(folder))
    park = await parts.enter_async_context(demo_park(options.seed, folder))
    subscriber = await parts.enter_async_context(Subscriber.opened(broker, PARK))
    config = folder / "gateway.yaml"
    config.write_text(_gateway_yaml(park, link.port, room.sessions), "utf-8")
    await room.enrol(config, PARK)
    agent = await parts.enter_async_context(
        Child("agent", [*PARKFLEET, "agent", "run", "--config", str(config)], folder / "agent.log")
    )
    fleet = await parts.enter_async_context(FleetWatch.opened(room.client(), PARK, GATEWAY))
    observer = Observer(park, link, subscriber, fleet, name)
    view: View = Plain(observer) if options.plain else Screen(observer)
    return _Demo(park, link, name, agent, room.child, fleet, subscriber, view)


async def _broker(options: DemoOptions, folder: Path, parts: contextlib.AsyncExitStack) -> tuple[str, str]:
    """(name, url) of the broker that is used."""
    if options.broker:
        return options.broker.url, options.broker.url
    running = await parts.enter_async_context(running_broker(folder))
    return running.name, running.url


def _gateway_yaml(park: Park, broker_port: int, controller_url: str) -> str:
    document = {
        "park": PARK,
        "gateway": GATEWAY,
        "broker": {"url": f"mqtt://127.0.0.1:{broker_port}", "keepalive": "10s"},
        "buffer": {"path": "gw-01.db", "flush": FLUSH},
        "controller": {"url": controller_url},
        **park.configuration(),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


async def _let_run(demo: _Demo, options: DemoOptions, stop: asyncio.Event) -> None:
    """Shows what happens until the time is over, or Ctrl-C; cuts the link in the middle."""
    tasks = [
        asyncio.create_task(stop.wait(), name="Ctrl-C"),
        asyncio.create_task(demo.view.run(), name="view"),
        asyncio.create_task(_guard(demo.agent, demo.controller), name="guard"),
    ]
    outage = asyncio.create_task(_outage(demo, options), name="outage")
    try:
        done, _ = await asyncio.wait(tasks, timeout=options.duration_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*tasks, outage):
            task.cancel()
        await asyncio.gather(*tasks, outage, return_exceptions=True)
        demo.link.mend()


async def _outage(demo: _Demo, options: DemoOptions) -> None:
    if options.outage_s and options.duration_s:
        await asyncio.sleep((options.duration_s - options.outage_s) / 2)  # the demo's own timetable
        await demo.link.cut()
        await asyncio.sleep(options.outage_s)
        demo.link.mend()


async def _guard(*children: Child) -> None:
    """Raises DemoError when a process ends by itself."""
    ends = {asyncio.create_task(child.wait()): child for child in children}
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        child = ends[done.pop()]
        raise DemoError(f"the {child.name} ended by itself:\n{child.output()[-2000:]}")
    finally:
        for end in ends:
            end.cancel()


async def _finish(demo: _Demo) -> Account:
    """Stops the agent once it is connected, waits for its last word, and takes both records."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECONNECT_S):
            await demo.fleet.until(lambda gateway: gateway.broker_connected and gateway.buffer_batches <= 1)
    online = demo.fleet.online
    await demo.agent.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD_S):
            await demo.subscriber.until(lambda: demo.subscriber.states.get(GATEWAY) == "offline")
    return Account.of(demo.park, demo.subscriber, demo.link, demo.broker, online)


@contextlib.asynccontextmanager
async def _folder(keep: Path | None) -> AsyncIterator[Path]:
    """The folder of all the demo's files: the one to keep, or one that goes again."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="parkfleet-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
