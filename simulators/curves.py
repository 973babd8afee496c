"""Curve: a rate over the week and its exact integral, both pure functions of time.

A counter that is the closed-form integral of its rate only grows, needs no state, agrees with the rate to the
last digit, and goes on where it was when a simulator restarts. The rate is piecewise linear over the hours of
the week, times small ripples whose periods divide the week, so that the integral repeats week by week too.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
#: 1970-01-05, a Monday: where the weeks begin.
MONDAY: Final = 4 * DAY


@dataclass(frozen=True)
class Ripple:
    """A share of the rate that swings: amplitude × sin(2π × cycles × week + phase)."""

    amplitude: float  # of the rate, 0 to 1
    cycles: int  # per week
    phase: float  # radians


class Curve:
    """A rate in units per hour. hours: its 168 values at the full hours of the week, from Monday 0:00."""

    def __init__(self, hours: Sequence[float], ripples: Sequence[Ripple] = (), utc_offset: float = 0.0) -> None:
        """utc_offset: seconds that local time is ahead of UTC. Raises ValueError for rates that could be negative."""
        if len(hours) != 168 or min(hours) < 0:
            raise ValueError("a curve needs 168 values of at least 0, one an hour of the week")
        if sum(abs(ripple.amplitude) for ripple in ripples) > 1:
            raise ValueError("ripples of more than 1 in total would turn the rate negative")
        self._values = (*hours, hours[0])
        self._ripples = [(r.amplitude, 2 * math.pi * r.cycles / WEEK, r.phase) for r in ripples]
        self._shift = utc_offset - MONDAY
        self._before = [0.0]  # the integral from the week's begin to each full hour
        for hour in range(168):
            self._before.append(self._before[hour] + self._within(hour, HOUR))

    def rate(self, time: float) -> float:
        """Units per hour at a unix time."""
        second = (time + self._shift) % WEEK
        hour = int(second // HOUR)
        start, stop = self._values[hour], self._values[hour + 1]
        swing = 1.0
        for amplitude, speed, phase in self._ripples:
            swing += amplitude * math.sin(speed * second + phase)
        return (start + (stop - start) * (second / HOUR - hour)) * swing

    def integral(self, since: float, until: float) -> float:
        """Units between two unix times; negative when until is earlier."""
        return self._from_monday(until) - self._from_monday(since)

    def _from_monday(self, time: float) -> float:
        weeks, second = divmod(time + self._shift, WEEK)
        hour = int(second // HOUR)
        return weeks * self._before[168] + self._before[hour] + self._within(hour, second - hour * HOUR)

    def _within(self, hour: int, seconds: float) -> float:
        """The integral over the first seconds of an hour of the week, in units."""
        start = self._values[hour]
        slope = (self._values[hour + 1] - start) / HOUR
        stop = start + slope * seconds
        total = (start + stop) / 2 * seconds
        for amplitude, speed, phase in self._ripples:
            first = speed * hour * HOUR + phase
            last = first + speed * seconds
            total += amplitude * (start * math.cos(first) - stop * math.cos(last)) / speed
            total += amplitude * slope * (math.sin(last) - math.sin(first)) / speed**2
        return total / HOUR


def wave(time: float, mean: float, amplitude: float, period: float, phase: float) -> float:
    """A slow swing around a mean; period in seconds, phase in radians."""
    return mean + amplitude * math.sin(2 * math.pi * time / period + phase)


def ripples(random_: random.Random, strength: float) -> list[Ripple]:
    """Four ripples between 40 seconds and an hour; strength: what they may change together, 0 to 1."""
    periods = [random_.uniform(*bounds) for bounds in ((40, 90), (120, 300), (500, 1100), (1800, 3600))]
    shares = (0.15, 0.2, 0.3, 0.35)
    return [
        Ripple(strength * share, round(WEEK / period), random_.uniform(0, 2 * math.pi))
        for period, share in zip(periods, shares, strict=True)
    ]


def week(workday: Sequence[float], weekend: Sequence[float], scale: float = 1.0) -> list[float]:
    """168 hours out of 24 of a working day and 24 of a day off."""
    return [scale * value for value in (*(list(workday) * 5), *(list(weekend) * 2))]
