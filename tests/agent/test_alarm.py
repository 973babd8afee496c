"""Alarms: when they are raised and cleared, as properties over any series of readings."""

from datetime import UTC, datetime
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.alarm import PARTS, Alarm, AlarmState, BackwardsAlarm, Change, LimitAlarm, RateAlarm, StuckAlarm
from parkfleet.agent.counter_guard import Rule
from parkfleet.agent.deadband import Deadband
from parkfleet.agent.watched import LocalHours
from parkfleet.agent.zone import Zone
from parkfleet.protocols.document import convert
from parkfleet.protocols.rules import DeadbandConfig, RuleConfig

T0 = 1_795_438_548_000
Readings = list[tuple[int, float]]


def rule(kind: str, **settings: Any) -> RuleConfig:
    """As it stands in gateway.yaml."""
    return convert({"id": "r", "kind": kind, "points": ["p"], **settings}, RuleConfig)


def told(alarm: Alarm, readings: Readings) -> list[tuple[int, Change]]:
    """(index of the reading, change)."""
    return [(index, change) for index, (ts, value) in enumerate(readings) for change in alarm.see(ts, value)]


def at(*values: float, step: int = 1000) -> Readings:
    """Readings in even steps of ms."""
    return [(T0 + step * index, value) for index, value in enumerate(values)]


#: Times ascend by anything from nothing to a minute; values lie around the limits of the rules below.
readings = st.lists(st.tuples(st.sampled_from([0, 1000, 5000, 60_000]), st.integers(-3, 14)), max_size=60).map(
    lambda steps: list(
        zip(accumulate((step for step, _ in steps), initial=T0), (float(v) for _, v in steps), strict=False)
    )
)


@given(readings, st.sampled_from(["0s", "3s", "1m"]), st.sampled_from([0, 1, 4]), st.sampled_from(["1s", "10s"]))
def test_limit_raises_and_clears_as_it_says(series: Readings, delay: str, hysteresis: float, clear_delay: str) -> None:
    """Raised at the first reading that ends a run beyond the limit of at least `delay`; cleared at the first that is
    back by the hysteresis, when none in the last `clear_delay` was not."""
    config = rule("limit", above=10, below=0, delay=delay, hysteresis=hysteresis, clear_delay=clear_delay)
    expected: list[tuple[int, bool, str]] = []
    side, begin, held = "", 0, 0
    run = ""
    for index, (ts, value) in enumerate(series):
        beyond = "above" if value > 10 else "below" if value < 0 else ""
        if side:
            gone = value <= 10 - hysteresis if side == "above" else value >= hysteresis
            held = held if gone else ts
            if not gone or ts - held < 1000 * config.clear_delay:
                continue
            expected.append((index, False, side))
            side = run = ""
        if beyond != run:
            run, begin = beyond, ts
        if beyond and ts - begin >= 1000 * config.delay:
            expected.append((index, True, beyond))
            side, run, held = beyond, "", ts
    found = [(index, change.raised, change.side) for index, change in told(LimitAlarm(config), series)]
    assert found == expected


@given(readings, st.data())
def test_what_is_told_alternates_also_over_restarts(series: Readings, data: st.DataObject) -> None:
    """Whenever the agent is started anew, no alarm is raised twice, and none cleared that was not raised."""
    config = rule("limit", above=10, below=0, hysteresis=2)
    alarm, raised = LimitAlarm(config), False
    for ts, value in series:
        if data.draw(st.booleans()):
            state, alarm = alarm.state(), LimitAlarm(config)
            assert alarm.resume(state)
        for change in alarm.see(ts, value):
            assert change.raised is not raised
            raised = change.raised
            assert change.since <= ts


@given(st.lists(st.floats(9.01, 10), min_size=1, max_size=50))
def test_value_that_chatters_within_the_hysteresis_is_one_alarm(values: list[float]) -> None:
    """Between limit and limit less hysteresis nothing is cleared, so nothing is raised again."""
    series = at(11, *(value for noise in values for value in (noise, 11)), step=60_000)
    assert len(told(LimitAlarm(rule("limit", above=10, hysteresis=1)), series)) == 1


def test_value_that_chatters_faster_than_clear_delay_is_one_alarm() -> None:
    """Without any hysteresis too: it must be away for ten seconds."""
    series = at(*[11, 0] * 100, *[0] * 20)
    changes = told(LimitAlarm(rule("limit", above=10)), series)
    assert [(change.raised, index) for index, change in changes] == [(True, 0), (False, 208)]


