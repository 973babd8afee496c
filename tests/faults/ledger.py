"""Ledger: what the meters answered against what the consumer received, reading by reading, and what a kill may cost.

Each reading is known by its series and its value: no two readings of a series have the same (numbered_meter.py).
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from parkfleet.protocols.payload.series import Value
from parkfleet.simulators.verdict import Series

Reading = tuple[Series, Value]
#: With the unix seconds of the answer, or those that the reading bears.
Timed = tuple[Series, Value, float]


@dataclass(frozen=True)
class Life:
    """Of one agent. Unix seconds."""

    began: float
    ended: float
    killed: bool  # by kill -9; otherwise it ended by itself, and may have lost nothing
    allowed: float = 0.0  # how old the oldest reading that the kill costs may be. Seconds


@dataclass
class Ledger:
    """The account."""

    answered: int = 0
    received: int = 0
    lost_at_kills: int = 0
    oldest_lost: float = 0.0  # how long before its kill the oldest of these was answered. Seconds
    came_too_late: int = 0  # for the agent, which told that the meter had not answered in time
    unexplained: int = 0  # lost otherwise: not at the end of a life that was killed, or too long before that
    twice: int = 0
    never_answered: int = 0
    wrong_time: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not (self.unexplained or self.twice or self.never_answered or self.wrong_time) and self.answered > 0

    def note(self, text: str) -> None:
        """Keeps a deviation, if it is among the first."""
        if len(self.examples) < 10:
            self.examples.append(text)


def balance(
    answered: Iterable[Timed],
    received: Iterable[Timed],
    timeouts: Iterable[tuple[Series, float]],
    lives: Sequence[Life],
    is_right: Callable[[float, float], bool],
) -> Ledger:
    """timeouts: readings that say so. lives: in their order. is_right: whether a reading that was answered then
    may bear that time."""
    times: dict[Reading, float] = {(series, value): at for series, value, at in answered}
    ledger = Ledger(answered=len(times))
    counts: Counter[Reading] = Counter()
    for series, value, at in received:
        counts[series, value] += 1
        if (series, value) not in times:
            ledger.never_answered += 1
            ledger.note(f"{series.meter}/{series.point}: {value!r} of {at:.3f} was never answered")
        elif not is_right(times[series, value], at):
            ledger.wrong_time += 1
            ledger.note(f"{series.meter}/{series.point}: answered at {times[series, value]:.3f}, received for {at:.3f}")
    ledger.received = sum(reading in times for reading in counts)
    ledger.twice = sum(count - 1 for count in counts.values())
    told: dict[Series, list[float]] = defaultdict(list)
    for series, at in timeouts:
        told[series].append(at)
    _explain(ledger, times, counts, lives, lambda series, at: _take(told[series], lambda when: is_right(at, when)))
    return ledger


def _take(times: list[float], fits: Callable[[float], bool]) -> bool:
    """Takes the first that fits; whether one did."""
    for place, time in enumerate(times):
        if fits(time):
            del times[place]
            return True
    return False


def _explain(
    ledger: Ledger,
    times: dict[Reading, float],
    counts: Counter[Reading],
    lives: Sequence[Life],
    was_told: Callable[[Series, float], bool],
) -> None:
    """What is missing must be the end of a life that was killed (nothing behind it came, and it is not too old), or so
    late an answer that another reading, one for each, tells of a time-out."""
    begins = [life.began for life in lives]
    last_received: dict[tuple[int, Series], float] = defaultdict(float)
    missing: list[tuple[int, Reading, float]] = []
    for reading, at in times.items():
        number = max(bisect_right(begins, at) - 1, 0)
        if reading in counts:
            last_received[number, reading[0]] = max(last_received[number, reading[0]], at)
        else:
            missing.append((number, reading, at))
    for number, (series, value), at in missing:
        life, before, is_last = lives[number], lives[number].ended - at, at > last_received[number, series]
        if life.killed and is_last and before <= life.allowed:
            ledger.lost_at_kills += 1
            ledger.oldest_lost = max(ledger.oldest_lost, before)
            continue
        if was_told(series, at):
            ledger.came_too_late += 1
            continue
        ledger.unexplained += 1
        where = f"{before:.3f} s before {'a kill' if life.killed else 'the end'}"
        hole = "" if is_last else ", though later ones came"
        ledger.note(f"{series.meter}/{series.point}: {value!r} is missing, {where}{hole}")
