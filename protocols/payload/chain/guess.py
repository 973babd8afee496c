"""Guess: what a series' first number after a pause likely is. Integers only. Oracle of native/guess.pxd.

Five guesses at its change since the number before the pause; the one that erred least after earlier pauses is taken.
"""

from typing import Final

from parkfleet.protocols.payload.chain.forecast import (
    HALF_ONE,
    TAPS,
    Beside,
    Outlook,
    Series,
    feature,
    learn_errors,
    loudness,
)
from parkfleet.protocols.payload.chain.numbers import signed

STAYED: Final = 0  # as it was
WENT_ON: Final = 1  # goes on as it has on the average since its first number
RETURNED: Final = 2  # is as it mostly is after a pause
ENDED: Final = 3  # is 0
WITH_NEIGHBOUR: Final = 4  # has changed in proportion to the column before in this row
GUESSES: Final = 5
FAR_GOING: Final = 1 << 30  # from it on a change since the first number says nothing
LONG_GAP: Final = 1 << 32  # 140 years, in 1.024 s


def guess_change(s: Series, row: Beside) -> Outlook:
    """The five guesses."""
    gone, since = signed(s.last - s.first), signed(row.ts - s.first_ts - row.gap)
    changes = [0] * GUESSES
    if since > 0 and -FAR_GOING < gone < FAR_GOING and 0 < row.gap < LONG_GAP:
        changes[WENT_ON] = gone * row.gap // since
    changes[RETURNED] = signed(s.mean - s.last)
    changes[ENDED] = signed(-s.last)
    changes[WITH_NEIGHBOUR] = (s.beside.applied(feature(row.change1)) + HALF_ONE) >> 16
    return Outlook(changes, [0] * TAPS, 0, 0, 0, s.guess_costs.index(min(s.guess_costs)))


def learn_return(s: Series, o: Outlook, change: int, error: int) -> None:
    """Every guess learns from what came."""
    cost_pace = 2 if s.returns < 4 else 3
    s.guess_costs = [
        cost + ((64 * loudness(signed(change - guess)) - cost) >> cost_pace)
        for cost, guess in zip(s.guess_costs, o.changes, strict=True)
    ]
    pace = 1 if s.returns < 2 else 2 if s.returns < 5 else 3 if s.returns < 10 else 4
    s.last = signed(s.last + change)
    s.mean = signed(s.mean + (signed(s.last - s.mean) >> pace))
    s.change = s.change_before = 0
    s.away = False
    s.returns = min(s.returns + 1, 255)
    learn_errors(s.far, error)
