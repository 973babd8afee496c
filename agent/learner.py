"""Learner: finds out, while the meters are polled, what each of them takes, and has them asked accordingly.

The pure half is protocols/learning.py. This one owns each meter's facts: it watches failed scans, sends a search's
requests through the meter's line between two scans (never more than half of the line's time), hands the line a new
plan, and keeps the facts. One search at a time on a line; nothing that a meter does ends it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from parkfleet.agent.activity import MeterActivity
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.learned_store import LearnedStore, MeterKey, fingerprint
from parkfleet.agent.plan import LinePlan, MeterPlan, Plan, with_learned
from parkfleet.agent.transport import LineDownError
from parkfleet.protocols.learned import RETRY_S, Learned, Turnaround, told
from parkfleet.protocols.learning import REST_S, Search, Watch, watch, without
from parkfleet.protocols.modbus.pdu import ReadRequest, Request
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.quality import EXCEPTION, Quality
from parkfleet.protocols.readplan import PlannedRequest

log = logging.getLogger(__name__)

#: After a search that found nothing, the next waits: first and longest, doubling. Seconds.
BACKOFF_S: Final = (60.0, RETRY_S)
DEAD_BACKOFF_S: Final = 600.0
#: Turnarounds and refused points are looked after this often. Seconds.
TEND_S: Final = 60.0
#: A turnaround is learned anew when it is off by a quarter, from so many answers on.
TURNAROUND_OFF: Final = 0.25
LEAST_ANSWERS: Final = 15


class Prober(Protocol):
    """A line as the learner and the line book use it: LinePoller or EngineLine."""

    async def burst(self, requests: Sequence[tuple[float, Request[object]]]) -> list[int]:
        """Requests one behind the other, each after a pause; their quality codes. Raises LineDownError."""

    def replan(self, plan: MeterPlan) -> None:
        """Has a meter asked by a new plan from its next scan on."""

    def activities(self) -> dict[str, MeterActivity]:
        """By meter id."""


@dataclass
class Pupil:
    """One meter, and what is known of it."""

    line: LinePlan
    plan: MeterPlan
    profile: Profile
    key: MeterKey
    watches: dict[int, Watch] = field(default_factory=dict)  # by the identity of what was asked
    suspect: tuple[PlannedRequest, int, list[PlannedRequest]] | None = None  # with its cause, and who was answered
    search_after: float = 0.0  # monotonic
    backoff: float = BACKOFF_S[0]
    retry_at: float = field(default_factory=lambda: time.monotonic() + random.uniform(0.5, 1.0) * RETRY_S)
    retry_pause: float = RETRY_S
    turnaround_at: float = 0.0  # monotonic; not learned anew before

    @property
    def learned(self) -> Learned:
        return self.plan.learned


class Learner:
    """All meters of a plan. saw() is called by the lines' owners, run() by the agent's service."""

    def __init__(self, plan: Plan, configuration: Configuration, store: LearnedStore, rest_s: float = REST_S) -> None:
        """plan: made with what the store had. rest_s: in so long a meter comes to rest, seconds."""
        self._rest_s = rest_s
        self._store = store
        keys = dict(zip((meter.id for meter in configuration.gateway.meters), meter_keys(configuration), strict=True))
        self.pupils = {
            meter.config.id: Pupil(line, meter, configuration.profiles[meter.config.profile], keys[meter.config.id])
            for line in plan.lines
            for meter in line.meters
        }
        self._by_line: dict[str, list[Pupil]] = {}
        for pupil in self.pupils.values():
            self._by_line.setdefault(pupil.key.line, []).append(pupil)
        self._searching: set[str] = set()  # ids of lines
        self._dead_after: dict[str, float] = {}  # by line, monotonic: no silent meter is searched before
        self._suspicion = asyncio.Event()

    def saw(self, plan: MeterPlan, asked: Sequence[PlannedRequest], outcomes: Sequence[int]) -> None:
        """A scan in which a request failed, or the first good one behind it."""
        pupil = self.pupils[plan.config.id]
        if plan is not pupil.plan:
            return  # of a plan that was replaced since
        pupil.watches[id(asked)], index = watch(pupil.watches.get(id(asked), Watch()), outcomes)
        if index is None or pupil.suspect or time.monotonic() < pupil.search_after:
            return
        planned = asked[index]
        if all(pupil.learned.refusal(plan.points[point]) for point in planned.points):
            return
        good = [other for other, code in zip(asked, outcomes, strict=True) if not code]
        pupil.suspect = planned, outcomes[index], good
        self._suspicion.set()

    async def run(self, lines: Mapping[str, Prober]) -> None:
        """Learns until cancelled. lines: by id."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tend_for_ever(lines), name="learner")
            while True:
                await self._suspicion.wait()
                self._suspicion.clear()
                for pupil in self._waiting():
                    self._searching.add(pupil.key.line)
                    group.create_task(self._search(pupil, lines[pupil.key.line]), name=f"search {pupil.key.line}")

    async def forget(self, meter: str, lines: Mapping[str, Prober]) -> bool:
        """Drops what is known of a meter: it is polled as its profile says. Raises KeyError. False: not on the disk."""
        pupil = self.pupils[meter]
        self._teach(pupil, Learned(), lines[pupil.key.line])
        pupil.search_after, pupil.backoff, pupil.turnaround_at = 0.0, BACKOFF_S[0], time.monotonic() + RETRY_S
        return await self._keep(pupil)

    # ---- searching

    def _waiting(self) -> Iterator[Pupil]:
        """Suspicious meters of lines on which no search is under way, one a line."""
        for pupil in self.pupils.values():
            if pupil.suspect and pupil.key.line not in self._searching:
                yield pupil

    async def _search(self, pupil: Pupil, line: Prober) -> None:
        before = pupil.learned
        assert pupil.suspect is not None
        suspect, cause, good = pupil.suspect
        try:
            if good or cause & EXCEPTION or self._may_look_at_dead(pupil, line):
                await self._search_all(pupil, line, suspect, cause, good)
        except LineDownError as error:
            log.debug("search on line %s ended: %s", pupil.key.line, error)
        finally:
            pupil.suspect, pupil.watches = None, {}
            self._searching.discard(pupil.key.line)
            self._suspicion.set()  # others of the line may wait
        if pupil.learned == before:
            # What has never answered is looked for seldom: silence costs the line more than a refusal.
            pupil.backoff = max(pupil.backoff, BACKOFF_S[0] if good else DEAD_BACKOFF_S)
            pupil.search_after = time.monotonic() + random.uniform(0.75, 1.0) * pupil.backoff
            pupil.backoff = min(2 * pupil.backoff, BACKOFF_S[1])
            return
        pupil.backoff = BACKOFF_S[0]
        if pupil.learned.refused != before.refused:  # it may be a passing state: doubted soon, then seldom
            pupil.retry_pause = BACKOFF_S[0]
            pupil.retry_at = time.monotonic() + pupil.retry_pause
        known = [fact for fact, _ in told(before)]
        for fact in (fact for fact, _ in told(pupil.learned) if fact not in known):
            config = pupil.plan.config
            log.info("learned: meter %s (line %s, unit %d) %s", config.id, config.line, config.unit, fact)
        await self._keep(pupil)

    def _may_look_at_dead(self, pupil: Pupil, line: Prober) -> bool:
        """Whether a silent meter is asked beside its probes: one that never answered, and one of a line at a time."""
        now = time.monotonic()
        if now < self._dead_after.get(pupil.key.line, 0.0) or line.activities()[pupil.plan.config.id].answers:
            return False
        self._dead_after[pupil.key.line] = now + DEAD_BACKOFF_S
        return True

    async def _search_all(
        self, pupil: Pupil, line: Prober, suspect: PlannedRequest, cause: int, good: list[PlannedRequest]
    ) -> None:
        """Searches a request, and those that its points are asked by after each finding, until none is refused."""
        own, waiting = set(suspect.points), [suspect]
        while waiting:
            planned = waiting.pop()
            search = Search(pupil.plan.points, planned, cause, good, pupil.learned, self._rest_s, planned is suspect)
            found = await self._played(pupil, line, search)
            if found != pupil.learned:
                self._teach(pupil, found, line)
                cases = range(pupil.plan.all_due + 1)
                every = dict.fromkeys(other for due in cases for other in pupil.plan.asked(due))
                waiting = [other for other in every if own & set(other.points)]

    async def _played(self, pupil: Pupil, line: Prober, search: Search) -> Learned:
        """A search's requests sent, with as much time for the line's own scans in between."""
        asking, unit = search.run(), pupil.plan.config.unit
        try:
            blocks = next(asking)
            while True:
                begun = time.monotonic()
                codes = await line.burst(
                    [(block.pause, ReadRequest(unit, block.table, block.address, block.size)) for block in blocks]
                )
                await asyncio.sleep(time.monotonic() - begun)  # half of the line's time is not ours
                blocks = asking.send(tuple(codes))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            asking.close()

    # ---- tending

    async def _tend_for_ever(self, lines: Mapping[str, Prober]) -> None:
        while True:
            await asyncio.sleep(TEND_S)  # how soon a turnaround is known
            for name, line in lines.items():
                await self.tend(line, self._by_line.get(name, ()))

    async def tend(self, line: Prober, pupils: Sequence[Pupil]) -> None:
        """Takes turnarounds over, and doubts refusals whose time has come. pupils: those of the line."""
        activities = line.activities()
        for pupil in pupils:
            before = pupil.learned
            self._time(pupil, activities.get(pupil.plan.config.id, MeterActivity()), line)
            if pupil.learned.refused and pupil.retry_at <= time.monotonic():
                await self._doubt(pupil, line)
            if pupil.learned != before:
                await self._keep(pupil)

    def _time(self, pupil: Pupil, activity: MeterActivity, line: Prober) -> None:
        """Learns a meter's turnaround, at most hourly."""
        known = pupil.learned.turnaround.us / 1e6 if pupil.learned.turnaround else 0.0
        now, off = time.monotonic(), abs(activity.turnaround_s - known) > TURNAROUND_OFF * known
        if activity.turnarounds < LEAST_ANSWERS or now < pupil.turnaround_at or not off:
            return
        pupil.turnaround_at = now + RETRY_S
        found = Turnaround(max(1, round(1e6 * activity.turnaround_s)), activity.turnarounds, _now_ms())
        self._teach(pupil, msgspec.structs.replace(pupil.learned, turnaround=found), line)

    async def _doubt(self, pupil: Pupil, line: Prober) -> None:
        """Asks each refused point alone; one that answers is read again."""
        pupil.retry_pause = min(2 * pupil.retry_pause, RETRY_S)
        pupil.retry_at = time.monotonic() + random.uniform(0.75, 1.0) * pupil.retry_pause
        for refused in pupil.learned.refused:
            request = ReadRequest(pupil.plan.config.unit, refused.table, refused.address, refused.count)
            try:
                (code,) = await line.burst([(0.0, request)])
            except LineDownError:
                return
            if code == Quality.GOOD:
                log.info("meter %s no longer refuses %s %d", pupil.plan.config.id, refused.table, refused.address)
                self._teach(pupil, without(pupil.learned, refused), line)

    # ---- facts

    def _teach(self, pupil: Pupil, learned: Learned, line: Prober) -> None:
        """New facts are in force at once."""
        before = pupil.plan
        pupil.plan = with_learned(before, pupil.profile, pupil.line.address, learned)
        pupil.watches = {}
        line.replan(pupil.plan)

    async def _keep(self, pupil: Pupil) -> bool:
        return await asyncio.to_thread(self._store.save, pupil.key, pupil.learned)


def meter_keys(configuration: Configuration) -> list[MeterKey]:
    """Under which each meter's facts are kept, in the configuration's order."""
    prints = {name: fingerprint(profile) for name, profile in configuration.profiles.items()}
    return [
        MeterKey(meter.line, meter.unit, meter.profile, prints[meter.profile]) for meter in configuration.gateway.meters
    ]


def known_facts(configuration: Configuration, store: LearnedStore) -> dict[str, Learned]:
    """By meter id, what an earlier life of the agent has learned."""
    keys = meter_keys(configuration)
    known = store.load(keys)
    pairs = zip(configuration.gateway.meters, keys, strict=True)
    return {meter.id: known[key] for meter, key in pairs if key in known}


def _now_ms() -> int:
    return round(time.time() * 1000)
