"""Rollout model: a rollout as plain data: its plan, its stages, and where each gateway stands. Times are ms UTC.

docs/rollout-states.md tells every state, event and guard in words; rollout.py has the rules that change it.
"""

import hashlib
from enum import StrEnum
from typing import Final

import msgspec


class MemberState(StrEnum):
    """Where one gateway of a rollout stands."""

    QUEUED = "queued"  # waits for its stage, or for a place in it
    DEFERRED = "deferred"  # cannot be asked now: offline, or another rollout holds it; joins when it can
    OFFERED = "offered"  # was told of the release
    DOWNLOADING = "downloading"
    STAGED = "staged"  # verified and installed into the idle slot; waits for our word
    APPLYING = "applying"  # it was given the word, and switches
    VERIFYING = "verifying"  # the new version runs on trial
    COMMITTED = "committed"  # the only success: new version, new start, its meters read for the trial
    ROLLED_BACK = "rolled back"  # it went back by itself
    FAILED = "failed"  # before the switch: download, verification, space, self-test
    TIMED_OUT = "timed out"  # a step took too long
    SUPERSEDED = "superseded"  # a newer rollout took it over
    CANCELLED = "cancelled"  # the rollout was aborted
    SKIPPED = "skipped"  # left out by a person, or never seen again


WAITING: Final = frozenset({MemberState.QUEUED, MemberState.DEFERRED})
#: Nothing has changed on the gateway yet: the offer can be taken back.
HARMLESS: Final = frozenset({MemberState.OFFERED, MemberState.DOWNLOADING, MemberState.STAGED})
#: It is between two versions, and goes one way or the other.
SWITCHING: Final = frozenset({MemberState.APPLYING, MemberState.VERIFYING})
IN_FLIGHT: Final = HARMLESS | SWITCHING
FAILURES: Final = frozenset({MemberState.ROLLED_BACK, MemberState.FAILED, MemberState.TIMED_OUT})
ENDED: Final = FAILURES | {
    MemberState.COMMITTED,
    MemberState.SUPERSEDED,
    MemberState.CANCELLED,
    MemberState.SKIPPED,
}


class StageState(StrEnum):
    """Where one stage stands."""

    PENDING = "pending"
    ACTIVE = "active"  # its gateways are asked
    SOAKING = "soaking"  # all that could be reached have ended, enough of them well; the data are watched
    PASSED = "passed"
    FAILED = "failed"  # too many failures, or worse data
    INCONCLUSIVE = "inconclusive"  # too few to tell


class RolloutState(StrEnum):
    """Where the rollout as a whole stands."""

    DRAFT = "draft"  # waits for approval
    RUNNING = "running"
    PAUSED = "paused"  # starts nothing; what switches goes on to its end
    ABORTING = "aborting"  # starts nothing ever again; waits for those that switch
    TRAILING = "trailing"  # every stage has passed; gateways that were away still join
    DONE = "done"
    ABORTED = "aborted"


OVER: Final = frozenset({RolloutState.DONE, RolloutState.ABORTED})


class PauseCode(StrEnum):
    """Why a rollout is paused, for machines."""

    OPERATOR = "operator"
    APPROVAL = "approval"  # the next stage waits for a person
    FAILURES = "failures"  # the failure threshold of a stage was passed
    INCONCLUSIVE = "inconclusive"  # too few gateways to tell
    DATA = "data"  # the updated gateways' readings are worse than they should be


class Size(msgspec.Struct, frozen=True):
    """How many gateways a stage reaches, with those of the stages before: a number, or a percentage of all."""

    value: float
    percent: bool = False

    def of(self, total: int) -> int:
        """Gateways, rounded up, at most all."""
        count = -(-self.value * total // 100) if self.percent else self.value
        return min(total, int(count))

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.percent else ''}"


