"""Desk: the deeds that operators have gateways do, while they are under way, and the sessions they go over.

Invariants: a deed ends with its last piece, its session, its time, or whoever asked for it; what a gateway says of a
deed that is over, or was never asked of it, changes nothing; what waits for a slow reader is bounded.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from parkfleet.controller.registry import GatewayKey
from parkfleet.proto import limits
from parkfleet.proto.remote_pb2 import Deed, DeedCancel, DeedOutput, RemoteCall
from parkfleet.proto.session_pb2 import ControllerMessage

#: Deeds under way at once, in all.
MAX_DEEDS: Final = 64
#: Pieces that wait for whoever asked; 2 MiB.
MAX_WAITING: Final = 64
#: A gateway ends a deed by its own clock; so long after that we no longer wait for its word. Seconds.
GRACE_S: Final = 10.0

#: Puts a message on its way to a gateway; False when it takes none now.
Send = Callable[[ControllerMessage], bool]


class DeskError(Exception):
    """A deed came to nothing; the message is for the operator."""


class _UnderWay:
    """One deed."""

    def __init__(self, key: GatewayKey, number: int) -> None:
        self.key = key
        self.number = number
        self.pieces: asyncio.Queue[DeedOutput] = asyncio.Queue(MAX_WAITING)
        self.over = asyncio.Event()  # no piece comes any more
        self.why = ""


class Desk:
    """All deeds of one controller."""

    def __init__(self) -> None:
        self.elsewhere: Callable[[GatewayKey], str] = lambda _: ""  # the replica that has a gateway's session, if one
        self._sessions: dict[GatewayKey, tuple[int, Send]] = {}
        self._deeds: dict[int, _UnderWay] = {}
        self._numbers = itertools.count(1)
        self._opened: dict[GatewayKey, list[asyncio.Event]] = {}

    def opened(self, key: GatewayKey, session: int, send: Send) -> None:
        """A gateway's session counts from now on."""
        self._sessions[key] = session, send
        for waiting in self._opened.pop(key, []):
            waiting.set()

    def closed(self, key: GatewayKey, session: int) -> None:
        """It does not any more; its deeds end."""
        if self._sessions.get(key, (0, None))[0] != session:
            return
        del self._sessions[key]
        for deed in self._deeds.values():
            if deed.key == key:
                deed.why = deed.why or "the gateway's session ended"
                deed.over.set()

    def said(self, key: GatewayKey, output: DeedOutput) -> None:
        """A gateway's word of a deed."""
        deed = self._deeds.get(output.id)
        if deed is None or deed.key != key or deed.over.is_set():
            return
        if deed.pieces.full():
            deed.why = "it says more than you read"
            deed.over.set()
            return
        deed.pieces.put_nowait(output)

    async def do(self, key: GatewayKey, call: RemoteCall, operator: str) -> AsyncIterator[bytes]:
        """Has a gateway do what a call says; what it says, as it comes. Raises DeskError."""
        if call.WhichOneof("deed") == "restart":
            async for data in self._restarted(key, call, operator):
                yield data
            return
        async with self._begun(key, call, operator) as deed:
            while (piece := await _next(deed)) is not None:
                if piece.data:
                    yield piece.data
                if piece.last:
                    if piece.error:
                        raise DeskError(piece.error)
                    return
            raise DeskError(deed.why)

    async def _restarted(self, key: GatewayKey, call: RemoteCall, operator: str) -> AsyncIterator[bytes]:
        """Done when the gateway is back; its session ends meanwhile, with or without a last word."""
        back = asyncio.Event()
        self._opened.setdefault(key, []).append(back)
        async with self._begun(key, call, operator) as deed:
            while (piece := await _next(deed)) is not None:
                if piece.last and piece.error:
                    raise DeskError(piece.error)
                if piece.last:
                    break
            yield b'{"restarting": true}\n'
            await back.wait()
            yield b'{"restarting": false}\n'

    @asynccontextmanager
    async def _begun(self, key: GatewayKey, call: RemoteCall, operator: str) -> AsyncIterator[_UnderWay]:
        """A deed, from its sending to its end, for as long as it may take. Raises DeskError."""
        if len(self._deeds) >= MAX_DEEDS:
            raise DeskError(f"{MAX_DEEDS} deeds are under way: try again")
        if key not in self._sessions:
            if other := self.elsewhere(key):
                raise DeskError(f"{key} has its session at another controller: ask {other}")
            raise DeskError(f"{key} is not connected to this controller: see `parkfleet fleet list`")
        deed = _UnderWay(key, next(self._numbers))
        kind = call.WhichOneof("deed") or ""
        message = Deed(id=deed.number, operator=operator, reason=call.reason, within_s=call.within_s)
        getattr(message, kind).CopyFrom(getattr(call, kind))
        if not self._sessions[key][1](ControllerMessage(deed=message)):
            raise DeskError(f"{key} takes nothing now: try again")
        self._deeds[deed.number] = deed
        try:
            async with asyncio.timeout(call.within_s + GRACE_S):
                yield deed
        except TimeoutError:
            raise DeskError(f"{key} has not ended it within {call.within_s} s") from None
        finally:
            del self._deeds[deed.number]
            self._cancel(key, deed)

    def _cancel(self, key: GatewayKey, deed: _UnderWay) -> None:
        """Tells the gateway that nobody waits any more; one that has ended it does not mind."""
        if key in self._sessions:
            self._sessions[key][1](ControllerMessage(deed_cancel=DeedCancel(id=deed.number)))


async def _next(deed: _UnderWay) -> DeedOutput | None:
    """The next piece; None when none comes any more."""
    if deed.pieces.empty() and not deed.over.is_set():
        taking = asyncio.ensure_future(deed.pieces.get())
        ending = asyncio.ensure_future(deed.over.wait())
        try:
            await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                return taking.result()
        finally:
            taking.cancel()
            ending.cancel()
    return None if deed.pieces.empty() else deed.pieces.get_nowait()


def checked(call: RemoteCall, kind: str) -> str:
    """What is wrong with a call for a deed of a kind; empty when it can be passed on."""
    low, high = limits.DEED_S
    if call.WhichOneof("deed") != kind:
        return f"the request does not say what to {kind}"
    if not call.reason.strip() or len(call.reason) > limits.MAX_SENTENCE:
        return f"a deed has a reason, of at most {limits.MAX_SENTENCE} characters: add --reason WHY"
    if not low <= call.within_s <= high:
        return f"a deed takes from {low} to {high} s, not {call.within_s}"
    if kind == "capture" and not 1 <= call.capture.seconds <= call.within_s:
        return "a capture takes from 1 s to the time it is given"
    return ""