def test_not_a_number_is_no_alarm() -> None:
    """Nothing is compared with NaN."""
    assert told(LimitAlarm(rule("limit", above=10, below=0)), at(float("nan"), 5, float("nan"))) == []


def test_changed_limits_are_used_from_the_next_reading_on() -> None:
    """What is raised stands while it is beyond the new limit; where that side has none any more, it ends."""
    raised = AlarmState("above", T0)
    alarm = LimitAlarm(rule("limit", above=20))
    assert alarm.resume(raised)
    assert [change.raised for _, change in told(alarm, at(15, 15, step=60_000))] == [False]
    assert not LimitAlarm(rule("limit", below=0)).resume(raised)
    assert not StuckAlarm(rule("stuck", after="1m")).resume(raised)
    assert not BackwardsAlarm(rule("backwards"), Rule()).resume(raised)


@given(readings, st.sampled_from(["1m", "10m"]))
def test_rate_looks_back_over_its_time(series: Readings, per: str) -> None:
    """Raised by a change within `per`, and by none that took longer than `per` and a sixtieth of it."""
    config = rule("rate", above=5, below=-5, per=per, clear_delay="1s")
    alarm, window = RateAlarm(config), 1000 * config.per_s
    for index, (ts, value) in enumerate(series):
        was = alarm.side
        alarm.see(ts, value)
        within = [v for t, v in series[: index + 1] if ts - t <= window]
        within_more = [v for t, v in series[: index + 1] if ts - t <= window * (1 + 1 / PARTS)]
        if not was and (value - min(within) > 5 or value - max(within) < -5):
            assert alarm.side
        if not was and alarm.side == "above":
            assert value - min(within_more) > 5
        if not was and alarm.side == "below":
            assert value - max(within_more) < -5


def test_rate_tells_by_how_much() -> None:
    """And not what a day has brought: a slow rise of as much is none."""
    config = rule("rate", below=-0.5, per="10m")
    ((index, change),) = told(RateAlarm(config), at(4.0, 4.0, 3.4, step=60_000))
    assert (index, change.value, change.limit) == (2, 3.4, -0.5)
    assert change.measure == pytest.approx(-0.6)
    assert told(RateAlarm(config), at(*(4 - 0.04 * minute for minute in range(60)), step=60_000)) == []


@given(readings, st.sampled_from([0, 2]), st.sampled_from(["10s", "2m"]))
def test_stuck_needs_an_unchanged_value_for_its_time(series: Readings, slack: float, after: str) -> None:
    """Raised when all readings of the last `after`, and those since, are the same; over at the first that is not."""
    config = rule("stuck", after=after, hysteresis=slack)
    alarm = StuckAlarm(config)
    reference: float | None = None
    since, raised = 0, False
    for ts, value in series:
        changes = [change.raised for change in alarm.see(ts, value)]
        if reference is None or abs(value - reference) > slack:
            assert changes == ([False] if raised else [])
            reference, since, raised = value, ts, False
        else:
            due = not raised and ts - since >= 1000 * float(config.after or 0)
            assert changes == ([True] if due else [])
            raised = raised or due


def test_stuck_counts_only_while_it_should_move() -> None:
    """A counter that stands is none while no power flows."""
    flows = [True] * 40 + [False] * 40 + [True] * 70
    moves = iter(flows)
    alarm = StuckAlarm(rule("stuck", after="1m", when="power"), lambda: next(moves))
    ((index, _),) = told(alarm, at(*[5.0] * 150))
    assert index == 140  # a minute after the last reading at which it did not count


def test_stuck_goes_on_over_a_restart() -> None:
    """A day that the agent was started anew in the middle of is a day all the same."""
    config = rule("stuck", after="1d")
    before, alarm = StuckAlarm(config), StuckAlarm(config)
    told(before, at(7.0, 7.0, step=3_600_000))
    assert alarm.resume(before.state())
    assert told(alarm, [(T0 + 25 * 3_600_000, 7.0)])[0][1].raised


@given(st.lists(st.integers(0, 1000), max_size=40))
def test_counter_that_grows_never_goes_backwards(growth: list[int]) -> None:
    """Also where its digits end."""
    values = [(99_000 + total) % 100_000 for total in accumulate(growth)]
    assert told(BackwardsAlarm(rule("backwards"), Rule(step=1)), at(*values)) == []


