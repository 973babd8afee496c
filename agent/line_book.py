"""Line book: all that the running agent can tell of its lines and meters, and what may be forgotten of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from parkfleet.agent.activity import LineStatus
from parkfleet.agent.learner import Learner, Prober
from parkfleet.agent.line_messages import LineFacts, line_facts
from parkfleet.agent.overload import Overload
from parkfleet.agent.plan import Plan
from parkfleet.agent.shares import SAMPLE_S, Shares

log = logging.getLogger(__name__)


class LineBook:
    """Of one agent's lines."""

    def __init__(
        self,
        plan: Plan,
        learner: Learner,
        lines: Mapping[str, Prober],
        statuses: Callable[[], Sequence[LineStatus]],
    ) -> None:
        """lines: by id. statuses: of the lines, up to date."""
        self._plans = {line.config.id: line for line in plan.lines}
        self._learner = learner
        self._lines = lines
        self._statuses = statuses
        self._overloads = {id: Overload() for id in self._plans}
        self._shares = {id: Shares([meter.config.id for meter in line.meters]) for id, line in self._plans.items()}

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(SAMPLE_S)  # the samples' own distance

    def look(self, now: float) -> None:
        """Takes samples, and tells of lines that cannot keep up, once when it begins. now: monotonic seconds."""
        for id, line in self._lines.items():
            self._shares[id].note(now, line.activities())
        for status in self._statuses():
            before, status.overload = status.overload, self._overloads[status.id].look(now, status.late)
            if status.overload and not before:
                log.warning("line %s is overloaded: %s", status.id, status.overload)
            elif before and not status.overload:
                log.info("line %s keeps up again", status.id)

    def facts(self, line: str | None = None) -> list[LineFacts]:
        """Of one line, or all. Raises LookupError with a sentence."""
        if line is not None and line not in self._plans:
            raise LookupError(f"there is no line {line!r}: lines are {', '.join(sorted(self._plans)) or 'none'}")
        return [self._facts(id) for id in self._plans if line in (None, id)]

    async def forget(self, meter: str) -> bool:
        """Drops what was learned of a meter. Raises LookupError. False: it is not dropped from the disk."""
        if meter not in self._learner.pupils:
            raise LookupError(f"the running agent has no meter {meter!r}")
        return await self._learner.forget(meter, self._lines)

    def _facts(self, id: str) -> LineFacts:
        line, activities = self._plans[id], self._lines[id].activities()
        plans = [self._learner.pupils[meter.config.id].plan for meter in line.meters]
        measured = self._shares[id].shares(time.monotonic(), activities)
        return line_facts(line, plans, activities, measured)
