"""A rollout: what each person may expect of it."""

import msgspec
import pytest

from parkfleet.controller.rollout import RolloutError
from parkfleet.controller.rollout_model import (
    IN_FLIGHT,
    Gate,
    MemberState,
    PauseCode,
    Policy,
    RolloutState,
    Size,
    StageState,
    Verdict,
)
from tests.rollout.driven import MINUTE_MS, QUICK, Driven, plan_of

State = MemberState


def begun(count: int = 12, policy: Policy = QUICK) -> Driven:
    """A rollout that was approved, and has made its first offers."""
    driven = Driven(plan_of(count, policy))
    driven.approve()
    driven.tick()
    return driven


def head_state(driven: Driven) -> tuple[RolloutState, PauseCode | None]:
    head = driven.rollout.head
    return head.state, head.pause.code if head.pause else None


def canary(driven: Driven) -> str:
    return driven.rollout.plan.places[0].key


def to_applying(driven: Driven, key: str) -> None:
    """Downloads and installs; the word to switch comes with a tick."""
    driven.work(key)
    driven.work(key)
    driven.tick()
    assert driven.state(key) is State.APPLYING


def test_all_stages_pass_when_all_is_well() -> None:
    """One gateway, then half, then all; each stage soaks; at the end everybody runs the release."""
    driven = begun()
    assert len(driven.of(*IN_FLIGHT)) == 1
    driven.run(80)
    assert head_state(driven) == (RolloutState.DONE, None)
    assert len(driven.of(State.COMMITTED)) == 12
    assert {stage.state for stage in driven.rollout.head.stages} == {StageState.PASSED}


def test_nothing_happens_before_approval_of_the_very_plan() -> None:
    """Another policy is another plan, and the approval of one is none of the other."""
    driven = Driven(plan_of(12))
    driven.tick()
    other = msgspec.structs.replace(driven.rollout.plan, window="01:00-05:00")
    with pytest.raises(RolloutError, match="not the one that was approved"):
        driven.rollout.approve(other.hash(), driven.now_ms)
    assert not driven.of(*IN_FLIGHT)


def test_canary_that_falls_back_stops_it() -> None:
    """The canary's failure pauses; nobody else is touched; resuming needs the failures in so many words."""
    driven = begun()
    key = canary(driven)
    to_applying(driven, key)
    driven.fall_back(key)
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.FAILURES)
    driven.run(60)
    assert driven.of(State.ROLLED_BACK) == [key]
    assert len(driven.of(State.QUEUED)) == 11
    with pytest.raises(RolloutError, match="--accept-failures 1"):
        driven.rollout.resume(driven.now_ms)
    driven.rollout.resume(driven.now_ms, accept_failures=1)
    driven.run(80)
    assert head_state(driven) == (RolloutState.DONE, None)


def test_success_needs_the_new_release_from_a_new_start() -> None:
    """The old agent that says committed, and a new start of the old release, are not believed."""
    driven = begun()
    key = canary(driven)
    to_applying(driven, key)
    assert not driven.say(key, State.COMMITTED)
    driven.starts[key] += 1
    assert not driven.say(key, State.COMMITTED)
    driven.releases[key] = "1.4.0"
    assert driven.say(key, State.COMMITTED)


def test_gateway_that_switches_without_our_word_does_not_count() -> None:
    """Verifying is no answer to an offer that has not been let switch."""
    driven = begun()
    key = canary(driven)
    assert not driven.say(key, State.VERIFYING)
    assert driven.state(key) is State.OFFERED


def test_late_reports_are_fenced() -> None:
    """The word of an attempt that is over changes nothing, and is counted."""
    driven = begun()
    key = canary(driven)
    driven.rollout.pause("lunch", driven.now_ms)
    driven.rollout.resume(driven.now_ms)
    driven.tick()
    assert driven.rollout.members[key].attempt == 2
    assert not driven.say(key, State.FAILED, attempt=1)
    assert driven.rollout.head.fenced == 1
    assert driven.state(key) is State.OFFERED


def test_offline_gateways_wait_and_join() -> None:
    """A stage passes without those that are away, and they get the release when they come back."""
    driven = begun()
    away = {place.key for place in driven.rollout.plan.places[4:6]}
    driven.online -= away
    driven.run(80)
    assert head_state(driven) == (RolloutState.TRAILING, None)
    assert set(driven.of(State.DEFERRED)) == away
    driven.online |= away
    driven.run(10)
    assert head_state(driven) == (RolloutState.DONE, None)


def test_stage_that_nobody_could_take_is_inconclusive() -> None:
    """An absent canary holds the rollout up until its time is over, and then asks a person."""
    driven = begun()
    driven.online.discard(canary(driven))
    driven.run(30)
    assert head_state(driven) == (RolloutState.RUNNING, None)
    driven.tick(QUICK.wait_ms)
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.INCONCLUSIVE)
    with pytest.raises(RolloutError, match="--accept"):
        driven.rollout.resume(driven.now_ms)
    driven.rollout.resume(driven.now_ms, accept=True)
    driven.run(80)
    assert head_state(driven) == (RolloutState.TRAILING, None)


