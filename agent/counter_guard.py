"""Counter guard: whether a counter's reading can follow the one before. Pure: no I/O, no clock.

A counter only grows, by no more than its rating allows, and begins anew from 0 where its digits or its register end.
What does not fit is doubtful. It never becomes the new baseline in silence: only after CONFIRMATIONS doubtful readings
that fit each other is the counter taken to have begun anew.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from parkfleet.protocols.payload.series import Column
from parkfleet.protocols.profile import Point

#: Doubtful readings in a row, each fitting the one before, after which they are believed.
CONFIRMATIONS: Final = 3
#: The most that a meter of a park can count in an hour, where its profile says nothing: a 100 MW feeder, a main of
#: 1.6 m, 500 t of steam. Far above any real meter, and below what a torn or shifted register looks like.
USUAL_RATES: Final = {
    "Wh": 1e8,
    "kWh": 1e5,
    "MWh": 100.0,
    "GJ": 360.0,
    "MJ": 3.6e5,
    "varh": 1e8,
    "kvarh": 1e5,
    "VAh": 1e8,
    "kVAh": 1e5,
    "m³": 20_000.0,
    "L": 2e7,
    "kg": 500_000.0,
}
#: A reading that comes sooner than this after the one before is judged as if it came so late. Hours.
_LEAST_HOURS: Final = 1 / 3600
#: Without a rate, a counter that comes back below a tenth of its range has rolled over.
_ROLLED: Final = 0.1
#: Nobody tells how many digits a display has: they are guessed from the reading, and so believed only for as many as
#: the smallest displays have (99,999 steps) and close to the end. A meter that was reset is not to pass for one.
_LEAST_DISPLAY: Final = 1e5
_ROLLED_DISPLAY: Final = 0.01
_FLOAT32_STEP: Final = 2**-22


class Judgement(Enum):
    """What a reading is, beside the one before."""

    FITS = "fits"
    ROLLED_OVER = "rolled over"
    DOUBTFUL = "doubtful"
    BEGAN_ANEW = "began anew"  # doubtful, and confirmed: the next are compared with it


@dataclass(frozen=True)
class Rule:
    """What is known of a counter."""

    max_rate: float | None = None  # units an hour; None: not known
    step: float = 1.0  # its resolution
    is_float: bool = False  # float32: the resolution shrinks with its size
    range: float | None = None  # where its register ends, if that is within reach

    @classmethod
    def of(cls, column: Column, point: Point | None, max_rate: float | None) -> "Rule":
        """The rule of a delivered column. point: what it is read from; None for a derived one."""
        step = abs(column.factor.multiply) / 10**column.factor.decimals
        rate = max_rate if max_rate is not None else USUAL_RATES.get(column.unit)
        return cls(rate, step, column.type.startswith("float"), _range(column, point))

    def slack(self, value: float) -> float:
        """By how much two readings may differ that mean the same."""
        return max(self.step if not self.is_float else 0.0, abs(value) * _FLOAT32_STEP if self.is_float else 0.0)

    def most(self, value: float, hours: float) -> float:
        """How much it can have grown."""
        if self.max_rate is None:
            return float("inf")
        return self.max_rate * max(hours, _LEAST_HOURS) + 2 * self.slack(value)


@dataclass(frozen=True)
class Baseline:
    """The last reading that was believed, and the doubtful ones since."""

    value: float
    ts: int  # ms UTC
    doubts: int = 0
    doubtful: float = 0.0  # the last doubtful one
    doubtful_ts: int = 0


def judge(before: Baseline | None, value: float, ts: int, rule: Rule) -> tuple[Judgement, Baseline]:
    """What a reading is, and the baseline after it."""
    fresh = Baseline(value, ts)
    if before is None or _follows(before.value, before.ts, value, ts, rule):
        return Judgement.FITS, fresh
    if _rolled_over(before, value, ts, rule):
        return Judgement.ROLLED_OVER, fresh
    confirms = before.doubts and _follows(before.doubtful, before.doubtful_ts, value, ts, rule)
    doubts = before.doubts + 1 if confirms else 1
    if doubts >= CONFIRMATIONS:
        return Judgement.BEGAN_ANEW, fresh
    return Judgement.DOUBTFUL, replace(before, doubts=doubts, doubtful=value, doubtful_ts=ts)


def _follows(last: float, last_ts: int, value: float, ts: int, rule: Rule) -> bool:
    hours = (ts - last_ts) / 3.6e6
    return -rule.slack(last) <= value - last <= rule.most(value, hours)


def _rolled_over(before: Baseline, value: float, ts: int, rule: Rule) -> bool:
    hours = (ts - before.ts) / 3.6e6
    if value < 0 or value >= before.value or before.value <= 0:
        return False
    digits = 10.0 ** len(str(int(before.value)))  # a display of so many digits begins at 0 again
    display = digits if digits >= _LEAST_DISPLAY * rule.step else None
    for end, near in ((display, _ROLLED_DISPLAY), (rule.range, _ROLLED)):
        if end is None or end <= before.value:
            continue
        grown = end - before.value + value
        if grown <= min(rule.most(value, hours), near * end):
            return True
    return False


def _range(column: Column, point: Point | None) -> float | None:
    if point is None or point.type.startswith("float"):
        return None
    bits = 16 * point.count
    raw = 10.0 ** (bits // 4) if point.type == "bcd" else 2.0 ** (bits - point.type.startswith("int"))
    return column.factor.apply(raw)
