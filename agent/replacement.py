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
from parkfleet.agent.reading import Ask, MeterReading, read_meter
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.derived import RAW
from parkfleet.protocols.payload.series import Value
from parkfleet.protocols.payload.topics import Event
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.readplan import plan_requests

log = logging.getLogger(__name__)

#: A meter's identity is read so often, and at once when it answers again after a silence. Seconds.
EVERY_S: Final = 3600.0
#: … and again so soon when the answer was lost.
AGAIN_S: Final = 30.0
_LOST: Final = frozenset({"timeout", "corrupt", "disconnected", "skipped"})
#: Who has come back is looked for so often. Seconds.
LOOK_S: Final = 2.0


@dataclass
class _Watched:
    """A meter with an identity."""

    plan: MeterPlan  # of the identity's points alone
    whole: MeterPlan
    counters: frozenset[str]  # those of its points that count
    due_at: float = 0.0  # monotonic
    was_bad: bool = False

    def is_due(self, now: float, bad: bool) -> bool:
        """Whether its identity is to be read now: never while it is silent."""
        came_back, self.was_bad = self.was_bad and not bad, bad
        return not bad and (came_back or now >= self.due_at)

    def note(self, now: float, lost: bool) -> None:
        """It was asked; lost: nothing came, so that it is asked again soon. A refusal is an answer."""
        self.due_at = now + (AGAIN_S if lost else EVERY_S)


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
        self._known: dict[str, str] | None = None  # None: not read yet
        self._asks: Mapping[str, Ask] = {}  # by line; empty until polling has begun
        self._checking = asyncio.Lock()
        self._watched: dict[str, list[_Watched]] = {}
        for line in lines:
            for meter in line.meters:
                profile = profiles[meter.config.profile]
                points = tuple(point for point in profile.points if point.id in profile.identity)
                if points:
                    requests = tuple(plan_requests(profile, points, meter.config.unit, line.cost))
                    alone = replace(meter, points=points, requests=requests, derivation=None, groups=(), variants=())
                    counters = frozenset(own.id for own in profile.quantities if own.kind == "counter")
                    self._watched.setdefault(line.config.id, []).append(_Watched(alone, meter, counters))

    async def run(self, statuses: Callable[[], Sequence[LineStatus]], asks: Mapping[str, Ask]) -> None:
        """Watches until cancelled. asks: how to ask on each line, out of turn."""
        if not self._watched:
            return
        self._asks = asks
        while True:
            for status in statuses():
                for watched in self._watched.get(status.id, ()) if status.up else ():
                    if watched.is_due(time.monotonic(), watched.plan.config.id in status.meters_bad):
                        await self._check(watched)
            await asyncio.sleep(LOOK_S)  # how soon a meter that is back is looked at

    async def look_at(self, meter: str) -> None:
        """Reads a meter's identity now, if it has one."""
        for line, all_watched in self._watched.items():
            for watched in all_watched:
                if watched.plan.config.id == meter and line in self._asks:
                    await self._check(watched)

    async def _check(self, watched: _Watched) -> None:
        async with self._checking:
            ask = self._asks[watched.plan.config.line]
            reading = await read_meter(watched.plan, ask)
            qualities = {point.quality for point in reading.points}
            watched.note(time.monotonic(), lost=bool(qualities & _LOST))
            if qualities != {"good"}:
                return
            said = " ".join(str(point.value) for point in reading.points)
            if self._known is None:
                self._known = await asyncio.to_thread(self._store.identities)
            known = self._known.get(reading.meter)
            if known == said:
                return
            self._known[reading.meter] = said
            if known is None:
                await asyncio.to_thread(self._store.save_identity, reading.meter, said)
                return
            first = _counted(await read_meter(watched.whole, ask), watched.counters)
            await self._tell(reading.meter, known, said, first)

    async def _tell(self, meter: str, known: str, said: str, first: Mapping[str, Value]) -> None:
        """Ends the series of the meter that was known, with its last values; the next one begins with its first."""
        last = dict(self._begin_anew(meter))
        data: dict[str, object] = {"before": known, "now": said, "last": last, "first": dict(first)}
        text = f"meter replaced: {known} before, {said} now"
        event = Event(time.time_ns() // 1_000_000, "meter-replaced", text, meter, data)
        if await asyncio.to_thread(self._store.save_identity, meter, said, event.pack()):
            self._events.kept(event)
        else:
            self._events.emit(event.kind, text, meter, data)


def _counted(reading: MeterReading, counters: frozenset[str]) -> dict[str, Value]:
    """What the counters of a reading say, as it is delivered."""
    return {
        said.point: said.value
        for said in (reading.delivered or reading.points)
        if said.value is not None and said.point.removesuffix(RAW) in counters
    }
