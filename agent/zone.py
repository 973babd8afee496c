"""Zone: when local time has which offset from UTC, and where slots that lie on the local clock fall."""

import time
from typing import Final


class Zone:
    """A time zone by its IANA name; none: the system's own."""

    def __init__(self, name: str | None = None) -> None:
        """Raises ValueError for an unknown name (the configuration's check has refused it before)."""
        self._name = name
        self._is_utc = name == "UTC"
        self._zone = None
        if name and not self._is_utc:
            from zoneinfo import ZoneInfo  # where it is needed only

            self._zone = ZoneInfo(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Zone) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)

    def offset(self, at: float) -> float:
        """Seconds that local time is ahead of UTC at a unix time."""
        if self._is_utc:
            return 0.0
        if self._zone is None:
            return float(time.localtime(at).tm_gmtoff)
        from datetime import datetime

        ahead = datetime.fromtimestamp(at, self._zone).utcoffset()
        return ahead.total_seconds() if ahead else 0.0

    def next_slot(self, after: float, interval: float, phase: float = 0.0) -> float:
        """The first unix time behind `after` at which the local clock, less phase, is a multiple of interval.

        Seconds. Across a change of the clock (daylight saving) a slot counts by the offset in force at itself: a day's
        slot is local midnight on both sides.
        """
        own = self.offset(after)
        first = _next(after, interval, phase, own)
        found = [first] if self.offset(first) == own else []
        for offset in () if found else (own, self.offset(first)):
            slot = _next(after, interval, phase, offset)
            found += [at for at in (slot, slot + interval) if self.offset(at) == offset]
        return min(found, default=first)


def _next(after: float, interval: float, phase: float, offset: float) -> float:
    shift = offset - phase
    return ((after + shift) // interval + 1) * interval - shift


#: Slots are multiples of the interval in UTC.
UTC: Final = Zone("UTC")
