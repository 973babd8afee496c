"""Poller: reads one line's meters, each at its interval, one transaction at a time.

The next meter is the one that is due first. A meter that stays silent is asked less and less often, so that
it costs its neighbours little; its readings still go out at its interval, without values and with the cause.
"""

import asyncio
import heapq
import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, TypeVar

from parkfleet.agent.activity import LineStatus, MeterActivity, OnFailure, OnScan
from parkfleet.agent.burst import burst, outcome
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.agent.transport import LineDownError, Transport, open_transport
from parkfleet.agent.turns import Turns
from parkfleet.agent.usb_serial import advise
from parkfleet.agent.zone import UTC, Zone
from parkfleet.protocols.modbus.pdu import (
    AnswerTimeoutError,
    ExceptionAnswerError,
    ModbusError,
    ReadRequest,
    Request,
)
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import EXCEPTION, Quality, quality_name
from parkfleet.protocols.readplan import WireCost
from parkfleet.protocols.registers import decode

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A silent meter is asked at least this often, in seconds: it is found again within a minute.
MAX_BACKOFF_S: Final = 60.0
#: Pause before a line that is down is tried again: first and longest, in seconds.
REOPEN_S: Final = (0.5, 10.0)


@dataclass
class _MeterState:
    """What is known of one meter, per (line, unit)."""

    plan: MeterPlan
    last_ts: int = 0
    misses: int = 0  # scans without an answer, in a row
    quiet_until: float = 0.0  # monotonic; it takes no request before
    ask_again: float = 0.0  # wall clock, seconds; before it the meter is taken for silent
    cause: int = Quality.TIMEOUT
    told: str = ""
    activity: MeterActivity = field(default_factory=MeterActivity)
    turnarounds: deque[float] = field(default_factory=lambda: deque(maxlen=15))  # seconds
    zone: Zone = UTC
    failing: set[int] = field(default_factory=set)  # groups (bits) of whose last scan a request failed
    latest: int | None = None  # index of its last slot

    def note(self, error: ModbusError | LineDownError | None, took: float, turnaround: float) -> None:
        """Counts a transaction. Seconds."""
        answered = error is None or isinstance(error, ExceptionAnswerError)
        if answered:
            self.turnarounds.append(max(turnaround, 1e-6))
        before = self.activity
        self.activity = before._replace(
            requests=before.requests + 1,
            answers=before.answers + answered,
            timeouts=before.timeouts + isinstance(error, AnswerTimeoutError),
            busy_s=before.busy_s + took,
            turnarounds=before.turnarounds + answered,
        )

    def due(self, slot: float) -> int:
        """The bits of the groups that are due in a slot: those of which one has passed since the last."""
        local = slot + self.zone.offset(slot) - self.plan.offset_s
        index = round(local / self.plan.config.interval)
        before, self.latest = index - 1 if self.latest is None else self.latest, index
        return self.plan.due(index, before)

    def next_slot(self, after: float) -> float:
        """The first of its slots behind a time (wall clock, seconds)."""
        return self.zone.next_slot(after, float(self.plan.config.interval), self.plan.offset_s)


