"""Deeds: what operators have this gateway do over its session: the installer's commands, bounded, each told in the log.

Invariants: a deed ends with exactly one last piece, or with its session; at most limits.MAX_DEEDS run at once; none
runs longer than it was given, nor says more than limits.MAX_DEED_BYTES.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from parkfleet.proto import limits
from parkfleet.proto.remote_pb2 import Deed, DeedOutput

log = logging.getLogger(__name__)

#: How deeds are done, by their name in remote.proto: pieces of output, as they come. Raises DeedError.
Doer = Callable[[Deed], AsyncIterator[bytes]]
Send = Callable[[DeedOutput], Awaitable[None]]

#: Pieces a second: a controller reads 20 messages a second, and heartbeats are among them.
PIECES_PER_S: Final = 10.0


class DeedError(Exception):
    """A deed came to nothing; the message is for the operator."""


class Deeds:
    """The deeds of one session. send must be a task's own: it may be called by several at once."""

    def __init__(self, doers: dict[str, Doer], send: Send) -> None:
        self._doers = doers
        self._send = send
        self._running: dict[int, asyncio.Task[None]] = {}

    def begin(self, deed: Deed) -> None:
        """Begins one. Returns at once."""
        if deed.id in self._running:
            return
        task = asyncio.create_task(self._one(deed), name=f"deed {deed.id}")
        self._running[deed.id] = task
        task.add_done_callback(lambda _: self._running.pop(deed.id, None))

    def cancel(self, number: int) -> None:
        """Nobody waits for it any more."""
        if number in self._running:
            self._running[number].cancel()

    async def close(self) -> None:
        """Ends all; idempotent."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, deed: Deed) -> None:
        kind = deed.WhichOneof("deed") or ""
        error = ""
        try:
            if len(self._running) > limits.MAX_DEEDS:
                raise DeedError(f"{limits.MAX_DEEDS} others are under way on this gateway: try again")
            if kind not in self._doers:
                raise DeedError("this agent does not know how: update it")
            log.info("%s, asked by %s: %s", kind, deed.operator or "somebody", deed.reason or "no reason given")
            low, high = limits.DEED_S
            async with asyncio.timeout(min(max(deed.within_s, low), high)):
                await self._told(deed, self._doers[kind](deed))
        except DeedError as failure:
            error = str(failure)
        except TimeoutError:
            error = f"not done within {deed.within_s} s"
        except Exception as failure:  # a fault of ours must not cost the session
            log.exception("a deed failed by our own fault")
            error = f"{type(failure).__name__}: {failure}"
        await self._send(DeedOutput(id=deed.id, last=True, error=error[: limits.MAX_SENTENCE]))

    async def _told(self, deed: Deed, output: AsyncIterator[bytes]) -> None:
        """Sends what comes of it, in pieces, no faster than the session bears."""
        told = 0
        async for data in output:
            told += len(data)
            if told > limits.MAX_DEED_BYTES:
                raise DeedError(f"its output was cut at {limits.MAX_DEED_BYTES // 1024**2} MiB")
            for at in range(0, len(data), limits.MAX_PIECE_BYTES):
                began = time.monotonic()
                await self._send(DeedOutput(id=deed.id, data=data[at : at + limits.MAX_PIECE_BYTES]))
                await asyncio.sleep(max(0.0, began + 1 / PIECES_PER_S - time.monotonic()))
