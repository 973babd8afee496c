"""Control client: asks a running agent over its control socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from parkfleet.agent.control import short_name
from parkfleet.agent.control_messages import (
    MAX_ANSWER,
    Answer,
    Ask,
    AskCapture,
    AskForget,
    AskLines,
    AskRead,
    AskReplay,
    AskStatus,
    AskTransact,
    AskVacuum,
    AskWake,
    Captured,
    Failed,
    Forgotten,
    Lines,
    Read,
    Replayed,
    Status,
    Transacted,
    Vacuumed,
    Woken,
)
from parkfleet.agent.line_messages import LineFacts
from parkfleet.agent.reading import MeterReading
from parkfleet.agent.transport import LineDownError
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, CorruptAnswerError, Request
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest

T = TypeVar("T")
A = TypeVar("A", Status, Read, Woken, Transacted, Replayed, Vacuumed, Lines, Forgotten, Captured)

#: An agent whose line is loaded answers late; one that does not answer in so long hangs. Seconds.
PATIENCE_S: Final = 60.0
#: Rewriting 512 MiB on an SD card. Seconds.
VACUUM_S: Final = 600.0


class NoAgentError(Exception):
    """No agent runs with this configuration."""


class ControlError(Exception):
    """The agent runs, and cannot or will not; the message says why."""


class ControlClient:
    """One connection to a running agent; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def status(self) -> Status:
        """How the agent fares. Raises ControlError, as all that follow."""
        return await self._ask(AskStatus(), Status)

    async def read(self, meter: str) -> MeterReading:
        """All points of a meter, now."""
        return (await self._ask(AskRead(meter), Read)).reading

    async def wake(self, meter: str) -> Woken:
        """Has a meter asked at once."""
        return await self._ask(AskWake(meter), Woken)

    async def replay(self, request: ReplayRequest) -> ReplayAnswer:
        """Has acknowledged batches sent again."""
        return (await self._ask(AskReplay(request), Replayed)).found

    async def vacuum(self) -> Vacuumed:
        """Has the buffer's file made smaller."""
        return await self._ask(AskVacuum(), Vacuumed, VACUUM_S)

    async def lines(self, line: str | None) -> list[LineFacts]:
        """What is known of a line, or of all."""
        return (await self._ask(AskLines(line), Lines)).lines

    async def forget(self, meter: str) -> Forgotten:
        """Has the agent forget what it learned of a meter."""
        return await self._ask(AskForget(meter), Forgotten)

    async def capture(self, line: str, *, last: bool = False) -> bytes:
        """What a pcapng file of a line has gained since the last call; last: ends it."""
        return (await self._ask(AskCapture(line, last), Captured)).data

    async def transact(self, line: str, request: Request[T], timeout: float) -> T:
        """One reading request on a line of the agent's. Raises ModbusError and LineDownError as well."""
        asked = AskTransact(line, request.unit, request.pdu.hex(), timeout)
        return request.values(bytes.fromhex((await self._ask(asked, Transacted)).pdu))

    async def _ask(self, request: Ask, expected: type[A], patience: float = PATIENCE_S) -> A:
        try:
            self._writer.write(msgspec.json.encode(request) + b"\n")
            async with asyncio.timeout(patience):
                line = await self._reader.readuntil(b"\n")
            answer = msgspec.json.decode(line, type=Answer)
        except TimeoutError:
            raise ControlError(f"the agent has not answered for {patience:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            raise ControlError("the agent has stopped") from None
        except (asyncio.LimitOverrunError, msgspec.MsgspecError, UnicodeDecodeError):
            raise ControlError("the agent's answer is not understood: is it of another version?") from None
        if isinstance(answer, Failed):
            raise _error(answer)
        if not isinstance(answer, expected):
            raise ControlError("the agent answered something else: is it of another version?")
        return answer


class AgentLine:
    """A line of a running agent, as a Transport."""

    usable = True

    def __init__(self, client: ControlClient, line: str) -> None:
        self._client = client
        self._line = line

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport. Raises ControlError when the agent is gone."""
        return await self._client.transact(self._line, request, timeout)

    def close(self) -> None:
        """The line stays the agent's."""


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[ControlClient]:
    """A connection to the agent at a socket. Raises NoAgentError, ControlError."""
    try:
        with short_name(path) as name:
            reader, writer = await asyncio.open_unix_connection(name, limit=MAX_ANSWER)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NoAgentError(f"no agent runs here: nobody answers at {path}") from None
    except OSError as error:
        told = f"an agent may run, but {path} cannot be opened: {error.strerror}. Call this as its user, or with sudo"
        raise ControlError(told) from None
    try:
        yield ControlClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _error(failed: Failed) -> Exception:
    kinds = {"timeout": AnswerTimeoutError, "corrupt": CorruptAnswerError, "disconnected": LineDownError}
    return kinds.get(failed.cause, ControlError)(failed.told)
