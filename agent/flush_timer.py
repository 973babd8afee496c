"""Flush timer: when the open batch closes: every flush interval, and earlier for readings that must not wait.

Each early close costs a sync of the disk, so there are few of them: BURST at once, and one more each REFILL_S.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

#: Early closes that may follow each other at once.
BURST: Final = 5
#: Seconds until there may be one more: a point that chatters costs six syncs a minute.
REFILL_S: Final = 10.0


class Tokens:
    """A bucket of `burst` tokens that gets one back each `refill` seconds. Pure; times are monotonic seconds."""

    def __init__(self, burst: int, refill: float, now: float) -> None:
        self._burst = burst
        self._refill = refill
        self._full_at = now  # when the bucket is full again

    def wait(self, now: float) -> float:
        """Seconds until there is a token."""
        return max(0.0, self._full_at - (self._burst - 1) * self._refill - now)

    def take(self, now: float) -> None:
        """Takes one; wait() was over."""
        self._full_at = max(self._full_at, now) + self._refill


class FlushTimer:
    """One gateway's. hurry() from the event loop's thread."""

    def __init__(self, flush_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._flush_s = flush_s
        self._clock = clock
        self._hurried = asyncio.Event()
        self._tokens = Tokens(BURST, REFILL_S, clock())
        self.early = 0  # times the batch closed early

    def hurry(self) -> None:
        """The open batch has a reading that must not wait."""
        self._hurried.set()

    async def wait(self) -> None:
        """Returns when the batch is to be closed: at the clock's own multiples of the flush interval, or early."""
        due = self._clock() + self._flush_s - time.time() % self._flush_s
        while (left := due - self._clock()) > 0:
            if not self._hurried.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._hurried.wait()
                continue
            pause = self._tokens.wait(self._clock())
            if pause < left:
                await asyncio.sleep(pause)  # the tokens' own pace
                self._tokens.take(self._clock())
                self.early += 1
                break
            await asyncio.sleep(left)
        self._hurried.clear()
