"""Judgement: whether a stage has passed, failed, or says nothing. Pure.

Failures are counted over gateways that were attempted and ended; who was away when asked is no failure, and is counted
apart. A share of fewer than min_sample ended attempts is believed only in a stage that is not larger.
"""

import math
from collections import Counter
from typing import NamedTuple

from parkfleet.controller.rollout_model import (
    FAILURES,
    IN_FLIGHT,
    Gate,
    MemberState,
    Policy,
    Stage,
    StageState,
    Verdict,
)

_LEFT_OUT = (MemberState.SUPERSEDED, MemberState.CANCELLED, MemberState.SKIPPED)


class Counts:
    """How many members of a stage stand where."""

    def __init__(self) -> None:
        self._by: Counter[MemberState] = Counter()

    def add(self, state: MemberState, number: int) -> None:
        """So many more (or fewer) in a state."""
        self._by[state] += number

    def of(self, *states: MemberState) -> int:
        """Members in any of the states."""
        return sum(self._by[state] for state in states)

    @property
    def total(self) -> int:
        """Members that were not left out."""
        return sum(self._by.values()) - self.of(*_LEFT_OUT)

    @property
    def committed(self) -> int:
        """The successes."""
        return self._by[MemberState.COMMITTED]

    @property
    def failures(self) -> int:
        """Those that were attempted in vain."""
        return self.of(*FAILURES)

    @property
    def attempted(self) -> int:
        """Those whose attempt has ended, well or not."""
        return self.committed + self.failures

    @property
    def in_flight(self) -> int:
        """Those that are between the offer and its end."""
        return self.of(*IN_FLIGHT)

    @property
    def away(self) -> int:
        """Those that cannot be asked now."""
        return self._by[MemberState.DEFERRED]

    def sample(self, policy: Policy) -> int:
        """Ended attempts from which on a share is believed: in a small stage, all but those that may be away."""
        return min(policy.min_sample, math.ceil(self.total * (1 - policy.max_offline)))

    def too_many(self, policy: Policy, accepted: int) -> str:
        """Whether the failures, but for those accepted, pass the threshold: a sentence, or nothing."""
        failures = self.failures - accepted
        if failures <= 0:
            return ""
        if policy.max_failed and failures > policy.max_failed:
            return f"{failures} gateways failed, more than {policy.max_failed}"
        if self.attempted >= self.sample(policy) and failures > policy.max_failures * self.attempted:
            return f"{failures} of {self.attempted} gateways failed, more than {policy.max_failures:.3g} of them"
        return ""


class Judgement(NamedTuple):
    """What a stage becomes, and why."""

    state: StageState
    told: str = ""


def judge(stage: Stage, counts: Counts, policy: Policy, gate: Gate | None, now_ms: int) -> Judgement | None:
    """What a stage that is under way becomes; None: it goes on. gate None: nobody has looked at the data now."""
    if stage.state not in (StageState.ACTIVE, StageState.SOAKING):
        return None
    if policy.gate and gate is not None and gate.verdict is Verdict.BAD and not stage.gate_accepted:
        return Judgement(StageState.FAILED, gate.told)
    waited_ms = now_ms - stage.since_ms
    if stage.state is StageState.SOAKING:
        return _soaked(stage, policy, gate, waited_ms)
    if counts.in_flight or counts.of(MemberState.QUEUED):
        return None
    if not counts.total:
        return Judgement(StageState.PASSED)
    if counts.attempted and counts.committed + stage.accepted < policy.success * counts.attempted:
        told = f"{counts.committed} of {counts.attempted} gateways committed, fewer than {policy.success:.3g} of them"
        small = counts.attempted < counts.sample(policy)
        return Judgement(StageState.INCONCLUSIVE if small else StageState.FAILED, told)
    if counts.attempted < counts.sample(policy) or counts.away > policy.max_offline * counts.total:
        told = f"{counts.away} of {counts.total} gateways are away, {counts.committed} committed"
        return Judgement(StageState.INCONCLUSIVE, told) if waited_ms >= policy.wait_ms else None
    return Judgement(StageState.SOAKING)


def _soaked(stage: Stage, policy: Policy, gate: Gate | None, waited_ms: int) -> Judgement | None:
    """At the end of the soak the data must be good; unknown, they have as long again."""
    if waited_ms < policy.soak_ms or (gate is None and policy.gate):
        return None
    if not policy.gate or stage.gate_accepted or (gate and gate.verdict is Verdict.GOOD):
        return Judgement(StageState.PASSED)
    if waited_ms < 2 * policy.soak_ms:
        return None
    assert gate is not None
    return Judgement(StageState.INCONCLUSIVE, gate.told or "too few readings to judge the data by")