class Policy(msgspec.Struct, frozen=True):
    """How a rollout proceeds. Shares are 0 to 1, durations milliseconds."""

    stages: tuple[Size, ...] = (Size(1), Size(5, True), Size(25, True), Size(100, True))
    concurrency: int = 50  # gateways in flight at once, in all
    per_park: int = 0  # of one park at once; 0: no such limit
    success: float = 0.95  # of those attempted must have committed
    max_failures: float = 0.02  # of those attempted, once min_sample of them have ended
    max_failed: int = 0  # failures in one stage whatever its size; 0: no such limit
    min_sample: int = 20  # ended attempts before a share is believed; a smaller stage is judged when it is complete
    max_offline: float = 0.5  # of a stage may be away when it is judged before wait_ms is over
    wait_ms: int = 24 * 3_600_000  # how long a stage waits for gateways that are away, if too few were there
    trail_ms: int = 30 * 24 * 3_600_000  # after the last stage, for gateways that are away
    soak_ms: int = 30 * 60_000
    gate: bool = True  # the data are watched
    approve_stages: bool = False  # a person lets each stage after the first begin
    offer_ms: int = 5 * 60_000  # from the offer to the first word
    download_ms: int = 6 * 3_600_000
    apply_ms: int = 15 * 60_000
    verify_ms: int = 30 * 60_000

    def deadline_ms(self, state: MemberState) -> int | None:
        """How long a gateway may be in a state; None: for ever."""
        return {
            MemberState.OFFERED: self.offer_ms,
            MemberState.DOWNLOADING: self.download_ms,
            MemberState.APPLYING: self.apply_ms,
            MemberState.VERIFYING: self.verify_ms,
        }.get(state)


class Place(msgspec.Struct, frozen=True):
    """A gateway's place in the plan."""

    key: str  # PARK/GATEWAY
    stage: int  # from 0

    @property
    def park(self) -> str:
        """Its park."""
        return self.key.partition("/")[0]


class Plan(msgspec.Struct, frozen=True):
    """What a rollout is to do. Its hash is what is approved: another release, selection, order or policy is another."""

    release: str  # version
    artifact: str  # SHA-256 of the release's manifest, hexadecimal
    select: str  # as it was asked for
    policy: Policy
    places: tuple[Place, ...]  # in their order
    window: str = ""  # as it was asked for; empty: at any time

    def hash(self) -> str:
        """SHA-256 of all of it, hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Member(msgspec.Struct, frozen=True):
    """One gateway in a rollout."""

    key: str
    stage: int
    state: MemberState = MemberState.QUEUED
    since_ms: int = 0
    attempt: int = 0  # offers made; reports of another one count for nothing
    start_id: str = ""  # of the agent that was offered the release: another one must report it committed
    reason: str = ""

    @property
    def park(self) -> str:
        """Its park."""
        return self.key.partition("/")[0]


class Stage(msgspec.Struct, frozen=True):
    """One stage as it stands."""

    state: StageState = StageState.PENDING
    since_ms: int = 0
    accepted: int = 0  # failures that a person has accepted
    gate_accepted: bool = False  # and the worse data
    reason: str = ""


class Pause(msgspec.Struct, frozen=True):
    """Why a rollout is paused, and for how long already."""

    code: PauseCode
    told: str
    since_ms: int


class Head(msgspec.Struct, frozen=True):
    """A rollout without its members."""

    id: int
    state: RolloutState
    stages: tuple[Stage, ...]
    stage: int = 0  # the one that is under way, or the last
    pause: Pause | None = None
    since_ms: int = 0
    fenced: int = 0  # reports that came too late and changed nothing


class Offer(msgspec.Struct, frozen=True):
    """What one gateway should install, in which attempt."""

    rollout: int
    attempt: int
    release: str
    artifact: str
    go: bool  # it may switch; until then it downloads, verifies and installs into the idle slot


class Report(msgspec.Struct, frozen=True):
    """A gateway's word about an offer."""

    rollout: int
    attempt: int
    state: MemberState  # downloading, staged, applying, verifying, committed, rolled back, failed
    release: str = ""  # that runs
    start_id: str = ""  # of the agent that reports
    reason: str = ""


class Verdict(StrEnum):
    """What the data say of the updated gateways."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"  # too few readings yet


class Gate(msgspec.Struct, frozen=True):
    """A verdict in words."""

    verdict: Verdict
    told: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What the world looks like at a tick."""

    online: frozenset[str]  # gateways
    open: frozenset[str]  # those whose window is open: they may download
    quiet: frozenset[str]  # of those, the ones that may switch at this moment (rollout_window.py)
    busy: frozenset[str] = frozenset()  # those that another rollout holds
    start_ids: dict[str, str] = {}  # the agents that run
    gate: Gate = Gate(Verdict.UNKNOWN)
