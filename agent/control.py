"""Control socket: lets the installer's commands go through the running agent instead of fighting for its ports.

A Unix socket that only the agent's own user and root may open. Every request is bounded, read only, and one bad
client disturbs neither the others nor the polling.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import msgspec

from parkfleet.agent.capture import Capture
from parkfleet.agent.control_messages import (
    MAX_REQUEST,
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
from parkfleet.agent.engine_line import EngineLine
from parkfleet.agent.line_book import LineBook
from parkfleet.agent.plan import MeterPlan, Plan
from parkfleet.agent.reading import read_meter
from parkfleet.agent.transport import LineDownError
from parkfleet.protocols.modbus.identity import RawRequest
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ModbusError, Request
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

#: More askers than an installer has hands; the next is told to wait.
MAX_CLIENTS: Final = 8
#: A client that says nothing, or takes nothing, for so long has gone. Seconds.
IDLE_S: Final = 60.0
_LONGEST_ADDRESS: Final = 107  # bytes of a Unix socket's name, by the kernel


class AgentRunningError(Exception):
    """Another agent answers at the socket."""


class LineOwner(Protocol):
    """What polls a line, and lets others ask in between: LinePoller, or the native engine."""

    async def ask(self, request: Request[T], timeout: float | None = None) -> T:
        """One transaction out of turn. Raises ModbusError, LineDownError."""

    def wake(self, unit: int) -> None:
        """A meter that was taken for silent is asked again from its next slot on."""


class Keeper(Protocol):
    """What has the batches."""

    async def replay(self, request: ReplayRequest) -> ReplayAnswer:
        """Has acknowledged batches sent again."""

    async def vacuum(self) -> tuple[int, int]:
        """Gives free room back; bytes before and after. Raises ValueError when it cannot."""


class ControlSocket:
    """Listens within `async with`."""

    def __init__(
        self,
        path: Path,
        plan: Plan,
        owners: Mapping[str, LineOwner],  # by line id
        status: Callable[[], Awaitable[Status]],
        keeper: Keeper,
        book: LineBook,
    ) -> None:
        self._path = path
        self._owners = owners
        self._meters = {meter.config.id: meter for line in plan.lines for meter in line.meters}
        self._status = status
        self._keeper = keeper
        self._book = book
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def __aenter__(self) -> Self:
        """Raises AgentRunningError when another agent listens there; a socket left behind is replaced."""
        if _is_live(self._path):
            raise AgentRunningError(f"another agent runs here already: it answers at {self._path}. Stop it first")
        try:
            listening = _listen(self._path)
        except OSError as error:  # a gateway that meters is worth more than one that can be asked
            log.warning("no control socket at %s (%s): `parkfleet agent read` cannot ask us", self._path, error)
            return self
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_REQUEST)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all conversations, their requests on the lines included; idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                await _say(writer, Failed("refused", f"{MAX_CLIENTS} others are asking: try again"))
            else:
                await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client is gone, or we are: the server's own callback must not see it
        finally:
            self._clients.discard(task)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(Conversation(self)) as conversation:
            while True:
                try:
                    async with asyncio.timeout(IDLE_S):
                        line = await reader.readuntil(b"\n")
                except asyncio.IncompleteReadError:
                    return
                except asyncio.LimitOverrunError:
                    await _say(writer, Failed("refused", f"a request has at most {MAX_REQUEST} bytes"))
                    return
                await _say(writer, await conversation.answer(line))

    async def answer(self, line: bytes, conversation: "Conversation") -> Answer:
        """Never raises, whatever the line says."""
        try:
            asked: Ask = msgspec.json.decode(line, type=Ask)
            match asked:
                case AskStatus():
                    return await self._status()
                case AskRead(meter):
                    plan = self._meter(meter)
                    return Read(await read_meter(plan, self._owners[plan.config.line].ask))
                case AskWake(meter):
                    return await self._wake(self._meter(meter))
                case AskReplay(request):
                    return Replayed(await self._keeper.replay(request))
                case AskVacuum():
                    return Vacuumed(*await self._keeper.vacuum())
                case AskLines(line_id):
                    return Lines(self._book.facts(line_id))
                case AskForget(meter):
                    return Forgotten(meter, await self._book.forget(meter))
                case AskTransact():
                    return await self._transact(asked)
                case AskCapture(line_id, last):
                    return Captured(conversation.captured(line_id, self._owner(line_id), last))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, LookupError) as error:
            return Failed("refused", str(error.args[0]) if error.args else "not understood")
        except AnswerTimeoutError as error:
            return Failed("timeout", str(error))
        except ModbusError as error:
            return Failed("corrupt", str(error))
        except LineDownError as error:
            return Failed("disconnected", str(error))

    async def _wake(self, plan: MeterPlan) -> Woken:
        """Its cheapest request at once; the owner takes any answer as a sign of life."""
        config = plan.config
        owner = self._owners[config.line]
        owner.wake(config.unit)
        request = min((planned.request for planned in plan.requests), key=lambda request: request.data_bytes)
        begun, answered, told = time.monotonic(), True, "answers"
        try:
            await owner.ask(request)
        except ExceptionAnswerError as error:
            told = f"answers with {error}"
        except (ModbusError, LineDownError) as error:
            answered, told = False, str(error)
        return Woken(config.id, answered, told, round(1000 * (time.monotonic() - begun), 1))

    async def _transact(self, asked: AskTransact) -> Transacted:
        request = RawRequest(asked.unit, bytes.fromhex(asked.pdu))
        return Transacted((await self._owner(asked.line).ask(request, asked.timeout)).hex())

    def _owner(self, line: str) -> LineOwner:
        if line not in self._owners:
            known = ", ".join(sorted(self._owners)) or "none"
            raise LookupError(f"there is no line {line!r}: lines are {known}")
        return self._owners[line]

    def _meter(self, name: str) -> MeterPlan:
        if name not in self._meters:
            known = sorted(self._meters)
            listed = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
            raise LookupError(f"the running agent has no meter {name!r}: meters are {listed or 'none'}")
        return self._meters[name]


class Conversation:
    """What one asker has begun. Made for whoever asks: a connection, or the controller."""

    def __init__(self, control: ControlSocket) -> None:
        self._control = control
        self._capture: Capture | None = None

    async def answer(self, line: bytes) -> Answer:
        """A request's answer; never raises."""
        return await self._control.answer(line, self)

    def captured(self, line: str, owner: LineOwner, last: bool) -> bytes:
        """The next bytes of a line's capture, which begins with the first call. Raises ValueError."""
        if self._capture is None:
            if not isinstance(owner, EngineLine):
                raise ValueError(f"line {line} cannot be captured: only serial, tcp and rtu+tcp lines can")
            self._capture = Capture(line, owner)
        if not last:
            return self._capture.take()
        capture, self._capture = self._capture, None
        return capture.close()

    def close(self) -> None:
        """Ends what was begun."""
        if self._capture is not None:
            self._capture.close()
            self._capture = None


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of a socket that the kernel takes, however deep its folder lies."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def _say(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


def _is_live(path: Path) -> bool:
    """Whether somebody listens at the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            with short_name(path) as name:
                probe.connect(name)
        except TimeoutError:
            return True  # its queue is full: it lives
        except OSError:
            return False
    return True


def _listen(path: Path) -> socket.socket:
    """A listening socket at the path, from the first moment for our user only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX)
    try:
        fresh.unlink(missing_ok=True)
        with short_name(fresh) as name:
            listening.bind(name)
        fresh.chmod(0o600)
        listening.listen(MAX_CLIENTS)
        fresh.replace(path)
    except OSError:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening
