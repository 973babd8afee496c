"""Rules: what gateway.yaml says of readings that should be told at once, and of those that need not be delivered.

The models alone, and whether they go together with the meters; what a rule does is in agent/alarm.py and
agent/deadband.py. docs/rules.md is for people.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from parkfleet.protocols.profile import Identifier, Profile
from parkfleet.protocols.quantity import Duration, duration

RuleKind = Literal["limit", "rate", "stuck", "backwards"]

DAY_S: Final = 86_400
#: What each kind of rule takes, beside what all take.
_TAKES: Final[Mapping[RuleKind, frozenset[str]]] = {
    "limit": frozenset({"above", "below", "delay", "clear_delay", "between"}),
    "rate": frozenset({"above", "below", "delay", "clear_delay", "between", "per"}),
    "stuck": frozenset({"after", "when", "when_above", "between"}),
    "backwards": frozenset(),
}
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which series something is said of: points by name, of all meters that deliver them."""

    id: Identifier
    points: Annotated[list[Identifier], Meta(min_length=1, max_length=1000)]
    meters: list[Identifier] = []  # of these only
    profiles: list[Identifier] = []  # of meters with these profiles only

    def points_of(self, meter: str, profile: str, delivered: Collection[str]) -> list[str]:
        """Those of a meter's delivered points that are meant."""
        if (self.meters and meter not in self.meters) or (self.profiles and profile not in self.profiles):
            return []
        return [point for point in self.points if point in delivered]


