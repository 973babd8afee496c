"""Alarm: one rule over one series: when its condition begins to hold, and when it does no more. Pure: no I/O, no clock.

Time is that of the readings, in ms. Invariants:
- what is told alternates: raised, cleared, raised …;
- a reading that is not beyond the limit raises nothing, and one that is clears nothing;
- with the state of an alarm another one of the same rule goes on: nothing is raised twice over a restart.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal

import msgspec

from parkfleet.agent.counter_guard import Baseline, Judgement, Rule, judge
from parkfleet.protocols.rules import RuleConfig

#: A rate looks back over so many parts of its time; what it takes for `per` is at most one part longer.
PARTS: Final = 60

Side = Literal["", "above", "below", "stuck", "backwards"]
#: A rule over a series: rule id, meter, point.
AlarmKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """What a reading did to an alarm."""

    raised: bool  # False: cleared
    side: Side
    value: float
    limit: float  # stuck: seconds; backwards: the value before
    since: int  # ms UTC: when it was raised
    measure: float | None = None  # rate: the change within `per`


class AlarmState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What outlives a restart."""

    side: Side = ""  # raised, when not empty
    since: int = 0  # ms UTC: when it was raised
    value: float = 0.0  # stuck: the value that stands; backwards: the last believed one
    ts: int = 0  # of that; 0: there is none


class Alarm(ABC):
    """Fed with the readings of a series that have a value, in time order."""

    side: Side = ""
    since = 0

    @abstractmethod
    def see(self, ts: int, value: float) -> tuple[Change, ...]:
        """What a reading changes: mostly nothing."""

    @abstractmethod
    def state(self) -> AlarmState:
        """What it knows."""

    @abstractmethod
    def resume(self, state: AlarmState) -> bool:
        """Goes on from there; False when the rule has changed so much that what was raised cannot stand."""

    @abstractmethod
    def begin_anew(self) -> None:
        """Another meter is there: its readings are compared with none of the one before."""

    def _raise(self, side: Side, ts: int, value: float, limit: float, measure: float | None = None) -> Change:
        self.side, self.since = side, ts
        return Change(True, side, value, limit, ts, measure)

    def _clear(self, value: float, limit: float, measure: float | None = None) -> Change:
        side, self.side = self.side, ""
        return Change(False, side, value, limit, self.since, measure)


class LimitAlarm(Alarm):
    """The value is above or below a limit."""

    def __init__(self, rule: RuleConfig, is_open: Callable[[int], bool] | None = None) -> None:
        """is_open: whether a time (ms UTC) is within the rule's hours; None: it has none."""
        self._high = inf if rule.above is None else rule.above
        self._low = -inf if rule.below is None else rule.below
        self._hysteresis = rule.hysteresis
        self._delay = 1000 * rule.delay
        self._clear_delay = 1000 * rule.clear_delay
        self._is_open = is_open
        self._pending: Side = ""  # beyond since, but not for long enough
        self._pending_since = 0
        self._held: int | None = None  # while raised: when the condition held last

    def see(self, ts: int, value: float) -> tuple[Change, ...]:
        if self._is_open is not None and not self._is_open(ts):
            self.begin_anew()
            return ()
        up, down = self._measures(ts, value)
        if self.side:
            return self._standing(ts, value, up, down)
        if up <= self._high and down >= self._low:
            self._pending = ""
            return ()
        return self._beyond(ts, value, up, down)

    def state(self) -> AlarmState:
        return AlarmState(self.side, self.since if self.side else 0)

    def resume(self, state: AlarmState) -> bool:
        known = {"": True, "above": self._high < inf, "below": self._low > -inf}
        if not known.get(state.side, False):
            return False
        self.side, self.since = state.side, state.since
        return True

    def begin_anew(self) -> None:
        self._pending = ""

    def _measures(self, ts: int, value: float) -> tuple[float, float]:
        """What is compared with the upper limit, and with the lower one."""
        return value, value

    def _measure(self, measure: float) -> float | None:
        return None

    def _beyond(self, ts: int, value: float, up: float, down: float) -> tuple[Change, ...]:
        side: Side = "above" if up > self._high else "below" if down < self._low else ""
        if side != self._pending:
            self._pending, self._pending_since = side, ts
        if not side or ts - self._pending_since < self._delay:
            return ()
        limit, measure = (self._high, up) if side == "above" else (self._low, down)
        self._pending, self._held = "", ts
        return (self._raise(side, ts, value, limit, self._measure(measure)),)

    def _standing(self, ts: int, value: float, up: float, down: float) -> tuple[Change, ...]:
        is_above = self.side == "above"
        gone = up <= self._high - self._hysteresis if is_above else down >= self._low + self._hysteresis
        if not gone or self._held is None:
            self._held = ts
        if not gone or ts - self._held < self._clear_delay:
            return ()
        limit, measure = (self._high, up) if is_above else (self._low, down)
        return (self._clear(value, limit, self._measure(measure)), *self._beyond(ts, value, up, down))


