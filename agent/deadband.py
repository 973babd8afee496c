"""Deadband: which readings of a series say nothing new. Pure: no I/O, no clock; time is that of the readings, in ms."""

from typing import Final

from parkfleet.protocols.rules import DeadbandConfig

#: 230.3 - 230.1 is a little more than 0.2.
_ROUNDING: Final = 1 + 1e-9


class Deadband:
    """Of one series. Invariant: of two delivered readings the values differ by more than the band, or the times by the
    longest silence, or one that may not be held back lies between."""

    def __init__(self, config: DeadbandConfig) -> None:
        self._absolute = config.absolute * _ROUNDING
        self._part = config.percent / 100 * _ROUNDING
        self._silence = 1000 * config.silence
        self._ts: int | None = None  # of the last one delivered
        self._value = 0.0

    def holds(self, ts: int, value: float) -> bool:
        """Whether a good reading may be held back; if not, it is taken for delivered."""
        if self._ts is not None and ts - self._ts < self._silence:
            last = self._value
            if abs(value - last) <= max(self._absolute, self._part * abs(last)):
                return True
        self._ts, self._value = ts, value
        return False

    def passed(self, ts: int, value: float) -> None:
        """A good reading went out whatever its value."""
        self._ts, self._value = ts, value

    def interrupted(self) -> None:
        """One that has no value, or a doubtful one, went out: the next good one does too."""
        self._ts = None