class LinePoller:
    """Owns one line: its transport, its schedule, its meters' states."""

    def __init__(
        self,
        plan: LinePlan,
        on_scan: OnScan,
        on_failure: OnFailure | None = None,
        clock: Callable[[], float] = time.time,
        zone: Zone = UTC,
    ) -> None:
        self._plan = plan
        self._on_scan = on_scan
        self._on_failure = on_failure
        self._clock = clock
        self._transport: Transport | None = None
        self._reopen_at = 0.0  # monotonic
        self._reopen_pause = REOPEN_S[0]
        self._turns = Turns()
        self._meters = [_MeterState(meter, zone=zone) for meter in plan.meters]
        self._stopping = asyncio.Event()
        self.status = LineStatus(plan.config.id)

    async def run(self) -> None:
        """Polls until stop(), or until cancelled."""
        now = self._clock()
        due = [(meter.next_slot(now), index) for index, meter in enumerate(self._meters)]
        heapq.heapify(due)
        try:
            while due and not self._stopping.is_set():
                slot, index = due[0]
                if await self._stopped_before(slot):
                    return
                with self._turns.work():
                    await self._scan(self._meters[index], slot)
                heapq.heapreplace(due, (self._following(self._meters[index], slot), index))
        finally:
            self._close()

    def stop(self) -> None:
        """Lets the scan in flight come to its end; run() returns then."""
        self._stopping.set()

    async def ask(self, request: Request[T], timeout: float | None = None) -> T:
        """One transaction out of turn, between the scans' own. timeout: seconds, default the line's.

        Raises ModbusError when it gave no values, LineDownError when the line is gone.
        """
        meter = next((meter for meter in self._meters if meter.plan.config.unit == request.unit), None)
        waited = float(self._plan.config.timeout) if timeout is None else timeout
        async with self._turns.guest():
            try:
                values = await self._transact(request, waited)
            except AnswerTimeoutError:
                # On a serial line its late answer must not be taken for that of the scan's next request.
                if meter is not None and self._plan.address.kind == "serial":
                    meter.ask_again = max(meter.ask_again, self._clock() + waited)
                raise
            except ExceptionAnswerError:
                self.wake(request.unit)
                raise
            self.wake(request.unit)
            return values

    async def burst(self, requests: Sequence[tuple[float, Request[object]]]) -> list[int]:
        """Requests one right behind the other, each after a pause in seconds; their quality codes, 0 for values.

        Raises LineDownError.
        """
        async with self._turns.guest():
            return await burst(self._transact, requests, float(self._plan.config.timeout))

    def replan(self, plan: MeterPlan) -> None:
        """Has a meter asked by a new plan from its next scan on, also one that was taken for silent."""
        state = self._state(plan.config.id)
        state.plan, state.failing = plan, set()
        self.wake(plan.config.unit)

    def activities(self) -> dict[str, MeterActivity]:
        """By meter id."""
        return {
            meter.plan.config.id: meter.activity._replace(turnaround_s=median(meter.turnarounds or [0.0]))
            for meter in self._meters
        }

    def wake(self, unit: int) -> None:
        """A meter that was taken for silent is asked again from its next slot on."""
        for meter in self._meters:
            if meter.plan.config.unit == unit:
                meter.misses, meter.ask_again = 0, 0.0

    def _state(self, id: str) -> _MeterState:
        return next(meter for meter in self._meters if meter.plan.config.id == id)

    async def _stopped_before(self, slot: float) -> bool:
        """Waits for a slot; True when stop() came first. Looks at the clock anew every second: it may be set."""
        while (left := slot - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._stopping.wait()
                return True
            except TimeoutError:
                if left > self._longest_wait():  # the clock was set back
                    return False
        return False

    def _longest_wait(self) -> float:
        return max(float(meter.plan.config.interval) for meter in self._meters)

    def _following(self, meter: _MeterState, slot: float) -> float:
        """The slot after this one; slots that have passed meanwhile are counted and left out."""
        now = self._clock()
        following = meter.next_slot(max(slot, now))
        if slot <= now < slot + 1000 * meter.plan.config.interval:  # otherwise the clock was set: nothing was missed
            missed = int((now - slot) // meter.plan.config.interval)
            self.status.missed += missed
            if missed:
                self.status.late[meter.plan.config.id] = meter.activity.missed + missed
            meter.activity = meter.activity._replace(missed=meter.activity.missed + missed)
        return following if following - now <= meter.plan.config.interval else meter.next_slot(now)

    async def _scan(self, meter: _MeterState, slot: float) -> None:
        """Reads a meter and hands its scan on, whatever came of it."""
        plan = meter.plan
        columns = len(plan.points)
        slots, quality = array("q", bytes(8 * columns)), bytearray([Quality.SKIPPED]) * columns
        texts: dict[int, str | None] = {}
        answered: float | None = None
        cause = meter.cause if meter.ask_again > self._clock() else None
        due = meter.due(slot)
        asked = plan.asked(due)
        outcomes = [int(Quality.SKIPPED)] * len(asked)
        for place, planned in enumerate(asked if cause is None else ()):
            try:
                words = await self._request(meter, planned.request)
            except (ModbusError, LineDownError) as error:
                outcomes[place] = outcome(error)
                self._failed(meter, planned.points, quality, outcomes[place], str(error))
                if isinstance(error, ExceptionAnswerError):
                    answered = answered or self._clock()
                    continue  # the meter is well: it keeps its other points
                cause = outcomes[place]
                break
            answered = answered or self._clock()
            outcomes[place] = Quality.GOOD
            for index in planned.points:
                point = plan.points[index]
                start = point.address - planned.request.address
                slots[index], quality[index], texts[index] = decode(point, words[start : start + point.count])
        self._judge(meter, cause, answered is not None, quality)
        for index, code in plan.refused.items() if answered is not None else ():
            quality[index] = code
        self._tell_failure(meter, plan, due, outcomes)
        ts = self._timestamp(meter, slot, answered)
        strings = tuple(texts.get(i) for i, point in enumerate(plan.points) if point.type == "string")
        self.status.scans += 1
        for entry in plan.entries(due):
            self._on_scan(Scan(entry, ts, slots, bytes(quality), strings))

    async def _request(self, meter: _MeterState, request: ReadRequest) -> list[int]:
        """One of a scan's requests, the meter's gap before it. Raises as ask()."""
        async with self._turns.owner():
            await asyncio.sleep(max(0.0, meter.quiet_until - time.monotonic()))  # the gap it needs
            begun, error = time.monotonic(), None
            try:
                return await self._transact(request, float(self._plan.config.timeout))
            except (ModbusError, LineDownError) as failure:
                error = failure
                raise
            finally:
                meter.quiet_until = time.monotonic() + meter.plan.gap_s
                took = meter.quiet_until - meter.plan.gap_s - begun
                wire = self._plan.cost.byte * (WireCost.FRAMES + request.data_bytes)
                meter.note(error, took, took - wire)

    def _tell_failure(self, meter: _MeterState, plan: MeterPlan, due: int, outcomes: list[int]) -> None:
        failing = any(outcomes)
        if self._on_failure is not None and (failing or due in meter.failing):
            self._on_failure(plan, plan.asked(due), outcomes)
            (meter.failing.add if failing else meter.failing.discard)(due)

    async def _transact(self, request: Request[T], timeout: float) -> T:
        """One transaction, for whoever has the turn; opens the line where it is closed. Raises as ask()."""
        transport = self._transport or await self._opened()
        begun = time.monotonic()
        self.status.requests += 1
        try:
            return await transport.transact(request, timeout)
        except LineDownError as error:
            self._close()
            self._line_down(str(error))
            raise
        finally:
            self.status.busy_s += time.monotonic() - begun
            if self._transport is not None and not self._transport.usable:
                self._close()

    async def _opened(self) -> Transport:
        """Opens the line, unless it was tried just now. Raises LineDownError."""
        if time.monotonic() < self._reopen_at:
            raise LineDownError(self.status.told)
        try:
            self._transport = await open_transport(self._plan.address)
        except LineDownError as error:
            self._line_down(str(error))
            raise
        self._reopen_pause = REOPEN_S[0]
        self._line_up()
        advise(self.status, self._plan.address)
        return self._transport

    def _failed(self, meter: _MeterState, points: tuple[int, ...], quality: bytearray, cause: int, told: str) -> None:
        """Marks a request's points, counts, and tells a new kind of failure once."""
        for index in points:
            quality[index] = cause
        self.status.errors[quality_name(cause)] += 1
        if cause != Quality.DISCONNECTED and quality_name(cause) != meter.told:
            meter.told = quality_name(cause)
            config = meter.plan.config
            log.warning("meter %s (line %s, unit %d): %s", config.id, config.line, config.unit, told)

    def _judge(self, meter: _MeterState, cause: int | None, answered: bool, quality: bytearray) -> None:
        """Learns from a scan whether the meter is there, and when to ask it again."""
        config = meter.plan.config
        if cause is not None and not answered:
            quality[:] = bytes([cause]) * len(quality)  # nothing of it was read: one cause for all
        if cause is None:
            if meter.told and not any(code & EXCEPTION for code in quality):
                log.info("meter %s (line %s, unit %d) answers again", config.id, config.line, config.unit)
                meter.told = ""
            meter.misses = 0
            self.status.meters_bad.discard(config.id)
            return
        self.status.meters_bad.add(config.id)
        if cause == Quality.TIMEOUT and meter.ask_again <= self._clock():
            meter.misses += 1
            meter.cause = cause
            # One lost answer is no reason yet to ask less often. But on a serial line nothing tells a late answer
            # from the next one of the same meter: let as much time again pass before the next question.
            pause = float(self._plan.config.timeout) if self._plan.address.kind == "serial" else 0.0
            if meter.misses > 1:
                doubled = config.interval * 2 ** min(meter.misses - 1, 16) - config.interval / 2
                pause = max(pause, min(doubled, MAX_BACKOFF_S))
            meter.ask_again = self._clock() + pause

    def _timestamp(self, meter: _MeterState, slot: float, answered: float | None) -> int:
        """The scan's time, ms UTC: its slot when the answer came close to it; never backwards in a series."""
        exact = answered if answered is not None else slot
        ts = round(slot * 1000) if abs(exact - slot) <= meter.plan.config.snap_seconds else round(exact * 1000)
        if meter.last_ts - 1000 * meter.plan.config.interval < ts <= meter.last_ts:
            ts = meter.last_ts + 1
        meter.last_ts = ts
        return ts

    def _line_down(self, told: str) -> None:
        self._reopen_at = time.monotonic() + self._reopen_pause
        self._reopen_pause = min(2 * self._reopen_pause, REOPEN_S[1])
        if self.status.told != told:
            log.warning("line %s is down: %s", self.status.id, told)
        self.status.up, self.status.told = False, told

    def _line_up(self) -> None:
        if self.status.told:
            log.info("line %s is up again", self.status.id)
        self.status.up, self.status.told = True, ""

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
