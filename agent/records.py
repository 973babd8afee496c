"""Records: what the engine gives of a meter, as the scans that everything behind it takes.

Most records are good and say nothing new: for those the way is short, and nothing is looked at value by value.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parkfleet.agent.activity import LineStatus, OnFailure, OnScan
from parkfleet.agent.plan import MeterPlan
from parkfleet.native.spec import Record
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import EXCEPTION, UNREACHED, Quality, quality_name
from parkfleet.protocols.readplan import PlannedRequest

log = logging.getLogger(__name__)


class Layout:
    """What the records of one tag hold."""

    def __init__(self, plan: MeterPlan, due: int) -> None:
        """due: bits of the plan's groups."""
        self.plan = plan
        self.requests = plan.asked(due)
        self.entries = plan.entries(due)
        self.texts = _text_slices(plan, self.requests)
        asked = frozenset(index for planned in self.requests for index in planned.points)
        self.asked = None if len(asked) == len(plan.points) else asked  # None: all columns
        good = bytes(Quality.GOOD if place in asked else Quality.SKIPPED for place in range(len(plan.points)))
        #: Qualities of a record of which everything was answered, as they come and as they are told; none for texts.
        self.good = None if self.texts else good
        self.good_told = _with_refused(good, plan.refused)
        self.snap_ms = 1000 * plan.config.snap_seconds
        self.interval_ms = 1000 * plan.config.interval


@dataclass
class MeterRecords:
    """One meter, and what was last said of it."""

    plan: MeterPlan
    status: LineStatus
    last_ts: int = 0
    told: str = ""
    failing: frozenset[int] = frozenset()  # layouts (their ids) of whose latest record a request failed
    well: bool = False  # nothing is wrong with it: a record that is good says nothing new

    def take(self, record: Record, layout: Layout, on_scan: OnScan, on_failure: OnFailure | None) -> None:
        """Looks at a record, tells what is new, and hands its scans on."""
        if layout.plan is not self.plan:  # the first record of a new plan
            self.plan, self.failing = layout.plan, frozenset()
        if on_failure is not None:
            self._tell_failure(record, layout, on_failure)
        self._note(record.quality, layout.asked)
        self.well = not self.failing and not self.told and self.plan.config.id not in self.status.meters_bad
        for scan in self._scans(record, layout):
            on_scan(scan)

    def timestamp(self, slot_ms: int, answers: tuple[int, ...], layout: Layout) -> int:
        """ms UTC: the slot when the first answer came close to it; never backwards in a series."""
        exact = answers[0] if len(answers) == 1 else min((ms for ms in answers if ms), default=0)
        ts = slot_ms if not exact or abs(exact - slot_ms) <= layout.snap_ms else exact
        if self.last_ts - layout.interval_ms < ts <= self.last_ts:
            ts = self.last_ts + 1
        self.last_ts = ts
        return ts

    def _tell_failure(self, record: Record, layout: Layout, on_failure: OnFailure) -> None:
        kind = id(layout)
        outcomes = self._outcomes(record, layout) if any(record.quality) or kind in self.failing else []
        failing = any(outcomes)
        if failing or kind in self.failing:
            on_failure(layout.plan, layout.requests, outcomes)
            self.failing = self.failing | {kind} if failing else self.failing - {kind}

    def _outcomes(self, record: Record, layout: Layout) -> list[int]:
        """A quality code for each request, 0 for one that was answered with values."""
        return [
            Quality.GOOD if ms else record.quality[planned.points[0]]
            for ms, planned in zip(record.answers, layout.requests, strict=True)
        ]

    def _scans(self, record: Record, layout: Layout) -> list[Scan]:
        """The record as the agent's buffer wants it: a scan for each entry that is due."""
        strings = tuple(
            _text(record.texts[part]) if part and record.quality[column] == Quality.GOOD else None
            for column, part in layout.texts.items()
        )
        quality = record.quality if not self.plan.refused else _with_refused(record.quality, self.plan.refused)
        ts = self.timestamp(record.slot_ms, record.answers, layout)
        return [Scan(entry, ts, record.slots, quality, strings) for entry in layout.entries]

    def _note(self, quality: bytes, asked: frozenset[int] | None) -> None:
        """Keeps the status, and tells a new kind of failure once. asked: the columns that were; None: all."""
        config = self.plan.config
        codes = set(quality) if asked is None else {quality[index] for index in asked}
        bad = codes - {Quality.GOOD, Quality.INVALID}
        if not bad:
            self.status.meters_bad.discard(config.id)
            if self.told:
                log.info("meter %s (line %s, unit %d) answers again", config.id, config.line, config.unit)
                self.told = ""
            return
        if not any(code == Quality.GOOD or (code & EXCEPTION and code not in UNREACHED) for code in quality):
            self.status.meters_bad.add(config.id)
        else:  # it is there, and keeps the points that it gives
            self.status.meters_bad.discard(config.id)
        cause = min(bad, key=lambda code: (code == Quality.SKIPPED, code))
        self.status.errors[quality_name(cause)] += 1
        if cause != Quality.DISCONNECTED and quality_name(cause) != self.told:
            self.told = quality_name(cause)
            log.warning("meter %s (line %s, unit %d): %s", config.id, config.line, config.unit, self.told)


def _with_refused(quality: bytes, refused: Mapping[int, int]) -> bytes:
    """Points that are not asked say what the meter says when they are."""
    return bytes(refused.get(i, code) if code == Quality.SKIPPED else code for i, code in enumerate(quality))


def _string_columns(plan: MeterPlan) -> list[int]:
    return [column for column, point in enumerate(plan.points) if point.type == "string"]


def _text_slices(plan: MeterPlan, requests: Sequence[PlannedRequest]) -> dict[int, slice | None]:
    """Where each string column's bytes lie: the engine lays them out in the order of the requests' fields.

    None for a column that is not asked for.
    """
    at = 0
    found: dict[int, slice | None] = dict.fromkeys(_string_columns(plan))
    for planned in requests:
        for column in planned.points:
            if column in found:
                size = 2 * plan.points[column].count
                found[column] = slice(at, at + size)
                at += size
    return found


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace").strip()
