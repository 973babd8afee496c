"""Admission: when a gateway's session may begin, so that a fleet that comes back at once is taken in as fast as can be
borne. Pure: the time and the CPU's come from outside.

Each session has a place in a queue, which moves on at a rate that follows from what a session was measured to cost. Who
comes before his turn waits here, if not for long, else is sent away until then, and has the place when he is back.

Invariants: the turns of a second are at most the rate; a gateway that comes back at its turn is never sent away again;
what is kept of gateways is bounded.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from parkfleet.controller.registry import MAX_GATEWAYS, GatewayKey

#: Sessions a second before anything was measured, and the bounds of what is concluded from measuring.
FIRST_RATE: Final = 150.0
RATES: Final = (50.0, 500.0)
#: Seconds of CPU that a second of admissions may take: most of one core. The rest is for the sessions that are open.
BUDGET: Final = 0.75
#: Places that may be taken at once after a quiet time. Sessions.
BURST: Final = 50
#: So long a gateway waits here: it has its connection, which was dear, and would have to make another one. Well below
#: the agent's patience for its welcome (45 s). Seconds.
HOLD_S: Final = 20.0
#: A gateway that is back so much before its place is let in: the random part of its pause was short. Seconds.
EARLY_S: Final = 2.0
#: A place is kept for so long after its time. Seconds.
KEPT_S: Final = 120.0
#: One gateway alone may begin a session so often: a burst of them, then one in so many seconds.
OWN_BURST: Final = 60
OWN_S: Final = 2.0
#: What of a session's cost is its connection (a TLS handshake: spent before we are asked, also on who is sent away),
#: and what is the rest.
CONNECTION: Final = 0.6
#: Sessions' worth of work that a second must have had to tell what one costs, and how much that counts.
SAMPLE: Final = 5
SMOOTH: Final = 0.3
#: An event loop that is later than this is short of CPU, whoever has it: the rate is lowered by a part, and raised
#: again bit by bit. Not by much: who is sent away comes back with another handshake, which costs more. Seconds.
LATE_S: Final = 1.0
LOWER: Final = 0.8
RAISE: Final = 0.1
LEAST: Final = 0.6


class Turn(NamedTuple):
    """What a gateway that wants in is told: wait here until it is the turn of its place, or come back in so long."""

    place: float = 0.0
    away_s: float = 0.0  # 0: it may stay


@dataclass
class AdmissionCounts:
    """Since the process started."""

    asked: int = 0
    begun: int = 0  # sessions
    sent_away: int = 0  # told when to come back
    refused: int = 0  # streams that ended because of what the agent sent
    held: int = 0  # wait here now


class Admission:
    """One process's door."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
        own_burst: int = OWN_BURST,
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._own_burst = own_burst
        self.rate = FIRST_RATE  # sessions a second
        self._pressure = 1.0  # part of the rate that the machine bears beside whatever else it does
        self.counts = AdmissionCounts()
        self._next = 0.0  # the first place that is free
        self._turn = 0.0  # the place whose turn it is
        self._turned = clock()  # when it was
        self._places: OrderedDict[GatewayKey, float] = OrderedDict()  # of who was sent away, the first first
        self._own: OrderedDict[GatewayKey, float] = OrderedDict()  # until when each has used its own share up
        self._cost = BUDGET / FIRST_RATE  # CPU seconds a session
        self._quiet = 0.0  # CPU seconds a second without admissions
        self._seen = (clock(), cpu(), 0, 0)  # time, CPU, asked, begun at the last measure()

    def ask(self, key: GatewayKey) -> Turn:
        """A gateway wants to begin a session. Whoever is let in counts as a session that begins."""
        now = self._clock()
        self.counts.asked += 1
        if (away := self._over_its_share(key, now)) > 0:
            self.counts.sent_away += 1
            return Turn(away_s=away)
        self._move_on(now)
        place = self._places.pop(key, None)
        patience = HOLD_S if place is None else EARLY_S
        if place is None:
            place = max(self._next, self._turn - BURST)
            self._next = place + 1
        if (left := self.left(place)) <= patience:
            self._count_own(key, now)
            return Turn(place)
        self._keep(key, place)
        self.counts.sent_away += 1
        return Turn(away_s=left)

    def left(self, place: float) -> float:
        """Seconds until it is a place's turn, as things are now; 0: it is, or was."""
        self._move_on(self._clock())
        return max(0.0, (place - self._turn) / self.rate)

    def measure(self, late_s: float) -> None:
        """Looks at what was done since the last time, and at what that has cost. To be called about once a second.

        late_s: how late the event loop was.
        """
        now, cpu = self._clock(), self._cpu()
        since, cpu_then, asked_then, begun_then = self._seen
        if (passed := now - since) <= 0:
            return
        used, asked, begun = cpu - cpu_then, self.counts.asked - asked_then, self.counts.begun - begun_then
        self._seen = (now, cpu, self.counts.asked, self.counts.begun)
        sessions = CONNECTION * asked + (1 - CONNECTION) * begun
        if sessions >= SAMPLE:
            self._cost += SMOOTH * (max(used - self._quiet * passed, 0.0) / sessions - self._cost)
        elif not asked and not begun:
            self._quiet += SMOOTH * (used / passed - self._quiet)
        self._pressure = max(self._pressure * LOWER, LEAST) if late_s > LATE_S else min(self._pressure + RAISE, 1.0)
        self._move_on(now)
        low, high = RATES
        self.rate = min(max(self._pressure * BUDGET / max(self._cost, 1e-6), low), high)

    def _move_on(self, now: float) -> None:
        """The queue moves on with time."""
        self._turn += (now - self._turned) * self.rate
        self._turned = now

    def _keep(self, key: GatewayKey, place: float) -> None:
        over = self._turn - KEPT_S * self.rate
        while self._places and (len(self._places) >= MAX_GATEWAYS or next(iter(self._places.values())) < over):
            self._places.popitem(last=False)
        self._places[key] = place

    def _over_its_share(self, key: GatewayKey, now: float) -> float:
        """Seconds until a gateway may begin another session; 0: now."""
        return max(0.0, self._own.get(key, now) + OWN_S - now - self._own_burst * OWN_S)

    def _count_own(self, key: GatewayKey, now: float) -> None:
        self._own[key] = max(self._own.pop(key, now), now) + OWN_S
        while self._own and (len(self._own) > MAX_GATEWAYS or next(iter(self._own.values())) < now):
            self._own.popitem(last=False)
