"""Random walks over a rollout: whatever happens, in whatever order, its promises hold; the controller may be killed
between any two events."""

import random
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parkfleet.controller.rollout import RolloutError
from parkfleet.controller.rollout_model import (
    FAILURES,
    IN_FLIGHT,
    OVER,
    SWITCHING,
    Gate,
    MemberState,
    RolloutState,
    Size,
    Verdict,
)
from tests.rollout.driven import MINUTE_MS, QUICK, Driven, plan_of

COUNT = 14
POLICY = msgspec.structs.replace(
    QUICK,
    stages=(Size(2), Size(8), Size(100, True)),
    concurrency=4,
    per_park=3,
    max_failures=0.2,
    min_sample=3,
    soak_ms=MINUTE_MS,
)
KEYS = [place.key for place in plan_of(COUNT, POLICY).places]
A_KEY = st.sampled_from(KEYS)
STARTING = (RolloutState.RUNNING, RolloutState.TRAILING)


class Walk(RuleBasedStateMachine):
    """Everything that people, gateways, links and power do."""

    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven(plan_of(COUNT, POLICY))
        self.attempts = dict.fromkeys(KEYS, 0)
        self.aborted = False
        self.driven.approve()

    @property
    def head(self) -> Any:
        return self.driven.rollout.head

    def told(self, *arguments: Any, **named: Any) -> None:
        """A person's command, which may be refused with a sentence and then changes nothing."""
        name, *rest = arguments
        before = (self.driven.rollout.head, dict(self.driven.rollout.members))
        try:
            getattr(self.driven.rollout, name)(*rest, now_ms=self.driven.now_ms, **named)
        except RolloutError as error:
            assert str(error)
            assert before == (self.driven.rollout.head, self.driven.rollout.members)
        else:
            self.aborted |= name == "abort"
        self.driven.write()

    @rule(after_ms=st.sampled_from([1000, MINUTE_MS, 20 * MINUTE_MS, 6 * 3_600_000]))
    def tick(self, after_ms: int) -> None:
        self.driven.tick(after_ms)

    @rule(key=A_KEY)
    def work(self, key: str) -> None:
        if key in self.driven.online:
            self.driven.work(key)

    @rule(rounds=st.integers(1, 12))
    def everybody_works(self, rounds: int) -> None:
        self.driven.run(rounds)

    @rule(chance=st.randoms(use_true_random=False), most=st.integers(1, 4))
    def fall_back(self, chance: random.Random, most: int) -> None:
        switching = self.driven.of(*SWITCHING)
        for key in chance.sample(switching, min(most, len(switching))):
            self.driven.fall_back(key)

    @rule(key=A_KEY, state=st.sampled_from(MemberState), attempt=st.integers(0, 4))
    def say_anything(self, key: str, state: MemberState, attempt: int) -> None:
        before = self.driven.rollout.members[key]
        changed = self.driven.say(key, state, attempt)
        assert not changed or (attempt == before.attempt and before.state in IN_FLIGHT)

    @rule(key=A_KEY)
    def come_and_go(self, key: str) -> None:
        self.driven.online ^= {key}

    @rule(key=A_KEY)
    def window(self, key: str) -> None:
        self.driven.open ^= {key}

    @rule(key=A_KEY)
    def another_rollout(self, key: str) -> None:
        self.driven.busy ^= {key}

    @rule(
        gate=st.sampled_from([Gate(Verdict.GOOD), Gate(Verdict.GOOD), Gate(Verdict.UNKNOWN), Gate(Verdict.BAD, "m1")])
    )
    def data(self, gate: Gate) -> None:
        self.driven.gate = gate

    @rule()
    def pause(self) -> None:
        self.told("pause", "because")

    @rule(accept=st.booleans(), failures=st.one_of(st.none(), st.integers(0, COUNT)))
    def resume(self, accept: bool, failures: int | None) -> None:
        self.told("resume", accept=accept, accept_failures=failures)

    @rule()
    @precondition(lambda self: self.head.stage > 0)
    def abort(self) -> None:
        self.told("abort", "because")

    @rule(keys=st.sets(A_KEY))
    def retry(self, keys: set[str]) -> None:
        self.told("retry", keys)

    @rule(keys=st.sets(A_KEY, max_size=2))
    def supersede(self, keys: set[str]) -> None:
        self.told("give_up", keys, MemberState.SUPERSEDED, "by a newer one")

    @rule()
    def power_cut(self) -> None:
        before = (self.driven.rollout.head, self.driven.rollout.members)
        self.driven.restart()
        assert before == (self.driven.rollout.head, self.driven.rollout.members)

    @invariant()
    def offers_are_bounded_and_named(self) -> None:
        rollout = self.driven.rollout
        in_flight = [member for member in rollout.members.values() if member.state in IN_FLIGHT]
        assert len(in_flight) <= POLICY.concurrency
        for member in rollout.members.values():
            offer = rollout.offer(member.key)
            assert (offer is not None) == (member.state in IN_FLIGHT)
            assert offer is None or (offer.attempt, offer.go) == (member.attempt, member.state in SWITCHING)
            assert member.stage <= self.head.stage or member.attempt == 0

    @invariant()
    def nothing_starts_unless_it_may(self) -> None:
        offered = set(self.driven.of(MemberState.OFFERED))
        if self.head.state not in STARTING:
            assert not offered
        if self.aborted:
            assert self.head.state in (RolloutState.ABORTING, RolloutState.ABORTED)
            assert not self.driven.of(MemberState.QUEUED, MemberState.DEFERRED, MemberState.DOWNLOADING)

    @invariant()
    def no_threshold_is_passed_unseen(self) -> None:
        """Nobody is offered the release while more have failed than may."""
        attempts = {member.key: member.attempt for member in self.driven.rollout.members.values()}
        anew = [key for key in KEYS if attempts[key] > self.attempts[key]]
        assert all(attempts[key] >= self.attempts[key] for key in KEYS)
        self.attempts = attempts
        for number in range(self.head.stage + 1 if anew else 0):
            assert not self.driven.rollout.counts(number).too_many(POLICY, self.head.stages[number].accepted)

    @invariant()
    def counts_agree(self) -> None:
        members = self.driven.rollout.members.values()
        for number in range(len(self.head.stages)):
            counts = self.driven.rollout.counts(number)
            failures = sum(member.state in FAILURES for member in members if member.stage == number)
            assert counts.failures == failures

    def teardown(self) -> None:
        """From wherever the walk ended: abort, let time pass, and it is over."""
        if self.head.state not in OVER:
            self.told("abort", "the end")
            self.driven.tick(24 * 3_600_000)
        assert self.head.state in OVER
        assert not [key for key in KEYS if self.driven.rollout.offer(key)]


Walk.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestWalk = Walk.TestCase
