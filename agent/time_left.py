"""Time left: what a survey still takes, as it is told: honest, and never more than a moment ago.

While units are searched it is the worst case, that nobody else answers, at the pace that was found; while those found
are asked what they are, what the ones before took. A wait that was not foreseen (noise, a busy line) makes it stand.
"""

import time
from collections.abc import Callable
from typing import Final

#: What a unit takes to be identified before the first one has been. Seconds; seen were 2 to 4 at 9600 baud.
IDENTIFY_S: Final = 10.0


class TimeLeft:
    """One survey's."""

    def __init__(self, search_s: float, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """search_s: the search's worst case on a line of its own. share: the part of the line's time that it gets."""
        self._search = search_s
        self._share = share
        self._clock = clock
        self._begun = clock()
        self._told = search_s / share
        self._asking: float | None = None  # when the first unit was asked what it is

    def searching(self, left_s: float) -> float:
        """Seconds that the search takes at most; left_s: its worst case that is left, on a line of its own."""
        done = self._search - left_s
        pace = (self._clock() - self._begun) / done if done > 0 else 0.0
        return self._fallen(left_s * max(1 / self._share, pace))

    def identifying(self, done: float, count: int) -> float:
        """Seconds until all of `count` units are identified; done: of them, the last in part."""
        now = self._clock()
        if self._asking is None:
            self._asking, self._told = now, count * IDENTIFY_S / self._share
        if done < 1:
            return self._fallen((count - done) * IDENTIFY_S / self._share)
        return self._fallen((now - self._asking) * (count - done) / done)

    def _fallen(self, seconds: float) -> float:
        self._told = max(0.0, min(self._told, seconds))
        return self._told
