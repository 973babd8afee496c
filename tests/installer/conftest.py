"""A cabinet for the installer: a serial bus with meters of the library, and an agent beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
import yaml

from parkfleet.agent.configuration import Configuration, load_configuration
from parkfleet.agent.service import AgentService
from parkfleet.protocols.library import load_profile
from parkfleet.protocols.profile import Profile
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.eventually import eventually

#: Five makers, both tables, floats and integers, three media.
MODELS: Mapping[int, str] = {
    1: "eastron-sdm630",
    2: "siemens-pac2200",
    3: "kamstrup-multical-603",
    7: "chint-dtsu666",
    12: "tuf-2000m",
}


def simulated(profile: Profile | str, unit: int) -> SimulatedMeter:
    """A quick meter of a model."""
    model = load_profile(profile) if isinstance(profile, str) else profile
    meter = SimulatedMeter(model, unit, load_of(model.medium, unit), unit)
    meter.turnaround = 0.001
    return meter


@pytest.fixture
async def meters() -> list[SimulatedMeter]:
    return [simulated(name, unit) for unit, name in MODELS.items()]


def bus(
    folder: Path,
    meters: list[SimulatedMeter],
    baud: int = 115200,
    parity: Literal["N", "E", "O"] = "E",
    record: AnswerRecord | None = None,
) -> SerialLine:
    """A bus that understands one setting only."""
    bits = 10 + (parity != "N")
    record = AnswerRecord() if record is None else record
    return SerialLine("bus", folder, meters, record, baud=baud, bits_per_byte=bits, parity=parity)


def configure(folder: Path, line: SerialLine, interval: str = "200ms", **more: object) -> Path:
    """Writes gateway.yaml for all meters of a line; meters are called m1, m2 …"""
    document = {
        "park": "p",
        "gateway": "g",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "lines": [{"id": "bus", "url": f"{line.url}&parity=E", "timeout": "200ms"}],
        "meters": [
            {"id": f"m{unit}", "line": "bus", "unit": unit, "profile": meter.profile.profile, "interval": interval}
            for unit, meter in line.meters.items()
        ],
        **more,
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[Configuration]:
    """An agent in this process, polling, until the end."""
    configuration = load_configuration(path)
    stop = asyncio.Event()
    agent = asyncio.create_task(AgentService(configuration).run(stop))
    try:
        await eventually(lambda: (path.parent / "agent.sock").exists() or agent.done())
        yield configuration
    finally:
        stop.set()
        await agent
