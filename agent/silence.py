"""Silence: which meters of a line do not answer, and when each is asked again, so that together they cost little.

The rules of the native engine (native/health.pxd tells them with their reasons) for lines that are polled in Python:
tests/engine/test_silence.py holds both to the same promises. Pure; times are monotonic seconds.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

#: Silent meters together are waited for in at most this part of the line's time.
BUDGET_PART: Final = 0.02
#: Of the budget so much is kept at most: two minutes' worth. Seconds.
MOST_S: Final = 120.0 * BUDGET_PART
#: Longest pause before a silent meter is asked again; with the probe itself a minute. Seconds.
BACKOFF_S: Final = 57.0
#: A learned time-out is at least so much above the turnaround, and with a meter that is well at least so long. Seconds.
LEAST_S: Final = 0.3
#: One probe in so many waits as long as is configured, of each unit at another time.
PATIENT_EVERY: Final = 8
#: Sums of seconds are not exact.
EPSILON_S: Final = 1e-6
#: One that is back has the others asked at most this often. Seconds.
RALLY_S: Final = 60.0


@dataclass
class _Unit:
    """What is known of one meter's answering."""

    base: float  # of its backoff, seconds
    misses: int = 0  # in a row
    turnaround: float = 0.0  # smoothed, seconds; 0: nothing learned
    deviation: float = 0.0
    next_probe: float = 0.0
    last_probe: float = 0.0
    not_before: float = 0.0  # a late answer may come


class Silence:
    """The meters of one line, by unit id."""

    def __init__(
        self, intervals: Mapping[int, float], timeout: float, now: float, chance: Callable[[], float] = random.random
    ) -> None:
        """intervals: of the units, seconds. timeout: the configured one."""
        self._units = {unit: _Unit(min(5.0, max(interval, 0.2))) for unit, interval in intervals.items()}
        self._timeout = timeout
        self._chance = chance
        self._budget, self._budget_at, self._rally_at = 0.0, now, now

    def is_silent(self, unit: int) -> bool:
        """Whether it has missed its last answer."""
        return self._units[unit].misses > 0

    def patience(self, unit: int) -> float:
        """How long to wait for a unit's answer, beside the frames' wire time; seconds."""
        known = self._units[unit]
        wait = _learned(known)
        if known.misses and not wait:
            wait = max(map(_learned, self._units.values()))
        if not wait or (known.misses >= PATIENT_EVERY and (known.misses + unit) % PATIENT_EVERY == 0):
            return self._timeout
        return min(2 * wait if known.misses == 1 else wait, self._timeout)

    def due(self, now: float) -> int | None:
        """The silent unit to be asked now: of those that may be, the one that was not for longest."""
        self._refill(now)
        may = [unit for unit, at in self._probe_times() if at <= now]
        return min(may, key=lambda unit: self._units[unit].last_probe, default=None)

    def next_due(self) -> float:
        """When the next one may be, as things stand."""
        return min((at for _, at in self._probe_times()), default=float("inf"))

    def answered(self, unit: int, now: float, turnaround: float) -> None:
        """Any answer: it is there."""
        known = self._units[unit]
        if not known.turnaround:
            known.turnaround, known.deviation = max(turnaround, 1e-6), turnaround / 2
        else:
            off = turnaround - known.turnaround
            known.deviation += (abs(off) - known.deviation) / 4
            known.turnaround = max(known.turnaround + off / 8, 1e-6)
        if known.misses > 1 and now >= self._rally_at:
            self._rally_at, self._budget = now + RALLY_S, max(self._budget, 1e-9)
            for other in self._units.values():
                other.next_probe = min(other.next_probe, now)
        known.misses = 0

    def missed(self, unit: int, now: float, waited: float, hold: float = 0.0) -> None:
        """No answer came. waited: for it; hold: so long it may still come, and the unit is asked nothing. Seconds."""
        self._refill(now)
        known = self._units[unit]
        pause = known.base / 2
        if known.misses:
            pause = min(known.base * 2 ** min(known.misses, 20), BACKOFF_S) * (0.75 + 0.25 * self._chance())
            self._budget -= waited
            if known.misses == 1:  # many that fall silent at once are not to be given up for more than a minute
                self._budget = max(self._budget, -MOST_S / 2)
        known.misses += 1
        known.last_probe, known.next_probe, known.not_before = now, now + pause, now + hold

    def put_off(self, unit: int, until: float) -> None:
        """The line itself is away: nothing is known of a silent unit, and it is not asked before."""
        self._units[unit].next_probe = max(self._units[unit].next_probe, until)

    def wake(self, unit: int, now: float) -> None:
        """The installer stands in front of it: asked at once, whatever backoff and budget say."""
        known = self._units.get(unit)
        if known is not None and known.misses:
            known.misses, known.next_probe = 1, now

    def _probe_times(self) -> list[tuple[int, float]]:
        """Each silent unit, and when it may be asked."""
        silent = [(unit, known) for unit, known in self._units.items() if known.misses]
        is_kept_short = self._budget <= 0 and len(silent) < len(self._units)
        paid = self._budget_at - self._budget / BUDGET_PART + EPSILON_S if is_kept_short else 0.0
        return [(unit, max(own.next_probe, own.not_before, paid if own.misses > 1 else 0.0)) for unit, own in silent]

    def _refill(self, now: float) -> None:
        self._budget = min(self._budget + max(0.0, now - self._budget_at) * BUDGET_PART, MOST_S)
        self._budget_at = now


def _learned(known: _Unit) -> float:
    return known.turnaround + max(LEAST_S, 4 * known.deviation) if known.turnaround else 0.0
