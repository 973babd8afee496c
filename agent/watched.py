"""Watched series: the columns of a plan that rules, deadbands and priorities speak of, and what they say of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from parkfleet.agent.alarm import Alarm, BackwardsAlarm, LimitAlarm, RateAlarm, StuckAlarm
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.counter_guard import Rule
from parkfleet.agent.deadband import Deadband
from parkfleet.agent.plan import Plan
from parkfleet.agent.zone import Zone
from parkfleet.protocols.config import GatewayConfig, MeterConfig
from parkfleet.protocols.crosscheck import read_of
from parkfleet.protocols.payload.series import Column
from parkfleet.protocols.profile import Derived, Point
from parkfleet.protocols.rules import Read, RuleConfig, hours

#: The offset of local time changes at multiples of this. Milliseconds.
_QUARTER_MS: Final = 900_000


@dataclass
class Number:
    """The value of a point as it was read last, for a rule of another one; None: it has none."""

    value: float | None = None


@dataclass
class Series:
    """One watched column."""

    meter: str
    place: int  # of the column in its entry
    column: Column
    alarms: list[tuple[RuleConfig, Alarm]] = field(default_factory=list)
    deadband: Deadband | None = None
    is_priority: bool = False
    last: Number | None = None  # rules of other points look at it
    told: tuple[int, int] | None = None  # quality and slot delivered last, of a priority point
    _slot: int | None = None
    _value: float = 0.0

    def number(self, slot: int) -> float:
        """The value a slot stands for. It costs more than the rules, so it is worked out when it changes."""
        if slot != self._slot:
            self._slot, self._value = slot, float(self.column.value(slot) or 0)
        return self._value


class LocalHours:
    """A daily span of the local clock."""

    def __init__(self, zone: Zone, between: str) -> None:
        """between: as in gateway.yaml."""
        self._zone = zone
        self._start, self._end = hours(between)
        self._quarter = -1
        self._offset = 0.0  # seconds, in that quarter of an hour

    def is_open(self, ts: int) -> bool:
        """Whether a time (ms UTC) lies in it."""
        if ts // _QUARTER_MS != self._quarter:
            self._quarter, self._offset = ts // _QUARTER_MS, self._zone.offset(ts / 1000)
        second = (ts / 1000 + self._offset) % 86_400
        if self._start < self._end:
            return self._start <= second < self._end
        return second >= self._start or second < self._end


def watched(configuration: Configuration, plan: Plan) -> dict[int, list[Series]]:
    """By entry of the plan's schema what is watched; in each, what others look at comes first."""
    gateway = configuration.gateway
    book = _Book(plan)
    for meter in gateway.meters:
        profile = configuration.profiles[meter.profile]
        if gateway.rules or gateway.deadbands or meter.priority or any(own.priority for own in profile.quantities):
            _Marking(book, read_of(meter, profile)).mark(gateway, meter)
    return {
        entry: sorted(columns.values(), key=lambda series: series.last is None) for entry, columns in book.found.items()
    }


class _Book:
    """Finds the series of a plan's points; those that were found are watched."""

    def __init__(self, plan: Plan) -> None:
        self._schema = plan.schema
        self.zone = plan.zone
        self._entries: dict[str, list[int]] = {}
        for index, entry in enumerate(plan.schema.entries):
            self._entries.setdefault(entry.meter, []).append(index)
        self.found: dict[int, dict[int, Series]] = {}  # by entry and column

    def series(self, meter: str, point: str) -> Series:
        """That of a point that is delivered."""
        for index in self._entries[meter]:
            for place, column in enumerate(self._schema.entries[index].columns):
                if column.point == point:
                    return self.found.setdefault(index, {}).setdefault(place, Series(meter, place, column))
        raise LookupError(f"meter {meter} does not deliver {point}")


class _Marking:
    """Marks what is watched of one meter."""

    def __init__(self, book: _Book, read: Read) -> None:
        self._book = book
        self._read = read
        self._quantities = {own.id: own for own in read.profile.quantities}
        self._numbers: dict[str, Number] = {}

    def mark(self, gateway: GatewayConfig, meter: MeterConfig) -> None:
        """Whatever a configuration says of the meter."""
        urgent = {own.id for own in self._read.profile.quantities if own.priority} | set(meter.priority)
        for point in sorted(urgent & self._read.delivered):
            self._series(point).is_priority = True
        for band in gateway.deadbands:  # the last that fits counts
            for point in band.points_of(meter.id, meter.profile, self._read.delivered):
                self._series(point).deadband = Deadband(band)
        for rule in gateway.rules:
            if rule.when is None or rule.when in self._read.delivered:
                for point in rule.points_of(meter.id, meter.profile, self._read.delivered):
                    self._series(point).alarms.append((rule, self._alarm(rule, point)))

    def _series(self, point: str) -> Series:
        return self._book.series(self._read.id, point)

    def _alarm(self, rule: RuleConfig, point: str) -> Alarm:
        is_open = None if rule.between is None else LocalHours(self._book.zone, rule.between).is_open
        match rule.kind:
            case "limit":
                return LimitAlarm(rule, is_open)
            case "rate":
                return RateAlarm(rule, is_open)
            case "stuck":
                return StuckAlarm(rule, self._moves(rule), is_open)
            case "backwards":
                own = self._quantities[point]
                return BackwardsAlarm(rule, Rule.of(self._series(point).column, _read_from(own), None))

    def _moves(self, rule: RuleConfig) -> Callable[[], bool] | None:
        """Whether the point that `when` names is above its bound."""
        if rule.when is None:
            return None
        series = self._series(rule.when)
        if series.last is None:
            series.last = Number()
        number, bound = series.last, rule.when_above or 0.0
        return lambda: number.value is not None and number.value > bound


def _read_from(own: Point | Derived) -> Point | None:
    return own if isinstance(own, Point) else None
