"""A site: a park with one endpoint, the agent that reads it as a process, and who subscribes to it."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml

from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.service import AgentService
from parkfleet.protocols.config import BrokerConfig
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.demo.account import answered_samples, delivered_samples
from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.park import Park, ParkMeter
from parkfleet.simulators.processes import Child
from parkfleet.simulators.record import AnswerRecord
from parkfleet.simulators.verdict import Verdict, judge
from tests.eventually import eventually

FLUSH_S = 0.5


class Site:
    """A park with one endpoint, and the agent that reads it."""

    def __init__(self, folder: Path, meters: list[SimulatedMeter], record: AnswerRecord) -> None:
        self.folder = folder
        members = [ParkMeter(f"m{meter.unit}", "hall", 1, meter, 0.0) for meter in meters]
        self.park = Park([], TcpEndpoint("hall", meters, record), members, record)

    def configure(self, broker_port: int, **buffer: str) -> Path:
        """Writes gateway.yaml."""
        lines_and_meters = self.park.configuration()
        for meter in lines_and_meters["meters"]:
            meter["interval"] = "200ms"
        document: dict[str, object] = {
            "park": "demo",
            "gateway": "gw-01",
            "broker": {"url": f"mqtt://127.0.0.1:{broker_port}", "keepalive": "5s"},
            "buffer": {"path": "buffer.db", "flush": f"{FLUSH_S}s", **buffer},
            "profiles": ["profiles"],
            **lines_and_meters,
        }
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def agent(self) -> Child:
        """The agent's process; its log goes on in agent.log."""
        command = [sys.executable, "-m", "parkfleet", "agent", "run", "--config", str(self.folder / "gateway.yaml")]
        return Child("agent", command, self.folder / "agent.log")

    def answers(self, more: int) -> Callable[[], bool]:
        """Whether the meters have answered so many requests more than now."""
        wanted = len(self.park.record) + more
        return lambda: len(self.park.record) >= wanted

    def verdict(self, subscriber: Subscriber) -> Verdict:
        """Everything answered against everything delivered."""
        return judge(answered_samples(self.park), delivered_samples(subscriber), {"m1": 200, "m2": 200})


@contextlib.asynccontextmanager
async def running(folder: Path, line: TcpEndpoint, document: dict[str, Any]) -> AsyncIterator[AgentService]:
    """An agent in this process that reads meter m1 of an endpoint every 200 ms; document: what else is configured."""
    meter = {"id": "m1", "line": "hall", "unit": 1, "interval": "200ms", "profile": document.pop("profile")}
    lines = [{"id": "hall", "url": line.url}]
    (folder / "gateway.yaml").write_text(
        yaml.safe_dump({"profiles": ["profiles"], "lines": lines, "meters": [meter], **document})
    )
    service, stop = AgentService(load_configuration(folder / "gateway.yaml")), asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    try:
        yield service
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def subscribed(broker: RunningBroker) -> AsyncIterator[Subscriber]:
    async with Subscriber.opened(BrokerConfig(broker.url), "demo") as subscriber:
        yield subscriber


async def stopped(agent: Child, subscriber: Subscriber) -> None:
    """SIGTERM, and everything it has left to say."""
    assert await agent.stop() == 0, agent.output()
    await eventually(lambda: subscriber.states.get("gw-01") == "offline")
