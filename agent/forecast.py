"""Forecast: what a line will do, before anything is wired: its load, its shortest cycle, and who would be late."""

import heapq
import math
import operator
from dataclasses import dataclass
from typing import Final

from parkfleet.agent.plan import LinePlan

#: Scans that are played through at most: a day of thirty meters at one minute.
MAX_SCANS: Final = 50_000


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


def _late(line: LinePlan, intervals: list[float]) -> list[float]:
    """For each meter the share of its slots that pass before its turn comes."""
    seconds = [
        [line.scan_seconds(meter, due) / line.config.lanes for due in range(len(meter.shares))] for meter in line.meters
    ]
    slots = [(meter.offset_s, index) for index, meter in enumerate(line.meters)]
    heapq.heapify(slots)
    rounds = (max([group.every for group in meter.groups] or [1]) for meter in line.meters)
    end = max(map(operator.mul, intervals, rounds), default=0.0) * 4
    now, missed, total = 0.0, [0] * len(slots), [0] * len(slots)
    latest = [-1] * len(slots)  # index of each meter's last slot: the first of all has every group due
    for _ in range(MAX_SCANS):
        if not slots or slots[0][0] >= end:
            break
        slot, index = slots[0]
        meter, number = line.meters[index], round((slot - line.meters[index].offset_s) / intervals[index])
        now = max(now, slot) + seconds[index][meter.due(number, latest[index])]
        latest[index] = number
        passed = max(0, math.ceil((now - slot) / intervals[index] - 1e-9) - 1)
        missed[index] += passed
        total[index] += 1 + passed
        heapq.heapreplace(slots, (slot + (1 + passed) * intervals[index], index))
    return [m / t if t else 0.0 for m, t in zip(missed, total, strict=True)]
