"""ControllerConnection: one connection to the controller with one session on it. Lives once.

How it ends, with grpc.aio (../shared/FLEET.md, grpc#42125, grpc#43360): reads and writes, one of each at a time, are
neither cancelled nor given a time-out: time runs beside them. At the end the stream is closed first, then what is
pending is awaited, then the channel is closed. Any other order, and two writes at once, leave a socket behind.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Final

import grpc
from grpc import aio

from parkfleet.agent.identity import Credentials
from parkfleet.proto import limits
from parkfleet.proto.enrolment_pb2 import GatewayCertificate, RenewRequest
from parkfleet.proto.enrolment_pb2_grpc import CertificateRenewalStub
from parkfleet.proto.errors import TlsFault, cause, tls_fault
from parkfleet.proto.session_pb2 import AgentMessage, ControllerMessage
from parkfleet.proto.session_pb2_grpc import AgentSessionStub

#: From dialling to the controller's Welcome. On 4G in a cellar it takes some seconds; a controller to which thousands
#: come back at once works off their handshakes one after the other, and giving up would only add more. Seconds.
CONNECT_S: Final = 45.0
#: So long a message may wait to be taken by a connection that is up. Seconds.
SEND_S: Final = 20.0
#: A signature and a commit, on a poor link. Seconds.
RENEW_S: Final = 30.0
#: For a goodbye to be said and answered. Seconds.
GOODBYE_S: Final = 0.8
#: For reads and writes to end after their stream was cancelled; it takes microseconds. Seconds.
SETTLE_S: Final = 0.1

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    # A link that went dead without a word is found by the next heartbeat: with keepalive on, gRPC has TCP give up what
    # nobody acknowledged for the timeout below. Pings are for what TCP acknowledges and nobody reads; heartbeats keep
    # the NAT's entry alive. More pings would cost data on a capped 4G link.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    # Reconnecting, with its pauses, is the session's business; what gRPC calls so is its time for one connection.
    ("grpc.enable_retries", 0),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
    # A connection of its own: gRPC would let sessions of one process share one, and its fate.
    ("grpc.use_local_subchannel_pool", 1),
)


class ConnectionLostError(Exception):
    """The connection is over; the message says why. fault: where TLS never came about."""

    def __init__(self, told: str, fault: TlsFault | None = None) -> None:
        super().__init__(told)
        self.fault = fault


class ControllerConnection:
    """A stream to the controller. Every method but close() raises ConnectionLostError when it is over."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        """credentials: ours, for mutual TLS; without, nothing is encrypted."""
        self._url = url
        self._channel = _channel(url, credentials)
        self._stream = AgentSessionStub(self._channel).Connect()
        self._read: asyncio.Task[Any] | None = None
        self._write: asyncio.Task[Any] | None = None
        self._turn = asyncio.Lock()  # gRPC breaks a call at two writes at once
        self._is_woken = False
        self._waking: asyncio.Future[None] | None = None

    async def open(self, hello: AgentMessage) -> ControllerMessage:
        """Says hello; returns the controller's first message."""
        await self._send(hello, CONNECT_S)
        message = await self.receive(CONNECT_S)  # nobody knows this connection yet who could wake it
        if message is None:
            raise ConnectionLostError(f"{self._url} did not answer the hello within {CONNECT_S:g} s")
        return message

    async def send(self, message: AgentMessage) -> None:
        """Sends a message; several tasks may, each in its turn."""
        async with self._turn:
            await self._send(message, SEND_S)

    def wake(self) -> None:
        """Has receive(), now or when it is called next, return at once."""
        self._is_woken = True
        if self._waking is not None and not self._waking.done():
            self._waking.set_result(None)

    async def receive(self, within_s: float) -> ControllerMessage | None:
        """The next message; None when there was none within so many seconds, or somebody called wake()."""
        if self._read is None:
            self._read = _start(self._stream.read(), "controller session read")
        self._waking = asyncio.get_running_loop().create_future()
        if self._is_woken:
            self._waking.set_result(None)
        await asyncio.wait({self._read, self._waking}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        self._is_woken = False
        if not self._read.done():
            return None
        read, self._read = self._read, None
        message = self._result(read)
        if message is aio.EOF:
            raise ConnectionLostError("the controller ended the session")
        if not isinstance(message, ControllerMessage):  # gRPC's client makes None of what cannot be decoded
            raise ConnectionLostError(f"{self._url} sent a message that is not of this protocol")
        return message

    async def renew(self) -> GatewayCertificate:
        """A further certificate for the key we are connected with."""
        try:
            return await CertificateRenewalStub(self._channel).Renew(RenewRequest(), timeout=RENEW_S)
        except aio.AioRpcError as error:
            raise ConnectionLostError(cause(error)) from None

    async def close(self, goodbye: AgentMessage | None = None) -> None:
        """Ends it, with a last word if the controller still listens. Takes at most about a second. Raises nothing."""
        try:
            if goodbye is not None and not self._stream.done():
                parting = asyncio.create_task(self._part(goodbye), name="controller session goodbye")
                await asyncio.wait({parting}, timeout=GOODBYE_S)
                parting.cancel()  # which cancels no read and no write: those end with the stream
                await asyncio.wait({parting})
        finally:
            self._cancel()
            try:
                await self._settle()
            finally:
                await self._channel.close()

    async def _part(self, goodbye: AgentMessage) -> None:
        """Says goodbye, and reads until the controller has ended the stream: then it has heard it."""
        with contextlib.suppress(ConnectionLostError):
            await self._send(goodbye, GOODBYE_S)
            while True:
                await self.receive(GOODBYE_S)

    async def _send(self, message: AgentMessage, within_s: float) -> None:
        if self._write is not None:  # its sender was cancelled; gRPC breaks the call at a second write beside it
            await self._written(self._write, within_s)
        self._write = _start(self._stream.write(message), "controller session write")
        await self._written(self._write, within_s)

    async def _written(self, write: asyncio.Task[Any], within_s: float) -> None:
        done, _ = await asyncio.wait({write}, timeout=within_s)
        if not done:
            raise ConnectionLostError(f"{self._url} took nothing for {within_s:g} s")
        self._write = None
        try:
            self._result(write)
        except asyncio.InvalidStateError:  # the stream was over before: it knows why
            why = await self._stream.details() or (await self._stream.code()).name
            raise ConnectionLostError(f"the controller ended the session: {why}") from None

    async def _settle(self) -> None:
        """Waits until what was under way has ended with the stream."""
        pending = {task for task in (self._read, self._write) if task is not None}
        if pending:
            _, pending = await asyncio.wait(pending, timeout=SETTLE_S)
        for task in pending:  # a write to a call that never was connected waits in aio, not in the core: for ever
            task.cancel()

    def _cancel(self) -> None:
        """Ends the stream in gRPC's core, also when grpc.aio believes that it is over.

        A write that crosses with the end of the stream makes aio declare the call done and ignore cancel(); what the
        controller said last is then never read, and the core keeps call and socket for ever (seen with 1.85.1:
        tests/session, last words). There is no public way to the core's call.
        """
        if not self._stream.cancel():
            core: Any = getattr(self._stream, "_cython_call", None)
            if core is not None:
                core.cancel("closed")

    def _result(self, task: asyncio.Task[Any]) -> Any:
        """What the task brought; its end as the loss of the connection."""
        if task.cancelled():
            raise ConnectionLostError("the session was cancelled")
        match task.exception():
            case None:
                return task.result()
            case aio.AioRpcError() as error:
                raise ConnectionLostError(cause(error), tls_fault(error))
            case error:
                raise error


def _channel(url: str, credentials: Credentials | None) -> aio.Channel:
    if credentials is None:
        return aio.insecure_channel(url, options=_OPTIONS)
    tls = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.chain)
    return aio.secure_channel(url, tls, options=_OPTIONS)


def _start(awaitable: Awaitable[Any], name: str) -> asyncio.Task[Any]:
    """A task that may end unwatched."""

    async def run() -> Any:
        return await awaitable

    task = asyncio.create_task(run(), name=name)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
