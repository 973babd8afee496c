"""Survey: the whole of a scan: who is there, what each one is, and what its display settles."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

from parkfleet.agent.display import Shown, explain
from parkfleet.agent.findings import Finding
from parkfleet.agent.identify import Registers, ask_names, rank
from parkfleet.agent.scan import Open, ScanPlan, Step, Unit, only_meter, scan
from parkfleet.agent.wire import Asker
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.profile import Profile

#: A model is not told by what comes too late: identification waits at least so long for an answer. Seconds.
LEAST_PATIENCE_S: Final = 0.5
#: So many of the likeliest profiles are held against the display.
ON_DISPLAY: Final = 5
#: The part of an identification's time that the display takes, about.
_ON_DISPLAY_PART: Final = 0.5


class Watcher(Protocol):
    """Whoever shows the survey's way."""

    def tried(self, step: Step) -> None:
        """A trial is done."""

    def asking(self, unit: Unit, done: float, count: int) -> None:
        """A unit is asked what it is; done: of count units, this one in part."""


@dataclass
class Survey:
    """One survey. Its findings grow while it runs, and stay when it is cut short."""

    plan: ScanPlan
    profiles: Sequence[Profile]
    shown: Sequence[Shown]
    watcher: Watcher
    findings: list[Finding] = field(default_factory=list)
    garbled: dict[LineAddress, str] = field(default_factory=dict)  # the last that came at a setting and was no answer
    one_for_all: bool = False  # a TCP device that answers whatever unit it is asked for

    async def run(self, open_line: Open) -> None:
        """Raises LineDownError."""
        async with aclosing(scan(self.plan, open_line)) as steps:
            async for step in steps:
                if step.found is not None:
                    self.findings.append(Finding(step.found))
                if step.garbled:
                    self.garbled[step.address] = f"unit {step.unit}: {step.garbled}"
                self.watcher.tried(step)
        if only_meter([finding.unit for finding in self.findings], self.plan.units):
            self.one_for_all = True
            del self.findings[1:]
        place = 0
        for address, group in self._by_setting():
            async with open_line(address) as line:
                for finding in group:
                    await self._identify(finding, line, place)
                    place += 1

    async def _identify(self, finding: Finding, line: Asker, place: int) -> None:
        unit, timeout = finding.unit, max(self.plan.timeout, LEAST_PATIENCE_S)
        part = (1 - _ON_DISPLAY_PART if self.shown else 1.0) / len(self.profiles)

        def looked_at(profiles: int) -> None:
            self.watcher.asking(unit, place + part * profiles, len(self.findings))

        looked_at(0)
        finding.names = await ask_names(line, unit.unit, timeout)
        registers = Registers(line, unit.unit, timeout)
        finding.candidates = await rank(registers, self.profiles, finding.names, looked_at)
        if self.shown:
            finding.explanations = await explain(registers, self._on_display(finding), self.shown)
        finding.asked = True
        self.watcher.asking(unit, place + 1, len(self.findings))

    def _by_setting(self) -> Iterator[tuple[LineAddress, list[Finding]]]:
        self.findings.sort(key=lambda finding: (self.plan.settings.index(finding.unit.address), finding.unit.unit))
        for address in dict.fromkeys(finding.unit.address for finding in self.findings):
            yield address, [finding for finding in self.findings if finding.unit.address == address]

    def _on_display(self, finding: Finding) -> list[Profile]:
        """The likeliest profiles; all of them where none is likely, as when addresses or orders are off."""
        likely = [candidate.profile for candidate in finding.candidates[:ON_DISPLAY] if finding.profile]
        known = {profile.profile: profile for profile in self.profiles}
        return [known[name] for name in likely] if likely else list(self.profiles)
