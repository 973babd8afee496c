"""Replacement: notices that another device answers where a meter was, by the points its profile calls its identity."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from parkfleet.agent.activity import LineStatus
from parkfleet.agent.events import Events
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.agent.reading import Ask, read_meter
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.payload.topics import Event
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.readplan import plan_requests

log = logging.getLogger(__name__)

#: A meter's identity is read so often, and at once when it answers again after a silence. Seconds.
EVERY_S: Final = 3600.0
#: Who has come back is looked for so often. Seconds.
LOOK_S: Final = 2.0


@dataclass
class _Watched:
    """A meter with an identity."""

    plan: MeterPlan  # of the identity's points alone
    checked_at: float = 0.0  # monotonic; 0: never
    was_bad: bool = False

    def is_due(self, now: float, bad: bool) -> bool:
        """Whether its identity is to be read now: never while it is silent."""
        came_back, self.was_bad = self.was_bad and not bad, bad
        return not bad and (came_back or not self.checked_at or now - self.checked_at >= EVERY_S)


class Replacements:
    """Watches the identities of all meters that have one."""

    def __init__(
        self,
        lines: Sequence[LinePlan],
        profiles: Mapping[str, Profile],
        events: Events,
        store: TruthStore,
        begin_anew: Callable[[str], Mapping[str, float]],
    ) -> None:
        """begin_anew: told of a replaced meter; returns the last values of its counters."""
        self._events = events
        self._store = store
        self._begin_anew = begin_anew
        self._known: dict[str, str] = {}
        self._watched: dict[str, list[_Watched]] = {}
        for line in lines:
            for meter in line.meters:
                profile = profiles[meter.config.profile]
                points = tuple(point for point in profile.points if point.id in profile.identity)
                if points:
                    requests = tuple(plan_requests(profile, points, meter.config.unit, line.cost))
                    alone = replace(meter, points=points, requests=requests, derivation=None, groups=(), variants=())
                    self._watched.setdefault(line.config.id, []).append(_Watched(alone))

    async def run(self, statuses: Callable[[], Sequence[LineStatus]], asks: Mapping[str, Ask]) -> None:
        """Watches until cancelled. asks: how to ask on each line, out of turn."""
        if not self._watched:
            return
        self._known = await asyncio.to_thread(self._store.identities)
        while True:
            for status in statuses():
                for watched in self._watched.get(status.id, ()) if status.up else ():
                    if watched.is_due(time.monotonic(), watched.plan.config.id in status.meters_bad):
                        await self._check(watched, asks[status.id])
            await asyncio.sleep(LOOK_S)  # how soon a meter that is back is looked at

    async def _check(self, watched: _Watched, ask: Ask) -> None:
        reading = await read_meter(watched.plan, ask)
        if any(point.quality != "good" for point in reading.points):
            return  # it will be asked again at the next look, unless it is silent
        watched.checked_at = time.monotonic()
        meter, said = reading.meter, " ".join(str(point.value) for point in reading.points)
        known = self._known.get(meter)
        if known == said:
            return
        self._known[meter] = said
        if known is None:
            await asyncio.to_thread(self._store.save_identity, meter, said)
            return
        data: dict[str, object] = {"before": known, "now": said, "last": dict(self._begin_anew(meter))}
        text = f"meter replaced: {known} before, {said} now"
        event = Event(time.time_ns() // 1_000_000, "meter-replaced", text, meter, data)
        if await asyncio.to_thread(self._store.save_identity, meter, said, event.pack()):
            self._events.kept(event)
        else:
            self._events.emit(event.kind, text, meter, data)
