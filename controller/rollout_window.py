"""Maintenance window: when a gateway may download and when it may switch, by its park's own clock. Pure.

A window is said as people say it: `01:00-05:00`, `22:00-04:00` (over midnight), `sat,sun 00:00-24:00`. A switch costs
some seconds of readings, and those are kept away from the moments that bills are made of: the end of a month, a switch
of tariffs, the edge of a 15 minute demand interval.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
#: Readings pause for some seconds in a switch; a slow box needs a minute. So long before and after an edge none begins.
BEFORE_EDGE: Final = timedelta(seconds=90)
AFTER_EDGE: Final = timedelta(seconds=30)
#: Months are billed by readings around their turn, also when a platform is late with them.
BEFORE_MONTH: Final = timedelta(hours=12)
AFTER_MONTH: Final = timedelta(hours=6)
DEMAND_MINUTES: Final = 15

_WINDOW: Final = re.compile(r"(?:([a-z]{3}(?:[-,][a-z]{3})*)\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)")


class WindowError(ValueError):
    """A window cannot be understood; the message says what is expected."""


@dataclass(frozen=True)
class Window:
    """From a minute of the local day to another, on some days of the week (of its beginning)."""

    begin: int = 0
    end: int = _DAY_MINUTES
    days: frozenset[int] = frozenset(range(7))  # Monday is 0

    @classmethod
    def parse(cls, text: str) -> "Window":
        """What a person wrote; empty: always. Raises WindowError."""
        if not text.strip():
            return cls()
        match = _WINDOW.fullmatch(text.strip().lower())
        if match is None:
            raise WindowError(f"expected a window such as 01:00-05:00 or sat,sun 22:00-04:00, got {text!r}")
        begin, end = _minute(match[2], match[3]), _minute(match[4], match[5])
        if begin in (end, _DAY_MINUTES):
            raise WindowError(f"the window {text!r} is empty: for the whole day write 00:00-24:00")
        return cls(begin, end, _days(match[1]) if match[1] else frozenset(range(7)))

    def holds(self, local: datetime) -> bool:
        """Whether a local time lies in it."""
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return self.begin <= minute < self.end and day in self.days
        yesterday = (day - 1) % 7
        return (minute >= self.begin and day in self.days) or (minute < self.end and yesterday in self.days)


@dataclass(frozen=True)
class Calendar:
    """A park's clock: its zone, and when its tariffs switch (minutes of the local day)."""

    zone: str = "UTC"
    tariffs: tuple[int, ...] = ()

    def local(self, at_ms: int) -> datetime:
        """The local time of ms UTC. Raises ZoneInfoNotFoundError (a KeyError) for an unknown zone."""
        return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(self.zone))

    def told_against_switching(self, at_ms: int) -> str:
        """Why no gateway of the park should switch now; empty when it may."""
        local = self.local(at_ms)
        if self._turns_month(local):
            return "the month ends"
        if any(_near(local, minute) for minute in self.tariffs):
            return "the tariff switches"
        since = timedelta(minutes=local.minute % DEMAND_MINUTES, seconds=local.second, microseconds=local.microsecond)
        if since < AFTER_EDGE or timedelta(minutes=DEMAND_MINUTES) - since <= BEFORE_EDGE:
            return "the edge of a demand interval is near"
        return ""

    @staticmethod
    def _turns_month(local: datetime) -> bool:
        wall = local.replace(tzinfo=None)
        return (wall + BEFORE_MONTH).month != wall.month or (wall - AFTER_MONTH).month != wall.month


def minute_of_day(text: str) -> int:
    """Minutes of HH:MM. Raises WindowError."""
    match = re.fullmatch(r"(\d\d):(\d\d)", text.strip())
    if match is None:
        raise WindowError(f"expected a time such as 08:00, got {text!r}")
    return _minute(match[1], match[2])


def _near(local: datetime, minute: int) -> bool:
    now = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
    behind = (now - timedelta(minutes=minute)) % timedelta(days=1)
    return behind < AFTER_EDGE or timedelta(days=1) - behind <= BEFORE_EDGE


def _minute(hours: str, minutes: str) -> int:
    at = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or at > _DAY_MINUTES:
        raise WindowError(f"there is no time {hours}:{minutes}")
    return at


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            raise WindowError(f"expected days such as mon-fri or sat,sun, got {text!r}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(found)
