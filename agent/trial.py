"""Trial: the way of a configuration from the controller until it is confirmed or given up. Pure.

A new configuration is staged, then tried, then confirmed or given up; what was confirmed last is what the gateway
returns to. The ledger says where a gateway stands. It is written to the disk before each deed: whatever ends the agent,
the next start knows what to run:
- staged, and not tried yet: it is tried now;
- on trial: it is tried once more, and given up when the agent ends a second time within its trial;
- confirmed: it runs.
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from parkfleet.agent.status import ConfigurationName

#: A configuration may end the agent once within its trial (a power cut, an update), not twice. Starts.
MAX_STARTS: Final = 2

#: The installer's own file.
LOCAL: Final = ConfigurationName()


class Phase(Enum):
    """Where the newest configuration stands."""

    SETTLED = "settled"  # there is none but the confirmed one
    STAGED = "staged"  # it is on the disk, checked
    TRIAL = "trial"  # it runs, and must prove itself


@dataclass(frozen=True)
class Baseline:
    """How the gateway fared before the change."""

    controller: bool = False  # was connected
    broker: bool = False
    meters: frozenset[str] = frozenset()  # that answered


@dataclass(frozen=True)
class Observation:
    """How a gateway fares, since its configuration began to run."""

    controller: bool = False  # a session is open
    controller_told: str = ""  # why not
    broker: bool = False  # connected
    broker_told: str = ""
    acknowledged: int = 0  # batches
    waiting: int = 0  # batches that were not acknowledged yet
    answered: frozenset[str] = frozenset()  # meters that gave a value
    bad: frozenset[str] = frozenset()  # meters that do not answer now

    def baseline(self) -> Baseline:
        """What the next configuration must not be worse than."""
        return Baseline(self.controller, self.broker, self.answered - self.bad)


@dataclass(frozen=True)
class Ledger:
    """What a gateway knows of its configurations. Names of revision 0 mean the installer's own file."""

    confirmed: ConfigurationName = LOCAL
    phase: Phase = Phase.SETTLED
    candidate: ConfigurationName | None = None  # while it is staged or on trial
    starts: int = 0  # of the agent with the candidate
    before: Baseline = Baseline()  # the candidate
    received: ConfigurationName | None = None
    failed: ConfigurationName | None = None
    failure: str = ""  # why

    @property
    def running(self) -> ConfigurationName:
        """What runs, or is to run."""
        return self.candidate if self.phase is Phase.TRIAL and self.candidate else self.confirmed


def is_wanted(ledger: Ledger, name: ConfigurationName) -> bool:
    """Whether there is something to do for a configuration that the controller offers.

    A candidate that is not confirmed yet gives way to a newer one.
    """
    return name not in (ledger.failed, ledger.candidate, ledger.confirmed)


def renamed(ledger: Ledger, name: ConfigurationName) -> Ledger | None:
    """The confirmed configuration goes by a new revision with the same words; None when it is not that."""
    if ledger.phase is not Phase.SETTLED or ledger.confirmed.hash != name.hash or not ledger.confirmed.revision:
        return None
    return replace(ledger, confirmed=name, received=name)


def staged(ledger: Ledger, name: ConfigurationName) -> Ledger:
    """A configuration is on the disk and has passed its checks."""
    return replace(ledger, phase=Phase.STAGED, candidate=name, starts=0, received=name)


def tried(ledger: Ledger, before: Baseline | None = None) -> Ledger:
    """The candidate is about to run. before: how the gateway fares now, None: as the ledger has it already."""
    assert ledger.candidate is not None
    return replace(ledger, phase=Phase.TRIAL, starts=ledger.starts + 1, before=before or ledger.before)


def confirmed(ledger: Ledger) -> Ledger:
    """The candidate has proved itself."""
    assert ledger.candidate is not None
    return replace(_settled(ledger), confirmed=ledger.candidate)


def given_up(ledger: Ledger, name: ConfigurationName, why: str) -> Ledger:
    """A configuration is not to be run: if it was the candidate, the confirmed one is."""
    if name == ledger.candidate:
        ledger = _settled(ledger)
    return replace(ledger, received=name, failed=name, failure=why)


def started(ledger: Ledger) -> Ledger:
    """The agent starts: what the ledger is to say before anything runs."""
    if ledger.phase is Phase.SETTLED or ledger.candidate is None:
        return _settled(ledger)
    if ledger.starts >= MAX_STARTS:
        return given_up(ledger, ledger.candidate, f"the agent ended {ledger.starts} times within its trial")
    return tried(ledger)


def verdict(before: Baseline, now: Observation, expected: Set[str]) -> str:
    """Why a candidate is given up at the end of its trial; empty when it is confirmed.

    expected: the meters of both documents, of which an answer was due within the trial.
    """
    reasons = []
    if not now.controller:
        reasons.append(f"the controller was not seen{_because(now.controller_told)}")
    if before.broker and not (now.broker and (now.acknowledged or not now.waiting)):
        reasons.append(f"the broker acknowledged nothing{_because(now.broker_told)}")
    lost = sorted(meter for meter in before.meters & expected if meter in now.bad or meter not in now.answered)
    if lost:
        shown = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
        reasons.append(f"{len(lost)} meter{'s' if len(lost) > 1 else ''} that answered before did not: {shown}")
    return "; ".join(reasons)


def _settled(ledger: Ledger) -> Ledger:
    return replace(ledger, phase=Phase.SETTLED, candidate=None, starts=0, before=Baseline())


def _because(told: str) -> str:
    return f" ({told})" if told else ""
