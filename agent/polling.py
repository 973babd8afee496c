"""Polling: all lines of a plan, each by what fits it: the native engine, or a poller of its own."""

import asyncio
import logging
from collections.abc import Sequence

from parkfleet.agent.plan import LinePlan
from parkfleet.agent.poller import LinePoller, LineStatus, OnScan

log = logging.getLogger(__name__)

try:
    from parkfleet.agent.engine import KINDS, LineEngine
    from parkfleet.agent.engine_line import EngineLine
except ImportError:  # not compiled: slower, and nothing else
    KINDS = {}


class Polling:
    """Runs until stop(); scans come through on_scan, in time order for each meter."""

    def __init__(self, lines: Sequence[LinePlan], on_scan: OnScan) -> None:
        fast = [line for line in lines if line.address.kind in KINDS]
        self._engine = LineEngine(fast, on_scan) if fast else None
        self._pollers = {line.config.id: LinePoller(line, on_scan) for line in lines if line not in fast}
        #: By id, in the plan's order: what may be asked of each line out of turn.
        self.lines: dict[str, LinePoller | EngineLine] = {
            line.config.id: EngineLine(self._engine, line)
            if self._engine and line in fast
            else self._pollers[line.config.id]
            for line in lines
        }
        if not KINDS:
            log.warning("the native engine is not compiled: polling in Python")

    @property
    def statuses(self) -> list[LineStatus]:
        """One a line, in the plan's order, up to date."""
        if self._engine:
            self._engine.refresh()
        return [line.status for line in self.lines.values()]

    async def run(self) -> None:
        """Polls until stop(), or until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._engine:
                group.create_task(self._engine.run(), name="line engine")
            for name, poller in self._pollers.items():
                group.create_task(poller.run(), name=f"line {name}")

    def stop(self) -> None:
        """Lets the scans in flight come to their end; run() returns then."""
        if self._engine:
            self._engine.stop()
        for poller in self._pollers.values():
            poller.stop()
