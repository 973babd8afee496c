"""Rollout: the way of one release through the fleet. Pure state: no I/O, no clock; every event brings its time.

Invariants:
- an offer stands exactly while its member is in flight, and names the member's attempt; reports of another attempt
  change nothing;
- nothing is offered unless the rollout runs or trails, and never to more than the policy's concurrency;
- a stage whose failures pass the threshold pauses the rollout in the same event;
- only a report of the new release by another start of the agent commits a member;
- whatever switches ends: each step has its time, and a member that is over stays over, but for retry();
- no gateway switches without our word for its attempt: until then every offer can be taken back without a race.

Who drives it writes the changed members and the head (take_changes) before anybody is told of them; the offers are
derived from what is written, so that a crash at any point loses nothing and does nothing twice.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from parkfleet.controller.rollout_judge import Counts, Judgement, judge
from parkfleet.controller.rollout_model import (
    FAILURES,
    HARMLESS,
    IN_FLIGHT,
    OVER,
    SWITCHING,
    WAITING,
    Facts,
    Gate,
    Head,
    Member,
    MemberState,
    Offer,
    Pause,
    PauseCode,
    Plan,
    Report,
    RolloutState,
    Stage,
    StageState,
    Verdict,
)

#: What a report may move a member on to, by where it stands. Words can be lost, so steps may be skipped; but nobody
#: switches without our word (APPLYING), and no end but failure comes before it, unless the release ran already.
_ENDS: Final = frozenset({MemberState.COMMITTED, MemberState.ROLLED_BACK, MemberState.FAILED})
_NEXT: Final = {
    MemberState.OFFERED: _ENDS | {MemberState.DOWNLOADING, MemberState.STAGED},
    MemberState.DOWNLOADING: _ENDS | {MemberState.STAGED},
    MemberState.STAGED: _ENDS,
    MemberState.APPLYING: _ENDS | {MemberState.VERIFYING},
    MemberState.VERIFYING: _ENDS,
}
_STARTING: Final = frozenset({RolloutState.RUNNING, RolloutState.TRAILING})
#: Characters of a gateway's reason that are kept.
MAX_REASON: Final = 500


class RolloutError(Exception):
    """What was asked cannot be done as the rollout stands; the message says why, for the operator."""


class Rollout:
    """One rollout. Made by new(), or of what was written."""

    def __init__(self, plan: Plan, head: Head, members: Iterable[Member]) -> None:
        self.plan = plan
        self.head = head
        self.members = {member.key: member for member in members}
        self._counts = [Counts() for _ in head.stages]
        self._in_flight: dict[str, Member] = {}
        self._waiting: list[dict[str, Member]] = [{} for _ in head.stages]  # by stage
        self._changed: set[str] = set()
        for place in plan.places:
            self._note(self.members[place.key], 1)

    @classmethod
    def new(cls, number: int, plan: Plan, now_ms: int) -> "Rollout":
        """A rollout that waits for its approval."""
        count = max((place.stage for place in plan.places), default=-1) + 1
        head = Head(number, RolloutState.DRAFT, tuple(Stage() for _ in range(count)), since_ms=now_ms)
        rollout = cls(plan, head, (Member(place.key, place.stage, since_ms=now_ms) for place in plan.places))
        rollout._changed = set(rollout.members)
        return rollout

    def take_changes(self) -> list[Member]:
        """The members that have changed since the last call."""
        changed, self._changed = self._changed, set()
        return [self.members[key] for key in sorted(changed)]

    def counts(self, stage: int) -> Counts:
        """How a stage's members stand."""
        return self._counts[stage]

    def offer(self, key: str) -> Offer | None:
        """What a gateway should install now; None: nothing of this rollout."""
        member = self.members.get(key)
        if member is None or member.state not in IN_FLIGHT:
            return None
        go = member.state in SWITCHING
        return Offer(self.head.id, member.attempt, self.plan.release, self.plan.artifact, go)

    def holds(self, key: str) -> bool:
        """Whether no other rollout may touch a gateway now."""
        return key in self._in_flight

    # What people do.

    def approve(self, plan_hash: str, now_ms: int) -> None:
        """Lets it start, or its next stage begin. The hash is of the plan that was seen. Raises RolloutError."""
        if plan_hash != self.plan.hash():
            raise RolloutError("the plan is not the one that was approved: look at it again")
        if self.head.state is RolloutState.DRAFT:
            if not self.head.stages:
                raise RolloutError("the selection has no gateway")
            self._enter(RolloutState.RUNNING, now_ms)
            self._stage(0, StageState.ACTIVE, now_ms)
        elif self.head.pause and self.head.pause.code is PauseCode.APPROVAL:
            self._enter(RolloutState.RUNNING, now_ms)
            self._begin_next(now_ms)
        else:
            raise RolloutError(f"there is nothing to approve: the rollout is {self._told_state()}")

    def pause(self, told: str, now_ms: int) -> None:
        """Starts nothing more until resumed; offers that nobody has taken up are taken back. Raises RolloutError."""
        if self.head.state not in _STARTING:
            raise RolloutError(f"it cannot be paused: the rollout is {self._told_state()}")
        self._pause(PauseCode.OPERATOR, told, now_ms)

    def resume(self, now_ms: int, accept_failures: int | None = None, accept: bool = False) -> None:
        """Goes on. What stopped it must be accepted in so many words. Raises RolloutError."""
        if self.head.state is not RolloutState.PAUSED or self.head.pause is None:
            raise RolloutError(f"it is not paused: the rollout is {self._told_state()}")
        match self.head.pause.code:
            case PauseCode.APPROVAL:
                raise RolloutError("the next stage waits for approval: approve it")
            case PauseCode.FAILURES:
                self._accept_failures(accept_failures, now_ms)
            case PauseCode.DATA | PauseCode.INCONCLUSIVE as code:
                if not accept:
                    raise RolloutError(
                        f"the stage is {code.value}: {self.head.pause.told}. Resume with --accept, or abort"
                    )
                stage = self.head.stages[self.head.stage]
                accepted = msgspec.structs.replace(stage, gate_accepted=True)
                passed = StageState.SOAKING if code is PauseCode.DATA else StageState.PASSED
                self._put_stage(self.head.stage, msgspec.structs.replace(accepted, state=passed, since_ms=now_ms))
        self._enter(RolloutState.RUNNING, now_ms)
        if self.head.stages[self.head.stage].state is StageState.PASSED:
            self._passed(now_ms)

    def abort(self, told: str, now_ms: int) -> None:
        """Starts nothing ever again. What switches goes on to its end, everything else is taken back."""
        if self.head.state in OVER or self.head.state is RolloutState.ABORTING:
            raise RolloutError(f"it cannot be aborted: the rollout is {self._told_state()}")
        for member in list(self.members.values()):
            if member.state in WAITING | HARMLESS:
                self._move(member, MemberState.CANCELLED, now_ms, told)
        self._enter(RolloutState.ABORTING, now_ms)
        self._settle(now_ms)

    def retry(self, keys: Iterable[str], now_ms: int) -> list[str]:
        """Asks failed gateways once more; those that were. Raises RolloutError when the rollout is over."""
        if self.head.state in OVER or self.head.state in (RolloutState.ABORTING, RolloutState.DRAFT):
            raise RolloutError(f"nothing can be tried again: the rollout is {self._told_state()}")
        asked = [self.members[key] for key in keys if key in self.members]
        failed = [member for member in asked if member.state in FAILURES]
        for member in failed:
            self._move(member, MemberState.QUEUED, now_ms, "tried again")
        return [member.key for member in failed]

    def give_up(self, keys: Iterable[str], state: MemberState, told: str, now_ms: int) -> list[str]:
        """Leaves gateways to a newer rollout (SUPERSEDED) or out (SKIPPED); those that could be, now.

        One that switches stays until it has ended: the newer rollout waits for it.
        """
        found = (self.members[key] for key in keys if key in self.members)
        free = [member for member in found if member.state in WAITING | HARMLESS]
        for member in free:
            self._move(member, state, now_ms, told)
        self._judge(now_ms)
        return [member.key for member in free]

    # What gateways and time do.

    def report(self, report: Report, key: str, now_ms: int) -> bool:
        """A gateway's word; whether it changed anything."""
        member = self.members.get(key)
        if member is None or report.attempt != member.attempt or member.state not in IN_FLIGHT:
            self.head = msgspec.structs.replace(self.head, fenced=self.head.fenced + 1)
            return False
        state = report.state
        if state not in _NEXT[member.state] or (state is MemberState.COMMITTED and not self._believed(member, report)):
            return False
        self._move(member, state, now_ms, report.reason[:MAX_REASON])
        self._judge(now_ms)
        self._settle(now_ms)
        return True

    def tick(self, now_ms: int, facts: Facts) -> None:
        """Time has passed: steps end, stages are judged, free places are filled."""
        for member in list(self._in_flight.values()):
            self._watch(member, now_ms, facts)
        if self.head.state in _STARTING:
            self._defer(now_ms, facts)
            self._judge(now_ms, facts.gate)
        if self.head.state in _STARTING:
            self._let_switch(now_ms, facts)
            self._fill(now_ms, facts)
        self._settle(now_ms)

    def _watch(self, member: Member, now_ms: int, facts: Facts) -> None:
        """One gateway in flight: away before anything changed is no failure; too long in a step is one."""
        if member.key not in facts.online and member.state in HARMLESS:
            self._move(member, MemberState.DEFERRED, now_ms, "offline")
            return
        limit_ms = self.plan.policy.deadline_ms(member.state)
        if limit_ms is not None and now_ms - member.since_ms > limit_ms:
            away = "" if member.key in facts.online else ", and the gateway is away"
            self._move(member, MemberState.TIMED_OUT, now_ms, f"{member.state.value} for {limit_ms // 1000} s{away}")

    def _defer(self, now_ms: int, facts: Facts) -> None:
        """Who waits and cannot be asked is told apart from who waits for a place."""
        for member in self._asked():
            key = member.key
            why = "offline" if key not in facts.online else "another rollout holds it" if key in facts.busy else ""
            state = MemberState.DEFERRED if why else MemberState.QUEUED
            if (member.state, member.reason) != (state, why) and (why or member.state is MemberState.DEFERRED):
                self._move(member, state, now_ms, why)

    def _let_switch(self, now_ms: int, facts: Facts) -> None:
        """Gives the word to those that are ready; from here on there is no taking back."""
        for member in list(self._in_flight.values()):
            if member.state is MemberState.STAGED and member.key in facts.quiet:
                self._move(member, MemberState.APPLYING, now_ms, "")

    def _asked(self) -> list[Member]:
        """Who waits, of the stages that have begun; the earlier stages first."""
        return [member for waiting in self._waiting[: self.head.stage + 1] for member in waiting.values()]

    def _fill(self, now_ms: int, facts: Facts) -> None:
        """Offers the release to the next in line, as far as there are places."""
        policy = self.plan.policy
        parks: dict[str, int] = {}
        for member in self._in_flight.values():
            parks[member.park] = parks.get(member.park, 0) + 1
        for member in self._asked():
            if len(self._in_flight) >= policy.concurrency:
                return
            held = policy.per_park and parks.get(member.park, 0) >= policy.per_park
            if member.state is not MemberState.QUEUED or member.key not in facts.open or held:
                continue
            parks[member.park] = parks.get(member.park, 0) + 1
            start_id = facts.start_ids.get(member.key, "")
            offered = msgspec.structs.replace(member, attempt=member.attempt + 1, start_id=start_id)
            self._move(offered, MemberState.OFFERED, now_ms, "")

    # What follows.

    def _believed(self, member: Member, report: Report) -> bool:
        """Whether a report of success is one: the new release, by another start of the agent than was asked.

        A gateway that ran the release already when it was asked has no other start to show.
        """
        ran_already = member.state in HARMLESS
        return report.release == self.plan.release and (ran_already or report.start_id != member.start_id)

    def _judge(self, now_ms: int, gate: Gate | None = None) -> None:
        """Looks at the stages that have begun, and does what their judgement says."""
        if self.head.state not in _STARTING:
            return
        policy = self.plan.policy
        for number in range(self.head.stage + 1):
            stage, counts = self.head.stages[number], self._counts[number]
            if told := counts.too_many(policy, stage.accepted):
                self._end_stage(number, StageState.FAILED, PauseCode.FAILURES, told, now_ms)
                return
        stage = self.head.stages[self.head.stage]
        match judge(stage, self._counts[self.head.stage], policy, gate, now_ms):
            case Judgement(StageState.SOAKING, _):
                self._stage(self.head.stage, StageState.SOAKING, now_ms)
            case Judgement(StageState.PASSED, _):
                self._stage(self.head.stage, StageState.PASSED, now_ms)
                self._passed(now_ms)
            case Judgement(StageState.INCONCLUSIVE, told):
                self._end_stage(self.head.stage, StageState.INCONCLUSIVE, PauseCode.INCONCLUSIVE, told, now_ms)
            case Judgement(StageState.FAILED, told):
                bad_data = gate is not None and gate.verdict is Verdict.BAD
                code = PauseCode.DATA if bad_data else PauseCode.FAILURES
                self._end_stage(self.head.stage, StageState.FAILED, code, told, now_ms)
            case _:
                pass

    def _passed(self, now_ms: int) -> None:
        """The stage under way has passed: the next, when nobody must approve it; or the end."""
        if self.head.stage + 1 == len(self.head.stages):
            self._enter(RolloutState.TRAILING, now_ms)
        elif self.plan.policy.approve_stages:
            self._pause(PauseCode.APPROVAL, f"stage {self.head.stage + 2} waits for approval", now_ms)
        else:
            self._begin_next(now_ms)

    def _begin_next(self, now_ms: int) -> None:
        self.head = msgspec.structs.replace(self.head, stage=self.head.stage + 1)
        self._stage(self.head.stage, StageState.ACTIVE, now_ms)

    def _end_stage(self, number: int, state: StageState, code: PauseCode, told: str, now_ms: int) -> None:
        self._put_stage(
            number, msgspec.structs.replace(self.head.stages[number], state=state, since_ms=now_ms, reason=told)
        )
        self._pause(code, f"stage {number + 1}: {told}", now_ms)

    def _accept_failures(self, accepted: int | None, now_ms: int) -> None:
        """The failures so far are known and borne."""
        failed = [number for number, stage in enumerate(self.head.stages) if stage.state is StageState.FAILED]
        there = max(self._counts[number].failures for number in failed)
        if there and (accepted is None or accepted < there):
            raise RolloutError(f"{there} gateways have failed: resume with --accept-failures {there}, or abort")
        for number in failed:
            back = StageState.ACTIVE if number == self.head.stage else StageState.PASSED
            stage = msgspec.structs.replace(
                self.head.stages[number], state=back, since_ms=now_ms, accepted=self._counts[number].failures, reason=""
            )
            self._put_stage(number, stage)

    def _settle(self, now_ms: int) -> None:
        """Ends what has nothing left to wait for."""
        state = self.head.state
        if state is RolloutState.ABORTING and not self._in_flight:
            self._enter(RolloutState.ABORTED, now_ms)
        elif state is RolloutState.TRAILING and not self._in_flight:
            waiting = self._asked()
            if waiting and now_ms - self.head.since_ms <= self.plan.policy.trail_ms:
                return
            for member in waiting:
                self._move(member, MemberState.SKIPPED, now_ms, "did not come back in time")
            self._enter(RolloutState.DONE, now_ms)

    def _pause(self, code: PauseCode, told: str, now_ms: int) -> None:
        for member in list(self._in_flight.values()):
            if member.state is MemberState.OFFERED:
                self._move(member, MemberState.QUEUED, now_ms, "the rollout was paused")
        self._enter(RolloutState.PAUSED, now_ms, Pause(code, told, now_ms))

    def _enter(self, state: RolloutState, now_ms: int, pause: Pause | None = None) -> None:
        self.head = msgspec.structs.replace(self.head, state=state, since_ms=now_ms, pause=pause)

    def _stage(self, number: int, state: StageState, now_ms: int) -> None:
        self._put_stage(number, msgspec.structs.replace(self.head.stages[number], state=state, since_ms=now_ms))

    def _put_stage(self, number: int, stage: Stage) -> None:
        stages = (*self.head.stages[:number], stage, *self.head.stages[number + 1 :])
        self.head = msgspec.structs.replace(self.head, stages=stages)

    def _move(self, member: Member, state: MemberState, now_ms: int, reason: str) -> None:
        self._note(self.members[member.key], -1)
        moved = msgspec.structs.replace(member, state=state, since_ms=now_ms, reason=reason)
        self.members[member.key] = moved
        self._changed.add(member.key)
        self._note(moved, 1)

    def _note(self, member: Member, sign: int) -> None:
        """Keeps the counts and the two indexes in step with one member."""
        self._counts[member.stage].add(member.state, sign)
        for index, states in ((self._in_flight, IN_FLIGHT), (self._waiting[member.stage], WAITING)):
            if member.state in states and sign > 0:
                index[member.key] = member
            elif member.state in states:
                del index[member.key]

    def _told_state(self) -> str:
        pause = self.head.pause
        return f"{self.head.state.value} ({pause.told})" if pause else self.head.state.value
