"""Losses: what was thinned or dropped for want of room, gathered and told as events, at most once a minute."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from parkfleet.agent.store import Loss
from parkfleet.protocols.payload.intervals import IntervalSet

log = logging.getLogger(__name__)

#: A full buffer loses something with each batch: that is one story. Seconds.
EVERY_S: Final = 60.0
#: Ranges of seq in one event.
MAX_RANGES: Final = 100

#: Gets kind, text and data of an event.
Emit = Callable[[str, str, dict[str, object]], None]


class Losses:
    """One buffer's."""

    def __init__(self, emit: Emit | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit or _log
        self._clock = clock
        self._told_at = -EVERY_S  # the first is told at once
        self._seqs: dict[tuple[str, int], IntervalSet] = {}  # by kind and epoch
        self._readings: dict[tuple[str, int], int] = {}

    def add(self, epoch: int, losses: Iterable[Loss]) -> None:
        """Takes what an append has cost."""
        for loss in losses:
            key = loss.kind, epoch
            self._seqs.setdefault(key, IntervalSet()).add(loss.seq, loss.seq + loss.count - 1)
            self._readings[key] = self._readings.get(key, 0) + loss.readings

    def tell(self, *, now: bool = False) -> None:
        """Emits what has gathered, when it is time, or now."""
        if not self._seqs or (not now and self._clock() - self._told_at < EVERY_S):
            return
        self._told_at = self._clock()
        for (kind, epoch), seqs in self._seqs.items():
            readings = self._readings[kind, epoch]
            ranges = list(seqs)[:MAX_RANGES]
            text = f"no room in the buffer: {readings} readings {kind}, in batches {ranges[0][0]} to {ranges[-1][1]}"
            self._emit(kind, text, {"epoch": epoch, "ranges": ranges, "readings": readings})
        self._seqs.clear()
        self._readings.clear()


def _log(kind: str, text: str, _data: dict[str, object]) -> None:
    log.error("%s: %s", kind, text)
