"""Forecast: what a line will do, before anything is wired: its load, its shortest cycle, and who would be late."""

import heapq
import math
import operator
from dataclasses import dataclass
from typing import Final

from parkfleet.agent.plan import LinePlan

#: Requests that are played through at most: a day of thirty meters of two requests at one minute.
MAX_REQUESTS: Final = 100_000
#: Of the longest interval, so often is each played at most: the line begins with all meters due at once.
ROUNDS: Final = 20
#: Sums of intervals are not exact.
EPSILON_S: Final = 1e-9


@dataclass(frozen=True)
class MeterForecast:
    """One meter on its line."""

    id: str
    requests: int
    registers: int  # and bits, asked for in one scan, gaps included
    scan_s: float  # wire time of one scan, all of its points
    interval_s: float
    share: float  # of the line's time, 0 to 1
    late: float  # share of its slots that would pass unread, 0 to 1


@dataclass(frozen=True)
class LineForecast:
    """One line."""

    id: str
    load: float  # share of its time that the meters need; above 1 it cannot be kept
    cycle_s: float  # the shortest time in which every meter can be read once
    meters: tuple[MeterForecast, ...]

    @property
    def late(self) -> list[str]:
        """Meters that would miss slots."""
        return [meter.id for meter in self.meters if meter.late > 0]


def forecast(line: LinePlan) -> LineForecast:
    """Plays the line's schedule (earliest deadline first) through one round of all intervals."""
    scans = [line.scan_seconds(meter) for meter in line.meters]
    intervals = [float(meter.config.interval) for meter in line.meters]
    late = _late(line, intervals)
    meters = tuple(
        MeterForecast(
            id=meter.config.id,
            requests=len(meter.requests),
            registers=sum(planned.request.count for planned in meter.requests),
            scan_s=scan,
            interval_s=interval,
            share=line.share(meter),
            late=missed,
        )
        for meter, scan, interval, missed in zip(line.meters, scans, intervals, late, strict=True)
    )
    return LineForecast(line.config.id, line.load, sum(scans) / line.config.lanes, meters)


class _Turns:
    """A line's schedule as the engine keeps it: the earliest deadline goes first, also in the midst of a scan."""

    def __init__(self, line: LinePlan, intervals: list[float]) -> None:
        self._line = line
        self._intervals = intervals
        self.missed, self.total = [0] * len(intervals), [0] * len(intervals)
        self._slots = [meter.offset_s for meter in line.meters]  # of each meter's scan that is due next, or under way
        self._latest = [-1] * len(intervals)  # index of each meter's last slot: the first has every group due
        self._left: list[list[float]] = [[] for _ in intervals]  # seconds of the requests of each scan under way
        self._waiting = [(slot, index) for index, slot in enumerate(self._slots)]
        self._ready: list[tuple[float, int]] = []  # deadline, meter
        heapq.heapify(self._waiting)

    def play(self, end: float) -> None:
        """Until a time in seconds, or MAX_REQUESTS."""
        now = 0.0
        for _ in range(MAX_REQUESTS):
            if not self._ready:
                if not self._waiting:
                    return
                now = max(now, self._waiting[0][0])
            while self._waiting and self._waiting[0][0] <= now + EPSILON_S:
                slot, index = heapq.heappop(self._waiting)
                heapq.heappush(self._ready, (slot + self._intervals[index], index))
            if now >= end:
                return
            now += self._request(self._ready[0][1], now)

    def _request(self, index: int, now: float) -> float:
        """Sends a meter's next request: how long it takes."""
        left = self._left[index]
        if not left:
            left += self._begun(index, now)
        seconds = left.pop()
        if not left:
            heapq.heappop(self._ready)
            self._slots[index] += self._intervals[index]
            heapq.heappush(self._waiting, (self._slots[index], index))
        return seconds

    def _begun(self, index: int, now: float) -> list[float]:
        """A scan for the newest slot that has passed; those before it are missed."""
        interval, meter = self._intervals[index], self._line.meters[index]
        passed = max(0, math.floor((now - self._slots[index]) / interval + EPSILON_S))
        self._slots[index] += passed * interval
        self.missed[index] += passed
        self.total[index] += 1 + passed
        number = round((self._slots[index] - meter.offset_s) / interval)
        due = meter.due(number, self._latest[index])
        self._latest[index] = number
        return self._line.request_seconds(meter, due)[::-1]


def _late(line: LinePlan, intervals: list[float]) -> list[float]:
    """For each meter the share of its slots that pass before its turn comes."""
    rounds = (max([group.every for group in meter.groups] or [1]) for meter in line.meters)
    turns = _Turns(line, intervals)
    turns.play(max(map(operator.mul, intervals, rounds), default=0.0) * ROUNDS)
    return [missed / total if total else 0.0 for missed, total in zip(turns.missed, turns.total, strict=True)]
