"""Rules: the last station of a scan before its batch: alarms are raised and cleared, deadbands hold readings back.

What no rule, deadband or priority names passes untouched. Used from the event loop's thread.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from parkfleet.agent.alarm import Alarm, AlarmKey, AlarmState, Change
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.plan import Plan
from parkfleet.agent.watched import Series, watched
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.quantity import Duration
from parkfleet.protocols.rules import RuleConfig

RAISED: Final = "rule-raised"
CLEARED: Final = "rule-cleared"


class Emit(Protocol):
    """Takes an event, and the state of the alarm that it tells of: both are kept, or neither."""

    def __call__(
        self, kind: str, text: str, meter: str, data: dict[str, object], alarm: tuple[AlarmKey, AlarmState], /
    ) -> None: ...


class Standing(msgspec.Struct, frozen=True):
    """An alarm that is raised."""

    rule: str
    meter: str
    point: str
    since: int  # ms UTC
    text: str = ""


class Rules:
    """All rules, deadbands and priorities of a configuration."""

    def __init__(
        self,
        configuration: Configuration,
        plan: Plan,
        states: Mapping[AlarmKey, AlarmState],
        emit: Emit,
        deliver: Callable[[Scan], None],
        hurry: Callable[[], None],
    ) -> None:
        """states: from an earlier life. hurry: called behind the delivery of a scan that must not wait."""
        self._emit = emit
        self._deliver = deliver
        self._hurry = hurry
        self._watched = watched(configuration, plan)
        self._alarms: dict[AlarmKey, tuple[RuleConfig, Alarm]] = {
            (rule.id, series.meter, series.column.point): (rule, alarm)
            for columns in self._watched.values()
            for series in columns
            for rule, alarm in series.alarms
        }
        self.held = 0  # readings that were held back
        self._resume(states)

    @property
    def taker(self) -> Callable[[Scan], None]:
        """What takes the scans: where nothing is watched, whoever is behind us."""
        return self.on_scan if self._watched else self._deliver

    def on_scan(self, scan: Scan) -> None:
        """Takes a scan."""
        columns = self._watched.get(scan.entry)
        if columns is None:
            self._deliver(scan)
            return
        quality: bytearray | None = None  # where readings are held back
        hurries = False
        for series in columns:
            code = scan.quality[series.place]
            changed, urgent = self._alarmed(series, scan, code)
            if series.deadband is not None and _is_held(series, scan, code, changed):
                quality = quality or bytearray(scan.quality)
                quality[series.place] = code = Quality.HELD
                self.held += 1
            hurries |= urgent or (series.is_priority and _is_news(series, scan, code))
        self._deliver(scan if quality is None else _without(scan, bytes(quality)))
        if hurries:
            self._hurry()

    def states(self) -> dict[AlarmKey, AlarmState]:
        """What must outlive a restart."""
        return {key: alarm.state() for key, (_, alarm) in self._alarms.items()}

    def standing(self) -> list[Standing]:
        """The alarms that are raised, the oldest first."""
        raised = ((key, rule, alarm) for key, (rule, alarm) in self._alarms.items() if alarm.side)
        return sorted((Standing(*key, alarm.since, rule.text) for key, rule, alarm in raised), key=lambda a: a.since)

    def begin_anew(self, meter: str) -> None:
        """Another device is there: its readings are compared with none of the one before."""
        for (_, own, _), (_, alarm) in self._alarms.items():
            if own == meter:
                alarm.begin_anew()

    def _resume(self, states: Mapping[AlarmKey, AlarmState]) -> None:
        """Goes on from an earlier life. What was raised by a rule that is no more as it was is cleared, and told."""
        for key, state in states.items():
            known = self._alarms.get(key)
            if (known is not None and known[1].resume(state)) or not state.side:
                continue
            rule, meter, point = key
            data: dict[str, object] = {"rule": rule, "side": state.side, "point": point, "since": state.since}
            self._emit(CLEARED, f"{rule}: the rule for {point} is gone or another", meter, data, (key, AlarmState()))

    def _alarmed(self, series: Series, scan: Scan, code: int) -> tuple[bool, bool]:
        """Whether an alarm changed by a reading; whether that must not wait."""
        if series.last is not None:
            series.last.value = series.number(scan.slots[series.place]) if code == Quality.GOOD else None
        changed = urgent = False
        for rule, alarm in series.alarms:
            # What is not believed raises nothing; but a counter that fell is not believed for just that.
            if code == Quality.GOOD or (code == Quality.SUSPECT and rule.kind == "backwards"):
                for change in alarm.see(scan.ts, series.number(scan.slots[series.place])):
                    self._tell(rule, alarm, series, change, scan.ts)
                    changed, urgent = True, urgent or rule.priority
        return changed, urgent

    def _tell(self, rule: RuleConfig, alarm: Alarm, series: Series, change: Change, ts: int) -> None:
        column = series.column
        data: dict[str, object] = {
            "rule": rule.id,
            "side": change.side,
            "point": column.point,
            "value": change.value,
            "unit": column.unit,
            "limit": change.limit,
            "ts": ts,
            "since": change.since,
        }
        if change.measure is not None:
            data |= {"change": change.measure, "per_s": rule.per_s}
        key = rule.id, series.meter, column.point
        kind = RAISED if change.raised else CLEARED
        self._emit(kind, sentence(rule, series, change), series.meter, data, (key, alarm.state()))


def sentence(rule: RuleConfig, series: Series, change: Change) -> str:
    """What happened, for people."""
    point, unit = series.column.point, f" {series.column.unit}" if series.column.unit else ""
    value, limit = f"{change.value:g}{unit}", f"{change.limit:g}{unit}"
    within = f"within {Duration(rule.per_s)}"
    told = {
        ("limit", True): f"{point} is {value}, {change.side} {limit}",
        ("limit", False): f"{point} is {value}, no more {change.side} {limit}",
        ("rate", True): f"{point} changed by {change.measure or 0:+g}{unit} {within}, to {value}",
        ("rate", False): f"{point} is {value}, and changed by {change.measure or 0:+g}{unit} {within}",
        ("stuck", True): f"{point} has been {value} for {Duration(change.limit)}",
        ("stuck", False): f"{point} moves again, {value}",
        ("backwards", True): f"{point} went back from {limit} to {value}",
        ("backwards", False): f"{point} goes forward again, {value}",
    }[rule.kind, change.raised]
    return f"{rule.text or rule.id}: {told}"


def _is_held(series: Series, scan: Scan, code: int, changed: bool) -> bool:
    """Whether a reading is held back: only a good one, and never one by which an alarm changed."""
    assert series.deadband is not None
    if code != Quality.GOOD:
        series.deadband.interrupted()
        return False
    value = series.number(scan.slots[series.place])
    if changed:
        series.deadband.passed(scan.ts, value)
        return False
    return series.deadband.holds(scan.ts, value)


def _is_news(series: Series, scan: Scan, code: int) -> bool:
    """Whether a reading of a priority point says something else than the one that was delivered before."""
    if code == Quality.HELD:
        return False
    before, series.told = series.told, (code, scan.slots[series.place])
    return series.told != before


def _without(scan: Scan, quality: bytes) -> Scan:
    """The scan as it is delivered: what is held back has no value."""
    slots = array("q", scan.slots)
    for place, code in enumerate(quality):
        if code == Quality.HELD:
            slots[place] = 0
    return replace(scan, slots=slots, quality=quality)