class RateAlarm(LimitAlarm):
    """The value has risen or fallen by more than a limit within a time: against the least and greatest in it."""

    def __init__(self, rule: RuleConfig, is_open: Callable[[int], bool] | None = None) -> None:
        super().__init__(rule, is_open)
        self._part = max(1, int(1000 * rule.per_s) // PARTS)
        self._seen: deque[tuple[int, float, float]] = deque()  # part, least and greatest value in it

    def begin_anew(self) -> None:
        super().begin_anew()
        self._seen.clear()

    def _measures(self, ts: int, value: float) -> tuple[float, float]:
        part = ts // self._part
        while self._seen and self._seen[0][0] < part - PARTS:
            self._seen.popleft()
        if self._seen and self._seen[-1][0] >= part:
            last, low, high = self._seen.pop()
            self._seen.append((last, min(low, value), max(high, value)))
        else:
            self._seen.append((part, value, value))
        return value - min(low for _, low, _ in self._seen), value - max(high for *_, high in self._seen)

    def _measure(self, measure: float) -> float | None:
        return measure


class StuckAlarm(Alarm):
    """The value has stayed the same for too long, while it should move."""

    def __init__(
        self,
        rule: RuleConfig,
        should_move: Callable[[], bool] | None = None,
        is_open: Callable[[int], bool] | None = None,
    ) -> None:
        """should_move: whether time counts just now; None: always."""
        assert rule.after is not None
        self._after = rule.after
        self._slack = rule.hysteresis
        self._should_move = should_move
        self._is_open = is_open
        self._value = 0.0
        self._ts: int | None = None  # since when it is the same

    def see(self, ts: int, value: float) -> tuple[Change, ...]:
        if self._ts is None or abs(value - self._value) > self._slack:
            self._value, self._ts = value, ts
            return (self._clear(value, self._after),) if self.side else ()
        if self.side:
            return ()
        if not self._counts(ts):
            self._ts = ts
            return ()
        return () if ts - self._ts < 1000 * self._after else (self._raise("stuck", ts, value, self._after),)

    def state(self) -> AlarmState:
        return AlarmState(self.side, self.since if self.side else 0, self._value, self._ts or 0)

    def resume(self, state: AlarmState) -> bool:
        if state.side not in ("", "stuck"):
            return False
        self.side, self.since, self._value, self._ts = state.side, state.since, state.value, state.ts or None
        return True

    def begin_anew(self) -> None:
        self._ts = None

    def _counts(self, ts: int) -> bool:
        in_hours = self._is_open is None or self._is_open(ts)
        return in_hours and (self._should_move is None or self._should_move())


class BackwardsAlarm(Alarm):
    """The value has fallen, and not because it began at 0 again where its digits or its register end.

    It is over when the value is back, or has grown three times in a row from where it fell to.
    """

    def __init__(self, rule: RuleConfig, counter: Rule) -> None:
        """counter: what is known of the column, as the counter guard has it."""
        slack = max(rule.hysteresis, counter.step)
        is_float = counter.is_float and not rule.hysteresis
        self._rule = replace(counter, max_rate=None, step=slack, is_float=is_float)
        self._baseline: Baseline | None = None

    def see(self, ts: int, value: float) -> tuple[Change, ...]:
        before = self._baseline
        judgement, self._baseline = judge(before, value, ts, self._rule)
        if judgement is Judgement.DOUBTFUL:
            return () if self.side or before is None else (self._raise("backwards", ts, value, before.value),)
        return (self._clear(value, before.value if before else value),) if self.side else ()

    def state(self) -> AlarmState:
        last = self._baseline
        return AlarmState(
            self.side, self.since if self.side else 0, last.value if last else 0.0, last.ts if last else 0
        )

    def resume(self, state: AlarmState) -> bool:
        if state.side not in ("", "backwards"):
            return False
        self.side, self.since = state.side, state.since
        self._baseline = Baseline(state.value, state.ts) if state.ts else None
        return True

    def begin_anew(self) -> None:
        self._baseline = None
