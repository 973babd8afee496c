"""AgentSessions: the agents' side of the controller; one SessionStream for each agent's stream.

How a stream ends, with grpc.aio (../shared/FLEET.md, grpc#43360):
- reader and writer are a pair: each alone misses some way a stream can end;
- a read is never cancelled nor given a time-out (that leaks): it is left pending, and ends by itself once the call
  is over. So this is no TaskGroup; the pair is awaited at the end instead;
- a client that cancels or breaks off shows as the cancellation of our handler, or as a plain end of the reader.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from parkfleet.controller.admission import Admission
from parkfleet.controller.checks import LaterError, RefusedError, check_hello
from parkfleet.controller.desk import Desk
from parkfleet.controller.fleet import FleetState, SessionHandle
from parkfleet.controller.registry import FleetFullError, GatewayKey
from parkfleet.proto import limits
from parkfleet.proto.common_pb2 import Hello
from parkfleet.proto.session_pb2 import (
    AgentMessage,
    ControllerMessage,
    Goodbye,
    ReportInFull,
    RetryAfter,
    Welcome,
)
from parkfleet.proto.session_pb2_grpc import AgentSessionServicer

if TYPE_CHECKING:
    from parkfleet.controller.config_delivery import ConfigDelivery  # with the controller's own packages only
    from parkfleet.controller.gatehouse import Credential, Gatehouse

log = logging.getLogger(__name__)

#: An agent says hello as soon as it is connected; 4G round trips are below 2 s. Seconds.
HELLO_S: Final = 10.0
#: So long a goodbye may take to be written, on a machine that is short of CPU, and then the agent to leave, before the
#: stream is ended. Seconds.
LAST_WRITE_S: Final = 15.0
GOODBYE_S: Final = 1.0
#: Messages that wait to be sent to one agent; there are never more than a few, unless it does not read.
OUTBOX: Final = 16
#: Places in it that are kept for the last words.
PARTING: Final = 3
#: The queue moves faster or slower as the machine can bear: who waits in it looks this often. Seconds.
LOOK_S: Final = 1.0
#: A session that cannot begin now is tried again after a random while between these. Milliseconds.
LATER_MS: Final = (2_000, 15_000)
#: What an agent may send: the fastest heartbeat (10 a second) twice over. Beyond, it is read more slowly.
MESSAGES_PER_S: Final = 20.0
BURST: Final = 100

BROKEN: Final = "the connection ended without a goodbye"

_AGENTS_FAULT: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)

Context = aio.ServicerContext[AgentMessage, ControllerMessage]


class End(NamedTuple):
    """How a stream ends: the status the agent gets, and why."""

    code: grpc.StatusCode
    reason: str
    parting: tuple[ControllerMessage, ...] = ()  # last words of ours


class AgentSessions(AgentSessionServicer):
    """The service agents connect to."""

    def __init__(
        self,
        fleet: FleetState,
        delivery: "ConfigDelivery | None" = None,
        hello_s: float = HELLO_S,
        door: Admission | None = None,
        desk: Desk | None = None,
        house: "Gatehouse | None" = None,
    ) -> None:
        """house: who checks certificates; None where none are shown."""
        self._house = house
        self._fleet = fleet
        self._delivery = delivery
        self._hello_s = hello_s
        self._door = door or Admission()
        self._desk = desk or Desk()

    # A coroutine, for grpc.aio's reader and writer interface; the stub knows only of generators.
    async def Connect(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]
        """Serves one agent's stream until either side ends it."""
        if self._house is None:
            await SessionStream(self._fleet, context, self._door, self._desk, self._hello_s, self._delivery).run()
            return
        from parkfleet.controller.enrolment_service import refuse, shown_credential
        from parkfleet.controller.gatehouse import GATE_ERRORS

        try:
            credential = shown_credential(self._house, context)
        except GATE_ERRORS as error:
            await refuse(self._house, context, error, "AgentSession/Connect")
        stream = SessionStream(self._fleet, context, self._door, self._desk, self._hello_s, self._delivery, credential)
        self._house.deny.opened(credential.serial, stream.revoked)
        try:
            await stream.run()
        finally:
            self._house.deny.closed(credential.serial, stream.revoked)


