"""Line book: all that the running agent can tell of its lines and meters, and what may be forgotten of them."""

import asyncio
import time
from collections.abc import Mapping

from parkfleet.agent.learner import Learner, Prober
from parkfleet.agent.line_messages import LineFacts, line_facts
from parkfleet.agent.plan import Plan
from parkfleet.agent.shares import SAMPLE_S, Shares


class LineBook:
    """Of one agent's lines."""

    def __init__(self, plan: Plan, learner: Learner, lines: Mapping[str, Prober]) -> None:
        self._plans = {line.config.id: line for line in plan.lines}
        self._learner = learner
        self._lines = lines
        self._shares = {id: Shares([meter.config.id for meter in line.meters]) for id, line in self._plans.items()}

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            for id, line in self._lines.items():
                self._shares[id].note(time.monotonic(), line.activities())
            await asyncio.sleep(SAMPLE_S)  # the samples' own distance

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
