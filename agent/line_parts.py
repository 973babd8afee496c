"""Line parts: all lines of an agent across its configurations; only lines that a new one changes are restarted.

A part is the lines that began together, polled by one Polling. When the configuration changes, lines that it leaves
as they are go on in their part, without a pause; the others are taken out of theirs, and begin anew in a part of their
own.
What goes on is asked by its old plan, whose entries are those of an older schema: each part's scans are given the
entries of the present one as they pass. A line that is taken out ends the scan it has under way first.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from parkfleet.agent.activity import LineStatus, OnFailure, OnScan
from parkfleet.agent.plan import LinePlan, MeterPlan, Plan
from parkfleet.agent.polling import Polling
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.readplan import PlannedRequest

if TYPE_CHECKING:
    from parkfleet.agent.engine_line import EngineLine
    from parkfleet.agent.poller import LinePoller


class Route:
    """Where a part's scans and failures go."""

    def __init__(self, schema: Schema) -> None:
        """schema: the one of the part's own plan."""
        self._schema = schema
        self._entries: dict[int, int] = {}
        self._on_scan: OnScan = lambda _: None
        self._on_failure: OnFailure | None = None
        self._held: list[Scan] | None = None

    def hold(self) -> None:
        """Until to() is called, scans wait here."""
        self._held = [] if self._held is None else self._held

    def to(self, plan: Plan, lines: Sequence[LinePlan], on_scan: OnScan, on_failure: OnFailure | None) -> None:
        """From now on to these, with a plan's entries. lines: of the part, that are left."""
        meters = {meter.config.id for line in lines for meter in line.meters}
        places = {entry: place for place, entry in enumerate(plan.schema.entries)}
        own = enumerate(self._schema.entries)
        self._entries = {place: places[entry] for place, entry in own if entry.meter in meters}
        self._on_scan, self._on_failure = on_scan, on_failure
        held, self._held = self._held, None
        for scan in held or ():
            self.scan(scan)

    def scan(self, scan: Scan) -> None:
        """Hands a scan on."""
        if self._held is not None:
            self._held.append(scan)
            return
        entry = self._entries.get(scan.entry)
        if entry is not None:
            self._on_scan(scan if entry == scan.entry else replace(scan, entry=entry))

    def failure(self, plan: MeterPlan, asked: Sequence[PlannedRequest], outcomes: Sequence[int]) -> None:
        """Hands a failure on."""
        if self._on_failure is not None and self._held is None and plan.entry in self._entries:
            self._on_failure(plan, asked, outcomes)


@dataclass
class _Part:
    """Lines that began together."""

    polling: Polling
    route: Route
    lines: list[LinePlan]


class LineParts:
    """Runs until stop(). follow() is to be called before run(), and then for each new configuration."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._plan: Plan | None = None
        self._overruns = 0  # of parts that are no more
        #: By id, in the plan's order: what may be asked of each line out of turn.
        self.lines: dict[str, LinePoller | EngineLine] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()

    def continued(self, plan: Plan) -> Plan:
        """A new plan, in which the lines that can go on have the plans they are polled by already."""
        if self._plan is None or self._plan.zone != plan.zone:
            return plan
        old = {line.config.id: line for part in self._parts for line in part.lines}
        known = set(self._plan.schema.entries)
        new = {entry.meter for entry in plan.schema.entries if entry not in known}
        kept = tuple(
            before
            if (before := old.get(line.config.id)) is not None
            and _same(before, line)
            and not any(meter.config.id in new for meter in line.meters)
            else line
            for line in plan.lines
        )
        return replace(plan, lines=kept)

    def gather(self) -> None:
        """Hands on what has been read by now."""
        for part in self._parts:
            part.polling.gather()

    @property
    def overruns(self) -> int:
        """Scans lost because they were not taken in time, since the start."""
        return self._overruns + sum(part.polling.overruns for part in self._parts)

    async def release(self, plan: Plan | None, within_s: float) -> None:
        """Whoever had the scans has no more of them, when this returns. Lines that a plan will not continue (None: all
        will) end the scans under way, for so long at most, and are taken out; scans of the others wait for follow()."""
        if plan is not None:
            continued = self.continued(plan)
            kept = {id(line) for line in continued.lines}
            others = [(part, line) for part in self._parts for line in part.lines if id(line) not in kept]
            await asyncio.gather(*(part.polling.finish(line.config.id, within_s) for part, line in others))
            self._drop_others(continued)
        for part in self._parts:
            part.route.hold()

    def follow(self, plan: Plan, on_scan: OnScan, on_failure: OnFailure | None) -> None:
        """Polls by a plan that continued() gave. From this call on scans go to on_scan, with the plan's entries."""
        self._drop_others(plan)
        for part in self._parts:
            part.route.to(plan, part.lines, on_scan, on_failure)
        polled = {id(line) for part in self._parts for line in part.lines}
        begin = [line for line in plan.lines if id(line) not in polled]
        if begin:
            route = Route(plan.schema)
            route.to(plan, begin, on_scan, on_failure)
            part = _Part(Polling(begin, route.scan, route.failure, plan.zone), route, begin)
            self._parts.append(part)
            self._start(part)
        owners = {name: line for part in self._parts for name, line in part.polling.lines.items()}
        self.lines = {line.config.id: owners[line.config.id] for line in plan.lines}
        self._plan = plan

    @property
    def statuses(self) -> list[LineStatus]:
        """One a line, in the plan's order, up to date."""
        found = {status.id: status for part in self._parts for status in part.polling.statuses}
        return [found[name] for name in self.lines]

    async def run(self) -> None:
        """Polls until stop(), or until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for part in self._parts:
                self._start(part)
            await self._stopping.wait()
            self._group = None
            for part in self._parts:
                part.polling.stop()

    def stop(self) -> None:
        """Lets the scans in flight come to their end; run() returns then."""
        self._stopping.set()

    def _drop_others(self, plan: Plan) -> None:
        """Takes out the lines that a plan has not got, by the very plans they are polled by."""
        kept = {id(line) for line in plan.lines}
        for part in self._parts:
            for line in part.lines:
                if id(line) not in kept:
                    part.polling.drop(line.config.id)
            part.lines = [line for line in part.lines if id(line) in kept]
        self._overruns += sum(part.polling.overruns for part in self._parts if not part.lines)
        self._parts = [part for part in self._parts if part.lines]

    def _start(self, part: _Part) -> None:
        if self._group is not None:
            self._group.create_task(part.polling.run(), name="polling")


def _same(old: LinePlan, new: LinePlan) -> bool:
    """Whether a line can go on by its old plan: what it asks and delivers is the same, what was learned apart."""
    if (old.config, old.address, len(old.meters)) != (new.config, new.address, len(new.meters)):
        return False
    return all(
        (before.config, before.points, before.never_write, before.offset_s)
        == (after.config, after.points, after.never_write, after.offset_s)
        for before, after in zip(old.meters, new.meters, strict=True)
    )
