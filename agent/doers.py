"""Doers: how this agent does what operators ask of it: as the installer's commands do, over the same control socket."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control import ControlSocket, Conversation
from parkfleet.agent.control_messages import (
    Answer,
    Ask,
    AskCapture,
    AskRead,
    AskReplay,
    Captured,
    Failed,
    Read,
    Replayed,
    socket_path,
)
from parkfleet.agent.deeds import DeedError, Doer
from parkfleet.agent.installer import UnknownNameError, find_line, profiles_in, through_agent
from parkfleet.agent.journal import Journal
from parkfleet.agent.scan import ScanPlan, Step, Unit
from parkfleet.agent.scan_options import parse_units
from parkfleet.agent.survey import Survey
from parkfleet.agent.transport import LineDownError
from parkfleet.proto.remote_pb2 import Deed
from parkfleet.protocols.payload.request import ReplayRequest

#: How long a scan waits for an answer to begin. Seconds.
SCAN_TIMEOUT_S: Final = 0.2
#: How often a capture hands on what it has. Seconds.
CAPTURE_EVERY_S: Final = 0.5
#: How often a scan tells how far it is. Seconds.
PROGRESS_S: Final = 2.0


@dataclass(frozen=True)
class Doers:
    """What the deeds need. restart: None where nobody would start the agent again."""

    configuration: Configuration
    control: ControlSocket
    restart: Callable[[], None] | None

    def table(self) -> dict[str, Doer]:
        """The deeds by their name in remote.proto."""
        return {
            "logs": self._logs,
            "read": self._read,
            "replay": self._replay,
            "restart": self._restart,
            "capture": self._capture,
            "scan": self._scan,
        }

    async def _logs(self, deed: Deed) -> AsyncIterator[bytes]:
        folder = socket_path(self.configuration).parent
        lines = await asyncio.to_thread(Journal(folder).since, deed.logs.since_ms, deed.logs.lines)
        yield b"".join(lines)

    async def _read(self, deed: Deed) -> AsyncIterator[bytes]:
        with contextlib.closing(Conversation(self.control)) as conversation:
            answer = await _asked(conversation, AskRead(deed.read.meter))
        assert isinstance(answer, Read)
        yield msgspec.json.encode(answer.reading) + b"\n"

    async def _replay(self, deed: Deed) -> AsyncIterator[bytes]:
        until = deed.replay.to_ms or time.time_ns() // 1_000_000
        try:
            request = ReplayRequest(since=deed.replay.from_ms, until=until)
        except ValueError as error:
            raise DeedError(str(error)) from None
        with contextlib.closing(Conversation(self.control)) as conversation:
            answer = await _asked(conversation, AskReplay(request))
        assert isinstance(answer, Replayed)
        yield msgspec.json.encode(answer.found) + b"\n"

    async def _restart(self, _: Deed) -> AsyncIterator[bytes]:
        if self.restart is None:
            raise DeedError("nobody would start this agent again: it was not started by `parkfleet agent run`")
        self.restart()
        yield b""

    async def _capture(self, deed: Deed) -> AsyncIterator[bytes]:
        wanted = deed.capture
        loop = asyncio.get_running_loop()
        with contextlib.closing(Conversation(self.control)) as conversation:
            ends = loop.time() + wanted.seconds
            while (left := ends - loop.time()) > 0:
                yield await _captured(conversation, AskCapture(wanted.line))
                await asyncio.sleep(min(left, CAPTURE_EVERY_S))  # the interval of the look itself
            yield await _captured(conversation, AskCapture(wanted.line, last=True))

    async def _scan(self, deed: Deed) -> AsyncIterator[bytes]:
        """Lines of JSON: how far it is, then `findings`."""
        try:
            units = parse_units(deed.scan.units or "1-247")
            line = find_line(self.configuration, deed.scan.line)
        except (ValueError, UnknownNameError) as error:
            raise DeedError(str(error)) from None
        folders = [self.configuration.path(name) for name in self.configuration.gateway.profiles]
        profiles, _ = await asyncio.to_thread(profiles_in, folders)
        watcher = _Watcher()
        survey = Survey(ScanPlan((line.address,), units, SCAN_TIMEOUT_S, False), profiles, (), watcher)
        opened = through_agent(socket_path(self.configuration), line.config.id)
        work = asyncio.create_task(survey.run(opened), name="scan for an operator")
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=PROGRESS_S)
                yield msgspec.json.encode({"progress": watcher.told, "found": len(survey.findings)}) + b"\n"
            await work
        except LineDownError as error:
            raise DeedError(str(error)) from None
        finally:
            work.cancel()
            await asyncio.wait({work})
        yield msgspec.json.encode({"findings": survey.findings}) + b"\n"


class _Watcher:
    """What a survey does, in words."""

    def __init__(self) -> None:
        self.told = ""

    def tried(self, step: Step) -> None:
        """See Watcher."""
        self.told = f"asked unit {step.unit}, at most {step.left_s:.0f} s left"

    def asking(self, unit: Unit, done: float, count: int) -> None:
        """See Watcher."""
        self.told = f"what is unit {unit.unit}? {done / count:.0%}"


async def _asked(conversation: Conversation, request: Ask) -> Answer:
    answer = await conversation.answer(msgspec.json.encode(request))
    if isinstance(answer, Failed):
        raise DeedError(answer.told)
    return answer


async def _captured(conversation: Conversation, request: AskCapture) -> bytes:
    answer = await _asked(conversation, request)
    assert isinstance(answer, Captured)
    return answer.data