def test_offline_before_the_switch_is_no_failure_vanished_after_it_is() -> None:
    """Who goes away while it downloads is asked again; who goes away after our word has failed in time."""
    driven = begun()
    key = canary(driven)
    driven.work(key)
    driven.online.discard(key)
    driven.tick()
    assert driven.state(key) is State.DEFERRED
    driven.online.add(key)
    driven.tick()
    to_applying(driven, key)
    driven.online.discard(key)
    driven.tick(QUICK.apply_ms + 1000)
    assert driven.state(key) is State.TIMED_OUT
    assert "the gateway is away" in driven.rollout.members[key].reason
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.FAILURES)


def test_closed_window_starts_and_switches_nothing() -> None:
    """A gateway that is ready when its window closes switches in the next one."""
    driven = begun()
    key = canary(driven)
    driven.work(key)
    driven.work(key)
    driven.open.clear()
    driven.tick(8 * 3_600_000)
    assert driven.state(key) is State.STAGED
    driven.open.add(key)
    driven.tick()
    assert driven.state(key) is State.APPLYING


def test_worse_data_stop_the_stage_and_name_the_meters() -> None:
    """All gateways say they are well, and their meters say otherwise."""
    driven = begun()
    driven.gate = Gate(Verdict.BAD, "m07 of park0/gw000 gave 0 % good readings, 100 % before")
    driven.run(5)
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.DATA)
    assert driven.rollout.head.pause
    assert "m07" in driven.rollout.head.pause.told
    driven.rollout.resume(driven.now_ms, accept=True)
    driven.tick(QUICK.soak_ms)
    assert driven.rollout.head.stages[0].state is StageState.PASSED


def test_soak_without_data_is_inconclusive() -> None:
    """Nothing is known of the readings: after a second soak a person is asked."""
    driven = begun()
    driven.gate = Gate(Verdict.UNKNOWN)
    driven.run(40)
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.INCONCLUSIVE)


def test_abort_starts_nothing_and_lets_switching_end() -> None:
    """Offers are taken back, who switches goes on to its end, then it is over."""
    driven = begun(12, msgspec.structs.replace(QUICK, stages=(Size(100, True),), concurrency=3))
    first, second, third = driven.of(State.OFFERED)
    to_applying(driven, first)
    driven.work(second)
    driven.rollout.abort("wrong release", driven.now_ms)
    assert head_state(driven)[0] is RolloutState.ABORTING
    assert len(driven.of(State.CANCELLED)) == 11
    assert driven.rollout.offer(second) is None and driven.rollout.offer(third) is None
    driven.run(3)
    assert driven.state(first) is State.COMMITTED
    assert head_state(driven)[0] is RolloutState.ABORTED


def test_stages_wait_for_approval_when_asked() -> None:
    """Each next stage begins when a person says so."""
    driven = begun(12, msgspec.structs.replace(QUICK, approve_stages=True))
    driven.run(30)
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.APPROVAL)
    with pytest.raises(RolloutError, match="approve it"):
        driven.rollout.resume(driven.now_ms)
    driven.approve()
    driven.run(30)
    assert driven.rollout.head.stage == 1
    assert head_state(driven) == (RolloutState.PAUSED, PauseCode.APPROVAL)


def test_newer_rollout_takes_over_who_does_not_switch() -> None:
    """Who has our word stays until it has ended; the newer rollout waits for that one gateway."""
    older = begun(6, msgspec.structs.replace(QUICK, stages=(Size(100, True),)))
    busy = older.of(State.OFFERED)[0]
    to_applying(older, busy)
    newer = Driven(plan_of(6, msgspec.structs.replace(QUICK, stages=(Size(100, True),))), number=2)
    free = older.rollout.give_up(newer.rollout.members, State.SUPERSEDED, "by rollout 2", older.now_ms)
    assert set(free) == set(older.rollout.members) - {busy}
    newer.busy = {key for key in newer.rollout.members if older.rollout.holds(key)}
    newer.approve()
    newer.tick()
    assert newer.state(busy) is State.DEFERRED
    assert not [key for key in newer.rollout.members if newer.rollout.offer(key) and older.rollout.offer(key)]
    older.run(3)
    newer.busy = {key for key in newer.rollout.members if older.rollout.holds(key)}
    newer.tick()
    assert newer.state(busy) is State.OFFERED


def test_retry_asks_the_failed_once_more() -> None:
    """A failed download is tried again without accepting anything."""
    driven = begun()
    key = canary(driven)
    driven.say(key, State.FAILED, reason="disk full")
    assert driven.rollout.retry([key, "nobody/here"], driven.now_ms) == [key]
    driven.rollout.resume(driven.now_ms)
    driven.run(80)
    assert head_state(driven) == (RolloutState.DONE, None)


def test_park_limit_holds() -> None:
    """Never both boxes of a park at once."""
    policy = msgspec.structs.replace(QUICK, stages=(Size(100, True),), per_park=1)
    driven = begun(12, policy)
    for _ in range(60):
        driven.tick(MINUTE_MS)
        parks = [key.partition("/")[0] for key in driven.of(*IN_FLIGHT)]
        assert len(parks) == len(set(parks))
        for key in sorted(driven.online):
            driven.work(key)
    assert head_state(driven)[0] is RolloutState.DONE
