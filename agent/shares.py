"""Shares: how much of a line's time each of its meters took, over the last minute and the last quarter of an hour."""

from array import array
from collections import deque
from collections.abc import Mapping
from typing import Final

from parkfleet.agent.activity import MeterActivity

#: Samples are this far apart at least; a quarter of an hour of them is kept. Seconds.
SAMPLE_S: Final = 15.0
MINUTE_S: Final = 60.0
QUARTER_S: Final = 900.0


class Shares:
    """The meters of one line. Times are monotonic seconds."""

    def __init__(self, meters: list[str]) -> None:
        self._meters = meters
        self._samples: deque[tuple[float, array[float]]] = deque()

    def note(self, now: float, activities: Mapping[str, MeterActivity]) -> None:
        """Takes a sample, unless the last is younger than SAMPLE_S."""
        if self._samples and now - self._samples[-1][0] < SAMPLE_S:
            return
        self._samples.append((now, self._busy(activities)))
        while len(self._samples) > 2 and self._samples[1][0] <= now - QUARTER_S:
            self._samples.popleft()

    def shares(self, now: float, activities: Mapping[str, MeterActivity]) -> dict[str, tuple[float, float]]:
        """By meter: over the last minute and the last quarter of an hour, or since the first sample; 0 to 1."""
        busy = self._busy(activities)
        return {
            meter: (self._share(now, index, busy[index], MINUTE_S), self._share(now, index, busy[index], QUARTER_S))
            for index, meter in enumerate(self._meters)
        }

    def _share(self, now: float, index: int, busy: float, window: float) -> float:
        then, before = next(
            ((at, sample[index]) for at, sample in reversed(self._samples) if at <= now - window),
            (self._samples[0][0], self._samples[0][1][index]) if self._samples else (now, 0.0),
        )
        return min(1.0, max(0.0, (busy - before) / (now - then))) if now > then else 0.0

    def _busy(self, activities: Mapping[str, MeterActivity]) -> "array[float]":
        return array("d", [activities[meter].busy_s if meter in activities else 0.0 for meter in self._meters])
