"""Pace: how fast the backlog goes, and how long to wait after a failure. Pure; times are monotonic seconds."""

import random
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from parkfleet.protocols.mqtt import CONNECT_TIMEOUT_S

#: Backlog may lengthen the way to the broker by as much as it has at best, within these bounds: fresh batches pass the
#: same queue. Seconds.
TARGET_DELAY_S: Final = (0.005, 0.05)
#: The shortest round trip is taken from the last one to two of these: routes change. Seconds.
BASE_WINDOW_S: Final = 120.0
#: The next try comes within this part of the time the broker was away: an outage of 8 s is over 2 s after the link's.
OUTAGE_PART: Final = 0.25
#: Shortest and longest bound of the pause before the next connection. Seconds.
RECONNECT_S: Final = (0.25, 30.0)
#: A first try must not hang on a packet that was lost with the link. Seconds.
FIRST_DIAL_S: Final = 3.0
#: Shortest and longest pause after a broker that is there said "too much". Seconds.
BUSY_S: Final = (1.0, 60.0)
#: Somebody must change something at the broker first. Seconds.
FORBIDDEN_S: Final = 60.0


class BacklogPace:
    """How many backlog batches may be in flight: LEDBAT's controller (RFC 6817), which yields to other traffic.

    The window grows by about one a round trip while the way is free, and shrinks when the round trip of any batch,
    live or old, is longer than the shortest one by more than a target.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._window = 2.0
        self._bases = (float("inf"), float("inf"))  # shortest round trip of the last window, and of this one
        self._base_since = 0.0

    @property
    def window(self) -> int:
        """Batches, from 1 to the limit."""
        return int(self._window)

    def acknowledged(self, round_trip: float, now: float) -> None:
        """Takes the round trip of one batch, in seconds."""
        older, newer = self._bases
        if now - self._base_since >= BASE_WINDOW_S:
            older, newer, self._base_since = newer, round_trip, now
        self._bases = older, min(newer, round_trip)
        base = min(self._bases)
        target = min(max(base, TARGET_DELAY_S[0]), TARGET_DELAY_S[1])
        off_target = max((target - (round_trip - base)) / target, -1.0)
        self._window = min(max(self._window + off_target / self._window, 1.0), float(self._limit))


class Verdict(Enum):
    """What a broker's reason code asks of us."""

    RETRY = auto()  # nothing is known to be wrong with what we do
    BUSY = auto()  # come back later: quota, rate, load
    FORBIDDEN = auto()  # not before a person has changed something
    TOO_LARGE = auto()  # the same bytes will never pass


#: By MQTT 5, 2.4: server unavailable, server busy, session taken over, message rate too high, quota exceeded,
#: use another server, connection rate exceeded.
_BUSY: Final = {0x88, 0x89, 0x8E, 0x96, 0x97, 0x9C, 0x9F}
#: Unsupported version, client identifier not valid, bad user name or password, not authorized, banned,
#: bad authentication method, topic filter invalid, topic name invalid, payload format invalid,
#: QoS or retain or subscription kind not supported, server moved.
_FORBIDDEN: Final = {0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8F, 0x90, 0x99, 0x9A, 0x9B, 0x9D, 0x9E}
_TOO_LARGE: Final = 0x95


def verdict(code: int) -> Verdict:
    """What a reason code asks of us; 0 and unknown ones are a reason to try again."""
    if code == _TOO_LARGE:
        return Verdict.TOO_LARGE
    return Verdict.FORBIDDEN if code in _FORBIDDEN else Verdict.BUSY if code in _BUSY else Verdict.RETRY


def refusal_pause(code: int, tries: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds to wait after a broker that answers has refused; tries: refusals in a row, from 1.

    Never quite none, and never the same for two gateways: half to all of a bound that doubles.
    """
    shortest, longest = BUSY_S
    bound = FORBIDDEN_S if verdict(code) is Verdict.FORBIDDEN else min(shortest * 2 ** min(tries - 1, 16), longest)
    return bound * (0.5 + 0.5 * chance())


def reconnect_pause(away: float, chance: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the next connection, when the broker has been away for so many: full jitter."""
    shortest, longest = RECONNECT_S
    return min(max(OUTAGE_PART * away, shortest), longest) * chance()


def dial_timeout(away: float) -> float:
    """Seconds that a connection may take to be made: a lost SYN goes again after 1, 3, 7 s, dialling anew is faster."""
    return min(FIRST_DIAL_S + OUTAGE_PART * away, CONNECT_TIMEOUT_S)
