"""Poller: reads one line's meters, each at its interval, one transaction at a time.

The next meter is the one with the earliest deadline. One that stays silent is asked less and less often (silence.py),
so that it costs its neighbours little; its readings still go out at its interval, without values and with the cause.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, TypeVar

from parkfleet.agent.activity import LineStatus, MeterActivity, OnFailure, OnScan
from parkfleet.agent.burst import NO_ANSWER, burst, outcome
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.agent.polled_meter import PolledMeter, Read
from parkfleet.agent.silence import Silence
from parkfleet.agent.transport import LineDownError, Transport, open_transport
from parkfleet.agent.turns import Turns
from parkfleet.agent.usb_serial import advise
from parkfleet.agent.zone import UTC, Zone
from parkfleet.protocols.modbus.pdu import (
    CorruptAnswerError,
    ExceptionAnswerError,
    ModbusError,
    ReadRequest,
    Request,
)
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import EXCEPTION, UNREACHED, Quality, quality_name
from parkfleet.protocols.readplan import PlannedRequest, WireCost
from parkfleet.protocols.registers import decode

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Pause before a line that is down is tried again: first and longest, in seconds.
REOPEN_S: Final = (0.5, 10.0)


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
        self._meters = [PolledMeter(meter, zone=zone) for meter in plan.meters]
        self._place = {meter.config.unit: place for place, meter in enumerate(plan.meters)}
        intervals = {meter.config.unit: float(meter.config.interval) for meter in plan.meters}
        self._silence = Silence(intervals, float(plan.config.timeout), time.monotonic())
        self._stopping = False
        self._woken = asyncio.Event()
        self._over = asyncio.Event()  # run() has returned
        self.status = LineStatus(plan.config.id)

    async def run(self) -> None:
        """Polls until stop(), or until cancelled."""
        now = self._clock()
        slots = [meter.next_slot(now) for meter in self._meters]
        try:
            while slots and not await self._stopped_before(min(slots)):
                with self._turns.work():
                    await self._turn(slots)
        finally:
            self._over.set()
            self._close()

    def stop(self) -> None:
        """Lets the scan in flight come to its end; run() returns then."""
        self._stopping = True
        self._woken.set()

    async def finish(self, within_s: float) -> None:
        """As stop(), and waits for that scan, at the longest for so long."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._over.wait()

    async def ask(self, request: Request[T], timeout: float | None = None) -> T:
        """One transaction out of turn, between the scans' own. timeout: seconds, default the line's.

        Raises ModbusError when it gave no values, LineDownError when the line is gone.
        """
        waited = float(self._plan.config.timeout) if timeout is None else timeout
        await self._quiet(request.unit)
        async with self._turns.guest():
            try:
                values = await self._transact(request, waited)
            except ExceptionAnswerError:
                self.wake(request.unit)
                raise
            except (ModbusError, asyncio.CancelledError):
                self._hold(request.unit, waited)
                raise
            self.wake(request.unit)
            return values

    async def burst(self, requests: Sequence[tuple[float, Request[object]]]) -> list[int]:
        """Requests one right behind the other, each after a pause in seconds; their quality codes, 0 for values.

        Raises LineDownError.
        """
        timeout, unit = float(self._plan.config.timeout), requests[0][1].unit
        await self._quiet(unit)
        async with self._turns.guest():
            codes = [int(Quality.TIMEOUT)]  # when it is cancelled
            try:
                codes = await burst(self._transact, requests, timeout)
            finally:
                if codes[-1] in NO_ANSWER:
                    self._hold(unit, timeout)
            return codes

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
        """A meter that was taken for silent is asked at once."""
        self._silence.wake(unit, time.monotonic())
        self._woken.set()

    async def _quiet(self, unit: int) -> None:
        """Waits until a unit may be asked."""
        if unit in self._place:
            await asyncio.sleep(max(0.0, self._meters[self._place[unit]].quiet_until - time.monotonic()))

    def _hold(self, unit: int, waited: float) -> None:
        """On a serial line a late answer must not be taken for that of the unit's next request. waited: seconds."""
        if unit in self._place and self._plan.address.is_serial:
            until = time.monotonic() + max(waited, 2 * float(self._plan.config.timeout) - waited)
            meter = self._meters[self._place[unit]]
            meter.quiet_until = max(meter.quiet_until, until)

    def _state(self, id: str) -> PolledMeter:
        return next(meter for meter in self._meters if meter.plan.config.id == id)

    async def _stopped_before(self, slot: float) -> bool:
        """Waits for a slot, or until a silent meter is to be asked; True when stop() came first.

        Looks at the clock anew every second: it may be set.
        """
        while not self._stopping:
            left = slot - self._clock()
            if left > self._longest_wait():  # the clock was set back
                return False
            left = min(left, self._silence.next_due() - time.monotonic())
            if left <= 0:
                return False
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self._woken.wait()
        return True

    def _earliest(self, slots: list[float]) -> int:
        """Of the meters whose slot has come the one with the earliest deadline; of all, when the clock was set back."""
        now = self._clock()
        passed = [index for index, slot in enumerate(slots) if slot <= now] or range(len(slots))
        return min(passed, key=lambda index: (slots[index] + self._meters[index].plan.config.interval, index))

    def _longest_wait(self) -> float:
        return max(float(meter.plan.config.interval) for meter in self._meters)

    def _following(self, meter: PolledMeter, slot: float) -> float:
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

    async def _turn(self, slots: list[float]) -> None:
        """Probes of silent meters go between scans, and before the next. slots: of the meters; who is read moves on.

        A meter that answers a probe between its slots is read then; one that does not is told about at its slots only.
        """
        silent = self._silence.due(time.monotonic())
        index = self._earliest(slots) if silent is None else self._place[silent]
        meter, slot = self._meters[index], slots[index]
        if silent is None or slot <= self._clock():
            await self._scan(meter, slot, silent is not None)
            slots[index] = self._following(meter, slot)
            return
        asked = meter.plan.asked(0)
        read = await self._read(meter, asked, _smallest_first(asked))
        if read.answered is not None:
            self._hand_on(meter, slot - float(meter.plan.config.interval), 0, read)

    async def _scan(self, meter: PolledMeter, slot: float, is_probe: bool) -> None:
        """Reads a meter and hands its scan on, whatever came of it; a silent one is asked when it is its turn only."""
        due = meter.due(slot)
        asked = meter.plan.asked(due)
        if is_probe or not self._silence.is_silent(meter.plan.config.unit):
            read = await self._read(meter, asked, _smallest_first(asked) if is_probe else range(len(asked)))
        else:
            read = Read(meter.plan, asked)
            read.cause = meter.cause if self.status.up else Quality.DISCONNECTED
        self._hand_on(meter, slot, due, read)

    async def _read(self, meter: PolledMeter, asked: Sequence[PlannedRequest], order: Sequence[int]) -> Read:
        """Sends requests, in an order of their places, until one is not answered."""
        read = Read(meter.plan, asked)
        for place in order:
            planned = asked[place]
            try:
                words = await self._request(meter, planned.request)
            except (ModbusError, LineDownError) as error:
                read.outcomes[place] = outcome(error)
                self._failed(meter, planned.points, read.quality, read.outcomes[place], str(error))
                if _is_answer(error):
                    read.answered = read.answered or self._clock()
                    continue  # the meter is well: it keeps its other points
                read.cause = read.outcomes[place]
                break
            read.answered = read.answered or self._clock()
            read.outcomes[place] = Quality.GOOD
            for index in planned.points:
                point = read.plan.points[index]
                start = point.address - planned.request.address
                own = words[start : start + point.count]
                read.slots[index], read.quality[index], read.texts[index] = decode(point, own)
        return read

    def _hand_on(self, meter: PolledMeter, slot: float, due: int, read: Read) -> None:
        """Judges what came of a scan, and hands it on."""
        plan = read.plan
        self._judge(meter, read.cause, read.answered is not None, read.quality)
        for index, code in plan.refused.items() if read.answered is not None else ():
            read.quality[index] = code
        self._tell_failure(meter, plan, due, read.outcomes)
        ts = self._timestamp(meter, slot, read.answered)
        strings = tuple(read.texts.get(i) for i, point in enumerate(plan.points) if point.type == "string")
        self.status.scans += 1
        for entry in plan.entries(due):
            self._on_scan(Scan(entry, ts, read.slots, bytes(read.quality), strings))

    async def _request(self, meter: PolledMeter, request: ReadRequest) -> list[int]:
        """One of a scan's requests, or a probe; the meter's gap before it. Raises as ask()."""
        async with self._turns.owner():
            await asyncio.sleep(max(0.0, meter.quiet_until - time.monotonic()))  # the gap it needs
            begun, error = time.monotonic(), None
            try:
                return await self._transact(request, self._silence.patience(request.unit))
            except (ModbusError, LineDownError) as failure:
                error = failure
                raise
            finally:
                now = time.monotonic()
                wire = self._plan.cost.byte * (WireCost.FRAMES + request.data_bytes)
                meter.quiet_until = now + meter.plan.gap_s
                meter.note(error, now - begun, now - begun - wire)
                self._learn(meter, error, now, now - begun, wire)

    def _learn(
        self, meter: PolledMeter, error: ModbusError | LineDownError | None, now: float, took: float, wire: float
    ) -> None:
        """What a transaction says about the meter's being there. Seconds."""
        unit = meter.plan.config.unit
        if error is None or _is_answer(error):
            self._silence.answered(unit, now, max(took - wire, 1e-6))
        elif isinstance(error, LineDownError):
            self._silence.put_off(unit, max(self._reopen_at, now + REOPEN_S[0]))
        elif not isinstance(error, CorruptAnswerError) or self._silence.is_silent(unit):
            meter.cause = outcome(error)
            # Nothing tells a late answer on a serial line from the meter's next one.
            hold = 2 * float(self._plan.config.timeout) - took if self._plan.address.is_serial else 0.0
            meter.quiet_until = max(meter.quiet_until, now + hold)
            self._silence.missed(unit, now, took, hold)

    def _tell_failure(self, meter: PolledMeter, plan: MeterPlan, due: int, outcomes: list[int]) -> None:
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

    def _failed(self, meter: PolledMeter, points: tuple[int, ...], quality: bytearray, cause: int, told: str) -> None:
        """Marks a request's points, counts, and tells a new kind of failure once."""
        for index in points:
            quality[index] = cause
        self.status.errors[quality_name(cause)] += 1
        if cause != Quality.DISCONNECTED and quality_name(cause) != meter.told:
            meter.told = quality_name(cause)
            config = meter.plan.config
            log.warning("meter %s (line %s, unit %d): %s", config.id, config.line, config.unit, told)

    def _judge(self, meter: PolledMeter, cause: int | None, answered: bool, quality: bytearray) -> None:
        """Learns from a scan whether the meter is there, and when to ask it again."""
        config = meter.plan.config
        if cause is not None and not answered:
            quality[:] = bytes([cause]) * len(quality)  # nothing of it was read: one cause for all
        if cause is None:
            if meter.told and not any(code & EXCEPTION for code in quality):
                log.info("meter %s (line %s, unit %d) answers again", config.id, config.line, config.unit)
                meter.told = ""
            self.status.meters_bad.discard(config.id)
            return
        self.status.meters_bad.add(config.id)

    def _timestamp(self, meter: PolledMeter, slot: float, answered: float | None) -> int:
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


def _smallest_first(asked: Sequence[PlannedRequest]) -> list[int]:
    """The requests' places: what a silent meter is asked first costs least."""
    return sorted(range(len(asked)), key=lambda place: asked[place].request.data_bytes)


def _is_answer(error: ModbusError | LineDownError) -> bool:
    """Whether it says that the meter is there: a refusal of its own, not of a gateway box that cannot reach it."""
    return isinstance(error, ExceptionAnswerError) and outcome(error) not in UNREACHED
