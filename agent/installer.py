"""Installer: what his commands do, through the running agent where there is one, on the line itself where not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control_client import AgentLine, NoAgentError, connected
from parkfleet.agent.control_messages import socket_path
from parkfleet.agent.plan import LinePlan, MeterPlan, make_plan
from parkfleet.agent.reading import MeterReading, read_meter
from parkfleet.agent.scan import Open
from parkfleet.agent.wire import Asker, opened
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.modbus.pdu import ReadRequest
from parkfleet.protocols.profile import Profile

ReadMeter = Callable[[], Awaitable[MeterReading]]


class UnknownNameError(Exception):
    """The configuration has no meter or line of that name; the message says which there are."""


def find_meter(configuration: Configuration, name: str) -> tuple[LinePlan, MeterPlan]:
    """A meter and its line. Raises UnknownNameError."""
    for line in make_plan(configuration).lines:
        for meter in line.meters:
            if meter.config.id == name:
                return line, meter
    known = [meter.id for meter in configuration.gateway.meters]
    listed = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
    raise UnknownNameError(f"there is no meter {name!r}: meters are {listed or 'none'}")


def find_line(configuration: Configuration, name: str) -> LinePlan:
    """Raises UnknownNameError."""
    for line in make_plan(configuration).lines:
        if line.config.id == name:
            return line
    known = ", ".join(line.id for line in configuration.gateway.lines)
    raise UnknownNameError(f"there is no line {name!r}: lines are {known or 'none'}. A device is serial:///dev/ttyUSB0")


async def agent_runs(path: Path) -> bool:
    """Whether an agent listens at a socket. Raises ControlError when that cannot be found out."""
    try:
        async with connected(path):
            return True
    except NoAgentError:
        return False


@contextlib.asynccontextmanager
async def reader(configuration: Configuration, name: str) -> AsyncIterator[ReadMeter]:
    """A way to read a meter again and again. Raises UnknownNameError, ControlError, LineDownError."""
    path = socket_path(configuration)
    if await agent_runs(path):

        async def ask_agent() -> MeterReading:
            async with connected(path) as client:  # a new one each time: the agent may restart meanwhile
                return await client.read(name)

        yield ask_agent
        return
    line, meter = find_meter(configuration, name)
    async with opened(line.address) as wire:

        async def ask(request: ReadRequest) -> list[int]:
            return await wire.transact(request, float(line.config.timeout))

        async def read() -> MeterReading:
            return await read_meter(meter, ask)

        yield read


def through_agent(path: Path, line: str) -> Open:
    """Opens a line of the running agent."""

    @contextlib.asynccontextmanager
    async def open_line(address: LineAddress) -> AsyncIterator[Asker]:
        async with connected(path) as client:
            yield AgentLine(client, line)

    return open_line


def profiles_in(folders: list[Path]) -> tuple[list[Profile], list[str]]:
    """All usable profiles, the user's and the built-in ones; and what is wrong with the others."""
    usable, wrong = [], []
    for name in profile_names(folders):
        try:
            usable.append(load_profile(name, folders))
        except DocumentError as error:
            wrong.append(str(error))
    return usable, wrong


async def watch(
    read: Callable[[], Awaitable[MeterReading]], show: Callable[[MeterReading], None], pause: float
) -> None:
    """Reads and shows for ever, every `pause` seconds."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        show(await read())
        due = max(due + pause, loop.time())
        await asyncio.sleep(due - loop.time())  # the watch interval itself
