"""Turns: who may use a line now. Its owner takes a turn for each transaction; one guest at a time fits in between.

A guest is the installer's read, or a scan while the agent runs. Invariants: one transaction at a time; a guest waits
for one of the owner's at most, the owner for one of a guest's; while the owner has something to do, guests take at
most half of the line's time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator


class Turns:
    """The turns of one line."""

    def __init__(self) -> None:
        self._wire = asyncio.Lock()  # first come, first served
        self._guests = asyncio.Lock()
        self._idle = asyncio.Event()  # the owner has nothing to do
        self._idle.set()
        self._guest_again = 0.0  # monotonic; before it a guest comes only to an idle owner's line

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Around all the transactions that the owner has to do now."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    @contextlib.asynccontextmanager
    async def owner(self) -> AsyncIterator[None]:
        """For one transaction of the owner's."""
        async with self._wire:
            yield

    @contextlib.asynccontextmanager
    async def guest(self) -> AsyncIterator[None]:
        """For one transaction of a guest's."""
        async with self._guests:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._guest_again - time.monotonic())):
                    await self._idle.wait()
            async with self._wire:
                begun = time.monotonic()
                try:
                    yield
                finally:
                    ended = time.monotonic()
                    self._guest_again = ended + (ended - begun)
