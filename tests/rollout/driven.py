"""Driven: a rollout with the shell around it that writes changes down, and gateways that do as they are told."""

import msgspec

from parkfleet.controller.rollout import Rollout
from parkfleet.controller.rollout_model import (
    Facts,
    Gate,
    Head,
    Member,
    MemberState,
    Plan,
    Policy,
    Report,
    Size,
    Verdict,
)
from parkfleet.controller.rollout_order import Candidate, ordered, places

MINUTE_MS = 60_000
OLD, NEW = "1.3.0", "1.4.0"
GOOD = Gate(Verdict.GOOD)
QUICK = Policy(stages=(Size(1), Size(50, True), Size(100, True)), soak_ms=10 * MINUTE_MS, min_sample=5)


def plan_of(count: int, policy: Policy = QUICK, parks: int = 3) -> Plan:
    """So many gateways, dealt over the parks."""
    candidates = [Candidate(f"park{number % parks}/gw{number:03}", "rpi") for number in range(count)]
    return Plan(NEW, "ab" * 32, "all", policy, places(ordered(candidates, "salt"), policy.stages))


class Driven:
    """A rollout, the clock, and what was written down."""

    def __init__(self, plan: Plan, number: int = 1) -> None:
        self.now_ms = 1_000_000
        self.rollout = Rollout.new(number, plan, self.now_ms)
        self.online = {place.key for place in plan.places}
        self.open = set(self.online)
        self.busy: set[str] = set()
        self.starts = dict.fromkeys(self.online, 1)
        self.releases = dict.fromkeys(self.online, OLD)
        self.gate = GOOD
        self._head = b""
        self._members: dict[str, bytes] = {}
        self.write()

    @property
    def policy(self) -> Policy:
        return self.rollout.plan.policy

    def write(self) -> None:
        """As the store does: the changed members and the head."""
        for member in self.rollout.take_changes():
            self._members[member.key] = msgspec.json.encode(member)
        self._head = msgspec.json.encode(self.rollout.head)

    def restart(self) -> None:
        """The controller ends at once, and begins anew from what was written."""
        head = msgspec.json.decode(self._head, type=Head)
        members = [msgspec.json.decode(text, type=Member) for text in self._members.values()]
        plan = msgspec.json.decode(msgspec.json.encode(self.rollout.plan), type=Plan)
        self.rollout = Rollout(plan, head, members)

    def approve(self) -> None:
        self.rollout.approve(self.rollout.plan.hash(), self.now_ms)
        self.write()

    def tick(self, after_ms: int = 1000) -> None:
        self.now_ms += after_ms
        starts = {key: str(start) for key, start in self.starts.items()}
        online = frozenset(self.online)
        opened = frozenset(self.open)
        facts = Facts(online, opened, opened, frozenset(self.busy), starts, self.gate)
        self.rollout.tick(self.now_ms, facts)
        self.write()

    def say(self, key: str, state: MemberState, attempt: int | None = None, reason: str = "") -> bool:
        """A gateway reports; of its own attempt, unless told."""
        if attempt is None:
            attempt = self.rollout.members[key].attempt
        report = Report(self.rollout.head.id, attempt, state, self.releases[key], str(self.starts[key]), reason)
        changed = self.rollout.report(report, key, self.now_ms)
        self.write()
        return changed

    def work(self, key: str) -> None:
        """A gateway does the next thing that its offer asks of it."""
        match self.state(key):
            case MemberState.OFFERED if self.releases[key] == NEW:
                self.say(key, MemberState.COMMITTED)
            case MemberState.OFFERED:
                self.say(key, MemberState.DOWNLOADING)
            case MemberState.DOWNLOADING:
                self.say(key, MemberState.STAGED)
            case MemberState.APPLYING:
                self.starts[key] += 1
                self.releases[key] = NEW
                self.say(key, MemberState.VERIFYING)
            case MemberState.VERIFYING:
                self.say(key, MemberState.COMMITTED)
            case _:
                pass

    def fall_back(self, key: str) -> None:
        """The new version does not work there."""
        self.starts[key] += 1
        self.releases[key] = OLD
        self.say(key, MemberState.ROLLED_BACK, reason="3 starts within 60 s")

    def state(self, key: str) -> MemberState:
        return self.rollout.members[key].state

    def of(self, *states: MemberState) -> list[str]:
        """Gateways that stand so."""
        return sorted(member.key for member in self.rollout.members.values() if member.state in states)

    def run(self, minutes: int) -> None:
        """Everybody works, for so long."""
        for _ in range(minutes):
            self.tick(MINUTE_MS)
            for key in sorted(self.online):
                self.work(key)
