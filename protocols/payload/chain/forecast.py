"""Forecast: what a series' next number likely is. Integers only. Oracle of native/forecast.pxd.

Five forecasts run beside each other; the one that erred least of late is taken.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import Final

from parkfleet.protocols.payload.chain.numbers import signed

STAYS: Final = 0  # as the number before
BESIDE: Final = 1  # changes in proportion to the column before in this row
RATE: Final = 2  # changes in proportion to the number of the column before: a counter beside its rate
DRIFT: Final = 3  # changes as it did on the average
LINEAR: Final = 4  # changes by a weighted sum of six features
FORECASTS: Final = 5
TAPS: Final = 6
FEATURE_MAX: Final = 1 << 18  # from it on a number is no feature: keeps every product below 2^63
TAP_MAX: Final = 1 << 20
STEEPEST: Final = 1 << 40  # of a ratio, in 1/65536
LINEAR_PACE: Final = 4
HALF_ONE: Final = 1 << 15


@dataclass(slots=True)
class Ratio:
    """Least squares of change = ratio × feature, over the last rows."""

    top: int = 0
    bottom: int = 0

    def applied(self, value: int) -> int:
        """value × ratio in 1/65536, rounded down; 0 where nothing is known."""
        if self.bottom == 0 or value == 0:
            return 0
        return within((self.top << 16) // self.bottom, STEEPEST) * value

    def learn(self, value: int, change: int) -> None:
        """Takes in one more row."""
        if value:
            self.top += value * change - (self.top >> 4)
            self.bottom += value * value - (self.bottom >> 4)


@dataclass(slots=True)
class Errors:
    """How forecasts have erred of late."""

    size: int = 0  # mean bit length, in 1/32
    length1: int = 0  # bit length of the error before, and of the one before it
    length2: int = 0
    down: int = 0  # sign of the error before
    quiet: int = 0  # errors of 0 since the last other, up to 255


@dataclass(slots=True)
class Series:
    """What both sides know of one column of one entry."""

    own: int  # where its own cells begin
    coding: int = 0
    seen: int = 0  # values since the key, up to 255
    quality: int = 0  # of the row before
    grain: int = 1  # integer = grain × number + rest
    rest: int = 0
    last: int = 0  # the number before
    change: int = 0  # the change before
    change_before: int = 0
    drift: int = 0  # mean change, in 1/65536
    drift_part: int = 0  # what rounding left of the forecast, in 1/65536
    rate_part: int = 0
    beside: Ratio = field(default_factory=Ratio)
    rate: Ratio = field(default_factory=Ratio)
    taps: list[int] = field(default_factory=lambda: [0] * TAPS)  # weights of the features, in 1/65536
    costs: list[int] = field(default_factory=lambda: [0] * FORECASTS)  # mean loudness of the errors, in 1/64
    near: Errors = field(default_factory=Errors)  # of values that follow one another
    away: bool = False  # no value since a pause
    returns: int = 0  # values that were the first since a pause, up to 255
    far: Errors = field(default_factory=Errors)  # of those
    first: int = 0  # the number at first, and its row's time
    first_ts: int = 0
    mean: int = 0  # of the numbers that were the first since a pause
    guess_costs: list[int] = field(default_factory=list)

    def copy(self) -> "Series":
        """The same, with nothing in common."""
        new = copy(self)
        new.beside, new.rate, new.near, new.far = copy(self.beside), copy(self.rate), copy(self.near), copy(self.far)
        return new


@dataclass(slots=True)
class Beside:
    """What the row says so far; 0 where a column has no value."""

    ts: int = 0  # the row's time in 1.024 s
    gap: int = 0  # since the entry's last row in the batch before, in 1.024 s
    change1: int = 0  # of the column before, and the two before it
    change2: int = 0
    change3: int = 0
    number1: int = 0
    length1: int = 0  # bit length of the error of the column before, and of the one before it
    length2: int = 0
    moved: int = 0  # columns whose error was not 0

    def pass_by(self, change: int, number: int, length: int) -> None:
        """The row goes on to the next column."""
        self.change3, self.change2, self.change1, self.number1 = self.change2, self.change1, change, number
        self.length2, self.length1 = self.length1, length
        self.moved += length > 0


@dataclass(slots=True)
class Outlook:
    """Forecasts of one change, and what they are made of."""

    changes: list[int]
    features: list[int]
    number1: int
    rate_sum: int
    drift_sum: int
    best: int


def within(number: int, most: int) -> int:
    """The number, at most that far from 0."""
    return -most if number < -most else most if number > most else number


def loudness(error: int) -> int:
    """log2 of an error's size, in quarters: 0 for 0, 4 for 1, 8 for 2, 10 for 3, 12 for 4."""
    size = abs(error)
    length = size.bit_length()
    if length < 2:
        return 4 * length
    if length == 2:
        return 8 + 2 * (size & 1)
    return 4 * length + (size >> (length - 3) & 3)


def feature(number: int) -> int:
    """The number, or 0 where it is too large for one."""
    return number if -FEATURE_MAX < number < FEATURE_MAX else 0


def look_ahead(s: Series, row: Beside) -> Outlook:
    """The five forecasts."""
    changes = (row.change1, row.change2, row.change3, s.change, s.change_before, (s.drift + HALF_ONE) >> 16)
    features = [number if -FEATURE_MAX < number < FEATURE_MAX else 0 for number in changes]
    number1 = feature(row.number1)
    rate_sum = s.rate_part + s.rate.applied(number1)
    drift_sum = s.drift_part + s.drift
    dot = HALF_ONE
    for tap, number in zip(s.taps, features, strict=True):
        dot += tap * number
    forecasts = [
        0,
        (s.beside.applied(features[0]) + HALF_ONE) >> 16,
        (rate_sum + HALF_ONE) >> 16,
        (drift_sum + HALF_ONE) >> 16,
        dot >> 16,
    ]
    return Outlook(forecasts, features, number1, rate_sum, drift_sum, s.costs.index(min(s.costs)))


def learn_errors(e: Errors, error: int) -> None:
    """One more error."""
    length = abs(error).bit_length()
    e.size += (32 * length - e.size) >> 2
    e.length2, e.length1, e.down = e.length1, length, int(error < 0)
    e.quiet = 0 if error else min(e.quiet + 1, 255)


def learn_change(s: Series, o: Outlook, change: int) -> None:
    """Every forecast learns from what came."""
    small = change << 16 if -(1 << 30) < change < 1 << 30 else 0
    short = feature(change)
    pace = 1 if s.seen < 3 else 2 if s.seen < 6 else 3 if s.seen < 12 else 4
    power = 1 + sum(number * number for number in o.features)
    gain = (feature(signed(change - o.changes[LINEAR])) << 16) // power
    if gain:
        pairs = zip(s.taps, o.features, strict=True)
        s.taps = [within(tap + (gain * number >> LINEAR_PACE), TAP_MAX) for tap, number in pairs]
    s.costs = [
        cost + ((64 * loudness(signed(change - forecast)) - cost) >> 4)
        for cost, forecast in zip(s.costs, o.changes, strict=True)
    ]
    s.rate_part = within(o.rate_sum - small, HALF_ONE)
    s.drift_part = within(o.drift_sum - small, HALF_ONE)
    s.drift += (small - s.drift) >> pace
    s.beside.learn(o.features[0], short)
    s.rate.learn(o.number1, short)
    s.change_before, s.change = s.change, change
    s.seen = min(s.seen + 1, 255)