def test_counter_that_goes_backwards() -> None:
    """Raised at the fall, over when it is back, or has grown three times from where it fell to."""
    alarm = BackwardsAlarm(rule("backwards"), Rule(step=0.1))
    changes = told(alarm, at(500, 501, 400, 501.5, 502, 3, 4, 5, 6, 2))
    assert [(index, change.raised, change.limit) for index, change in changes] == [
        (2, True, 501), (3, False, 501), (5, True, 502), (7, False, 502), (9, True, 6)
    ]  # fmt: skip


def test_backwards_with_some_slack_over_a_restart() -> None:
    """So little is nothing; and what was before the restart counts."""
    config = rule("backwards", hysteresis=2)
    before, alarm = BackwardsAlarm(config, Rule(is_float=True)), BackwardsAlarm(config, Rule(is_float=True))
    assert told(before, at(50, 48.5)) == []
    assert alarm.resume(before.state())
    assert told(alarm, at(45))[0][1].raised


@given(st.integers(T0, T0 + 400 * 86_400_000), st.sampled_from(["22:00-05:30", "01:15-04:00", "00:00-23:59"]))
def test_hours_are_those_of_the_local_clock(ts: int, between: str) -> None:
    """Over midnight, and over changes to and from daylight saving."""
    local = datetime.fromtimestamp(ts / 1000, UTC).astimezone(ZoneInfo("Europe/Berlin"))
    clock = f"{local:%H:%M:%S.%f}"
    start, end = between.split("-")
    inside = start <= clock < end if start < end else clock >= start or clock < end
    assert LocalHours(Zone("Europe/Berlin"), between).is_open(ts) is inside


def test_outside_its_hours_nothing_is_raised_and_nothing_cleared() -> None:
    """A leak of the night stands through the day, and is looked at again in the next one."""
    config = rule("limit", above=0.1, delay="1h", between="01:00-04:00")
    alarm = LimitAlarm(config, LocalHours(Zone("UTC"), "01:00-04:00").is_open)
    midnight = T0 - T0 % 86_400_000
    hourly = [(midnight + 3_600_000 * hour, 5.0 if hour < 24 else 0.0) for hour in range(30)]
    changes = told(alarm, hourly)
    assert [(index, change.raised) for index, change in changes] == [(2, True), (25, False)]


def test_delay_is_not_gathered_over_several_nights() -> None:
    """An hour beyond the limit is one of the same night."""
    alarm = LimitAlarm(rule("limit", above=0.1, delay="2h"), LocalHours(Zone("UTC"), "01:00-02:30").is_open)
    midnight = T0 - T0 % 86_400_000
    assert told(alarm, [(midnight + 3_600_000 * hour, 5.0) for hour in range(72)]) == []


def band(**settings: Any) -> Deadband:
    """As it stands in gateway.yaml."""
    return Deadband(convert({"id": "d", "points": ["p"], **settings}, DeadbandConfig))


@given(readings, st.sampled_from([0, 2]), st.sampled_from([0, 25]), st.sampled_from(["5s", "2m"]))
def test_deadband_holds_back_what_is_near_and_young(
    series: Readings, absolute: float, percent: float, silence: str
) -> None:
    """A reading goes out if it differs from the last that did by more than the larger band, or that one is old."""
    deadband = band(absolute=absolute, percent=percent, silence=silence)
    seconds = {"5s": 5, "2m": 120}[silence]
    last: tuple[int, float] | None = None
    for ts, value in series:
        near = last is not None and abs(value - last[1]) <= max(absolute, percent / 100 * abs(last[1]))
        young = last is not None and ts - last[0] < 1000 * seconds
        assert deadband.holds(ts, value) is (near and young)
        if not (near and young):
            last = ts, value


def test_deadband_after_an_interruption() -> None:
    """The first reading behind a bad one goes out, whatever its value; decimals are compared as decimals."""
    deadband = band(absolute=0.2)
    assert [deadband.holds(T0 + i, v) for i, v in enumerate([230.1, 230.3, 229.9, 229.8])] == [False, True, True, False]
    deadband.interrupted()
    assert not deadband.holds(T0 + 9, 229.8)


def test_states_are_kept_as_json() -> None:
    """What a restart needs, and nothing that is not known."""
    alarm = LimitAlarm(rule("limit", above=1))
    assert alarm.state() == AlarmState()
    assert len(told(alarm, at(2, 3))) == 1
    assert alarm.state() == AlarmState("above", T0)
