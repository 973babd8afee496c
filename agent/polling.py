"""Polling: all lines of a plan, each by what fits it: the native engine, or a poller of its own."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parkfleet.agent.activity import LineStatus, OnFailure, OnScan
from parkfleet.agent.plan import LinePlan
from parkfleet.agent.poller import LinePoller
from parkfleet.agent.zone import UTC, Zone

if TYPE_CHECKING:
    from parkfleet.agent.engine import LineEngine
    from parkfleet.agent.engine_line import EngineLine

log = logging.getLogger(__name__)


class Polling:
    """Runs until stop(); scans come through on_scan, in time order for each meter."""

    def __init__(
        self, lines: Sequence[LinePlan], on_scan: OnScan, on_failure: OnFailure | None = None, zone: Zone = UTC
    ) -> None:
        self._engine: LineEngine | None = None
        self._pollers: dict[str, LinePoller] = {}
        #: By id, in the plan's order: what may be asked of each line out of turn.
        self.lines: dict[str, LinePoller | EngineLine] = {}
        kinds = _native_kinds()
        fast = [line for line in lines if line.address.kind in kinds]
        if fast:
            from parkfleet.agent import engine, engine_line

            self._engine = engine.LineEngine(fast, on_scan, on_failure, zone)
        for line in lines:
            if self._engine and line in fast:
                self.lines[line.config.id] = engine_line.EngineLine(self._engine, line)
            else:
                poller = LinePoller(line, on_scan, on_failure, zone=zone)
                self.lines[line.config.id] = self._pollers[line.config.id] = poller

    @property
    def statuses(self) -> list[LineStatus]:
        """One a line, in the plan's order, up to date."""
        if self._engine:
            self._engine.refresh()
        return [line.status for line in self.lines.values()]

    def gather(self) -> None:
        """Hands on what has been read by now: scans may wait up to 50 ms to be handed on together."""
        if self._engine:
            self._engine.gather()

    @property
    def overruns(self) -> int:
        """Scans lost because they were not taken in time."""
        return self._engine.overruns if self._engine else 0

    async def run(self) -> None:
        """Polls until stop(), or until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._engine:
                group.create_task(self._engine.run(), name="line engine")
            for name, poller in self._pollers.items():
                group.create_task(poller.run(), name=f"line {name}")

    async def finish(self, line: str, within_s: float) -> None:
        """Begins no scan on a line any more; returns when those under way were handed on, at the latest after so long.

        It is to be dropped next.
        """
        if line in self._pollers:
            await self._pollers[line].finish(within_s)
        elif self._engine:
            await self._engine.finish(line, within_s)

    def drop(self, line: str) -> None:
        """Takes a line out, by its id; its scan under way is dropped. The last one ends run()."""
        del self.lines[line]
        poller = self._pollers.pop(line, None)
        if poller is not None:
            poller.stop()
        elif self._engine:
            self._engine.drop(line)
        if not self.lines:
            self.stop()

    def stop(self) -> None:
        """Lets the scans in flight come to their end; run() returns then."""
        if self._engine:
            self._engine.stop()
        for poller in self._pollers.values():
            poller.stop()


def _native_kinds() -> frozenset[str]:
    """The kinds of lines that the engine takes; none where it is not compiled."""
    try:
        import parkfleet.native.engine  # noqa: F401 - whether it is there
        from parkfleet.agent.engine_spec import KINDS
    except ImportError:
        log.warning("the native engine is not compiled: polling in Python, slower")
        return frozenset()
    return frozenset(KINDS)