class RuleConfig(Selector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition; an event goes out when it begins to hold, and when it does no more."""

    kind: RuleKind
    above: float | None = None  # limit: of the value; rate: of its rise within `per`
    below: float | None = None  # limit: of the value; rate: of its change within `per`, so a negative number: a fall
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0  # how far back it must be; stuck, backwards: so little is nothing
    delay: Duration = duration("0s")  # it must hold for so long before it is told
    clear_delay: Duration = duration("10s")  # and be away for so long before that is told
    per: Duration | None = None  # rate: the time within which; default 1m
    after: Duration | None = None  # stuck: the same value for so long
    when: Identifier | None = None  # stuck: time counts only while this point of the meter …
    when_above: float | None = None  # … is above this; default 0
    between: str | None = None  # hours of the local clock in which it is looked at: 22:00-05:00
    priority: bool = False  # the reading that begins or ends it does not wait for the batch
    text: Annotated[str, Meta(max_length=200)] = ""  # what the event says, for people

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            if name not in _TAKES[self.kind] and getattr(self, name) != default:
                kinds = " and ".join(kind for kind, takes in _TAKES.items() if name in takes)
                raise ValueError(f"{name} belongs to rules of kind {kinds}, not to {self.kind}")
        numbers = (self.above, self.below, self.hysteresis, self.when_above)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError("above, below, hysteresis and when_above are finite numbers")
        if self.between is not None:
            hours(self.between)
        if self.kind in ("limit", "rate"):
            self._check_limits()
        if self.kind == "stuck":
            self._check_stuck()

    def _check_limits(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError(f"a {self.kind} needs above, below or both")
        if self.above is not None and self.below is not None and self.above <= self.below:
            raise ValueError("above must be greater than below")
        if self.delay > 7 * DAY_S or not 1 <= self.clear_delay <= 7 * DAY_S:
            raise ValueError("delay must be from 0s to 7d, clear_delay from 1s to 7d")
        if self.kind == "rate":
            if (self.above is not None and self.above <= 0) or (self.below is not None and self.below >= 0):
                raise ValueError("of a rate above is a rise (greater than 0) and below a fall (less than 0)")
            if not 1 <= self.per_s <= 7 * DAY_S:
                raise ValueError("per must be from 1s to 7d")

    def _check_stuck(self) -> None:
        if self.after is None:
            raise ValueError("a stuck rule needs after: for how long the value may stay the same")
        if not 10 <= self.after <= 90 * DAY_S:
            raise ValueError("after must be from 10s to 90d")
        if self.when_above is not None and self.when is None:
            raise ValueError("when_above needs when: the point that is to be above it")

    @property
    def per_s(self) -> float:
        """Seconds."""
        return 60.0 if self.per is None else float(self.per)


#: Of what only some kinds take.
_DEFAULTS: Final[Mapping[str, object]] = {
    field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    for field in msgspec.structs.fields(RuleConfig)
    if any(field.name in takes for takes in _TAKES.values())
}


class DeadbandConfig(Selector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Readings that differ little from the last one delivered are held back: quality `held`, no value."""

    absolute: Annotated[float, Meta(ge=0)] = 0.0  # in the point's unit
    percent: Annotated[float, Meta(ge=0, le=100)] = 0.0  # of the last value delivered; the larger of both counts
    silence: Duration = duration("15m")  # one is delivered at least so often

    def __post_init__(self) -> None:
        if not (math.isfinite(self.absolute) and math.isfinite(self.percent)):
            raise ValueError("absolute and percent are finite numbers")
        if not 1 <= self.silence <= DAY_S:
            raise ValueError("silence must be from 1s to 1d")


def hours(between: str) -> tuple[int, int]:
    """First second and last of a daily span of the local clock, the last not included; it may go over midnight.

    Raises ValueError.
    """
    found = _HOURS.fullmatch(between)
    if found is None:
        raise ValueError(f"between must be hours of the day such as 22:00-05:00, got {between!r}")
    start, end = (3600 * int(found[at]) + 60 * int(found[at + 1]) for at in (1, 3))
    if start == end:
        raise ValueError(f"between must end at another time than it begins, got {between!r}")
    return start, end


class Read(msgspec.Struct, frozen=True):
    """A meter as a selector sees it."""

    id: str
    profile: Profile
    delivered: frozenset[str]


def misfits(
    section: str, selectors: Sequence[tuple[int, RuleConfig | DeadbandConfig]], meters: Mapping[str, Read]
) -> Iterator[tuple[str, str]]:
    """(path, sentence) of what is wrong between rules or deadbands and the meters.

    A rule for all meters may fit none of them: it is often said for many gateways. One that names a meter must fit it.
    """
    for index, selector in selectors:
        where = f"{section}[{index}]"
        for number, name in enumerate(selector.meters):
            meter = meters.get(name)
            if meter is None:
                yield f"{where}.meters[{number}]", f"there is no meter {name!r}"
            elif not selector.points_of(name, meter.profile.profile, meter.delivered):
                told = f"meter {name} (profile {meter.profile.profile}) delivers none of the points"
                yield f"{where}.meters[{number}]", f"{told} {', '.join(selector.points)}"
        for meter in meters.values():
            for point in selector.points_of(meter.id, meter.profile.profile, meter.delivered):
                if told := _unfit(selector, meter, point):
                    yield f"{where}.points[{selector.points.index(point)}]", told


def _unfit(selector: RuleConfig | DeadbandConfig, meter: Read, point: str) -> str:
    """Why something cannot be said of a point; empty when it can."""
    quantity = next(own for own in meter.profile.quantities if own.id == point)
    if getattr(quantity, "type", "") == "string":
        return f"{point} of profile {meter.profile.profile} is a text: rules and deadbands are for numbers"
    if isinstance(selector, DeadbandConfig) and quantity.kind == "counter":
        return f"{point} of profile {meter.profile.profile} is a counter: each of its readings is delivered"
    when = selector.when if isinstance(selector, RuleConfig) else None
    if when is None:
        return ""
    if when not in meter.delivered:
        return f"meter {meter.id} does not deliver {when}, which `when` names" if selector.meters else ""
    counted = next(own for own in meter.profile.quantities if own.id == when)
    return f"{when} is a text: `when` names a number" if getattr(counted, "type", "") == "string" else ""