class SessionStream:
    """One agent's stream: hello, then heartbeats, until either side ends it."""

    def __init__(
        self,
        fleet: FleetState,
        context: Context,
        door: Admission,
        desk: Desk,
        hello_s: float,
        delivery: "ConfigDelivery | None" = None,
        credential: "Credential | None" = None,
    ) -> None:
        """credential: what the agent showed; None where nobody shows any."""
        self._credential = credential
        self._fleet = fleet
        self._door = door
        self._desk = desk
        self._delivery = delivery
        self._context = context
        self._hello_s = hello_s
        self._handle: SessionHandle | None = None
        self._asked_in_full = False
        self._outbox: asyncio.Queue[ControllerMessage | None] = asyncio.Queue(OUTBOX)
        loop = asyncio.get_running_loop()
        self._said_hello: asyncio.Future[AgentMessage] = loop.create_future()
        self._admitted: asyncio.Future[SessionHandle] = loop.create_future()
        self._ended_by_us: asyncio.Future[End] = loop.create_future()

    async def run(self) -> None:
        """Serves the stream. Ends with the status the agent should see."""
        reader = asyncio.create_task(self._read(), name=f"session reader {self._context.peer()}")
        writer = asyncio.create_task(self._write(), name=f"session writer {self._context.peer()}")
        try:
            end = await self._until_end(reader, writer)
            self._door.counts.refused += end.code in _AGENTS_FAULT
            self._offline(end.reason)
            await self._part(reader, writer, end.parting)
            # An agent that reads nothing holds up the write before a status could go out: the call ends with it.
            if end.code is not grpc.StatusCode.OK and writer.done():
                await self._context.abort(end.code, end.reason)
        finally:
            self._offline(BROKEN)
            self._close_outbox()
            done, _ = await asyncio.wait({reader, writer})
            for task in done:
                _ = task.cancelled() or task.exception()  # known already, or the echo of our own abort

    async def _until_end(self, reader: asyncio.Task[End], writer: asyncio.Task[None]) -> End:
        """Waits for the hello, admits, then waits for whatever ends the stream first."""
        waits: set[asyncio.Future[Any]] = {reader, writer, self._ended_by_us}
        await asyncio.wait({*waits, self._said_hello}, timeout=self._hello_s, return_when=asyncio.FIRST_COMPLETED)
        if self._said_hello.done():
            try:
                await self._admit(self._said_hello.result())
            except LaterError as error:
                if self._ended_by_us.done():  # while it waited for its turn
                    return self._ended_by_us.result()
                away_ms = random.randint(*LATER_MS) if error.away_s is None else round(error.away_s * 1000)
                return _later(str(error), away_ms)
            except RefusedError as error:
                return _refused(error)
            finally:
                self._admitted.cancel()  # if it was not: the reader, which waits for it and reads nothing, ends
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._ended_by_us.done():
            return self._ended_by_us.result()
        if reader.done():
            return _outcome(reader)
        if writer.done():
            return End(grpc.StatusCode.UNAVAILABLE, BROKEN)
        return End(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello came within {self._hello_s:g} s")

    async def _read(self) -> End:
        """Takes the agent's messages until it leaves, or says what is not accepted."""
        allowance = Allowance(MESSAGES_PER_S, BURST)
        while True:
            # Typed as a message, but grpc.aio returns aio.EOF at the end.
            message: Any = await self._context.read()
            if message is aio.EOF:
                return End(grpc.StatusCode.OK, BROKEN)
            message.DiscardUnknownFields()  # what we keep of a message has only fields that were checked
            if self._handle is None and message.WhichOneof("message") == "hello":
                self._said_hello.set_result(message)
                self._handle = await self._admitted
            elif (end := self._take(message)) is not None:
                return end
            await asyncio.sleep(allowance.take())

    def _take(self, message: AgentMessage) -> End | None:
        """One message of the agent. Raises RefusedError."""
        kind = message.WhichOneof("message")
        if kind == "goodbye":
            return End(grpc.StatusCode.OK, message.goodbye.reason[: limits.MAX_SENTENCE] or "the agent said goodbye")
        if self._handle is None:
            raise RefusedError(f"the first message must be a hello, this was {kind or 'unknown'}")
        if kind == "hello":
            raise RefusedError("a second hello: a session has one")
        if kind == "heartbeat":
            self._ask_in_full(not self._handle.heartbeat(message.heartbeat))
        elif kind == "status":
            before = self._fleet.registry.get(self._handle.key)
            self._handle.reported(message.status)
            if self._delivery is not None and before is not None:
                self._delivery.reported(self._handle.key, self._handle.session, message.status, before.status)
        elif kind == "deed_output":
            self._desk.said(self._handle.key, message.deed_output)
        return None  # what we do not know, a newer agent may say: it is ignored

    def revoked(self, told: str) -> None:
        """The agent's certificate is revoked: the stream ends at once, without the politeness of a goodbye."""
        if not self._ended_by_us.done():
            self._ended_by_us.set_result(End(grpc.StatusCode.PERMISSION_DENIED, told))

    async def _admit(self, message: AgentMessage) -> None:
        """Opens the session, when its turn has come. Raises RefusedError."""
        check_hello(message.hello)
        check_name_shown(message.hello, self._credential)
        await self._wait_for_turn(GatewayKey(message.hello.park, message.hello.gateway))
        opening = asyncio.create_task(self._fleet.admit(message.hello, self._context.peer(), self._end))
        try:
            handle = await asyncio.shield(opening)
        except asyncio.CancelledError:  # the agent has left; what is claimed for it is given back
            opening.add_done_callback(_never_began)
            raise
        gateway = self._fleet.registry.get(handle.key)
        assert gateway is not None
        hello, status = message.hello, gateway.status
        has_status = bool(hello.status_tag) and status is not None and status.tag == hello.status_tag
        welcome = Welcome(
            session=handle.session,
            heartbeat_interval_ms=round(self._fleet.interval_s * 1000),
            server_time_ms=self._fleet.now().wall_ms,
            has_status=has_status,
            has_lines=bool(hello.lines_tag) and gateway.lines_tag == hello.lines_tag,
        )
        self._outbox.put_nowait(ControllerMessage(welcome=welcome))
        self._handle = handle
        self._admitted.set_result(handle)
        self._desk.opened(gateway.key, handle.session, self._send)
        if self._delivery is not None:
            self._delivery.opened(gateway, self._send, has_status)

    async def _wait_for_turn(self, key: GatewayKey) -> None:
        """Raises LaterError: the gateway is to come back then."""
        turn = self._door.ask(key)
        if turn.away_s:
            raise LaterError("too many sessions begin: this gateway has its place a little later", turn.away_s)
        self._door.counts.held += 1
        try:
            while (left := self._door.left(turn.place)) and not self._ended_by_us.done():
                await asyncio.wait({self._ended_by_us}, timeout=min(left, LOOK_S))
        finally:
            self._door.counts.held -= 1
        if self._ended_by_us.done():
            raise LaterError(self._ended_by_us.result().reason)
        self._door.counts.begun += 1

    def _ask_in_full(self, lacks: bool) -> None:
        """Asks an agent that takes for known what this controller lacks, until it has told it."""
        if lacks and not self._asked_in_full:
            self._send(ControllerMessage(report_in_full=ReportInFull()))
        self._asked_in_full = lacks

    def _send(self, message: ControllerMessage) -> bool:
        """Puts a message into the outbox; False when it is full, or the stream ends."""
        if self._ended_by_us.done() or self._outbox.qsize() >= OUTBOX - PARTING:
            return False
        self._outbox.put_nowait(message)
        return True

    def _end(self, reason: str, stay_away_ms: int) -> None:
        """Ends the stream from our side, politely."""
        if not self._ended_by_us.done():
            self._ended_by_us.set_result(_later(reason, stay_away_ms))

    async def _write(self) -> None:
        while (message := await self._outbox.get()) is not None:
            await self._context.write(message)

    async def _part(
        self, reader: asyncio.Task[End], writer: asyncio.Task[None], parting: tuple[ControllerMessage, ...]
    ) -> None:
        """Says the last words, if the agent takes them, and lets it leave first.

        A status that crosses with a heartbeat would break the agent's call before it has read them.
        """
        for message in parting[: self._outbox.maxsize - self._outbox.qsize()]:
            self._outbox.put_nowait(message)
        self._close_outbox()
        await asyncio.wait({writer}, timeout=LAST_WRITE_S)
        if parting:
            await asyncio.wait({reader}, timeout=GOODBYE_S)

    def _close_outbox(self) -> None:
        """Lets the writer end after what it has."""
        if not self._outbox.full():  # else it is stuck in a write, which ends with the call
            self._outbox.put_nowait(None)

    def _offline(self, reason: str) -> None:
        """Tells the fleet that the session is over, once."""
        if self._handle is not None and not self._handle.over:
            self._handle.ended(reason)
            self._desk.closed(self._handle.key, self._handle.session)
            if self._delivery is not None:
                self._delivery.closed(self._handle.key, self._handle.session)


class Allowance:
    """A rate that is kept on average: so many at once, then so many a second."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def take(self) -> float:
        """Takes one; returns how long to wait before the next, in seconds."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s) - 1
        self._at = now
        return max(0.0, -self._left / self._per_s)


def check_name_shown(hello: Hello, credential: "Credential | None") -> None:
    """Raises RefusedError when an agent says it is another than its certificate does."""
    if credential is None or credential.key == (hello.park, hello.gateway):
        return
    says = f"{hello.park[: limits.MAX_WORD]}/{hello.gateway[: limits.MAX_WORD]}"
    raise RefusedError(
        f"the certificate is of {credential.key}, the configuration says {says}: correct park and gateway in "
        "gateway.yaml, or enrol this box under that name"
    )


def _later(reason: str, stay_away_ms: int) -> End:
    """Ends a stream with a polite word, and when to come back."""
    retry = ControllerMessage(retry_after=RetryAfter(ms=stay_away_ms, reason=reason))
    goodbye = ControllerMessage(goodbye=Goodbye(reason=reason))
    return End(grpc.StatusCode.UNAVAILABLE, reason, (retry, goodbye))


def _refused(error: RefusedError) -> End:
    full = isinstance(error, FleetFullError)
    return End(grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _never_began(opening: asyncio.Task[SessionHandle]) -> None:
    """Ends a session whose stream was over before it had begun."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().ended(BROKEN)


def _outcome(reader: asyncio.Task[End]) -> End:
    """What the reader ended with, as a status for the agent."""
    error = reader.exception()
    match error:
        case None:
            return reader.result()
        case RefusedError():
            return _refused(error)
        case DecodeError():
            return End(grpc.StatusCode.INVALID_ARGUMENT, "a message that is not of this protocol")
        case aio.BaseError():  # the call is over already: nobody hears a status
            return End(grpc.StatusCode.OK, BROKEN)
        case _:
            log.error("a session ended by our own fault", exc_info=error)
            return End(grpc.StatusCode.INTERNAL, "the controller failed; its log says how")
