"""Line engine's owner: an agent's plan on the native engine, its finished scans handed on as they come.

Invariants: the engine thread lives from run() to its end and is joined there; every descriptor opened here belongs to
the engine from the moment it is handed over; scans of one meter are handed on in time order.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from parkfleet.agent.activity import LineStatus, MeterActivity, OnFailure, OnScan
from parkfleet.agent.engine_spec import NS, line_spec, meter_spec, ring_bytes
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.agent.poller import REOPEN_S
from parkfleet.agent.records import Layout, MeterRecords
from parkfleet.agent.transport import LineDownError, open_port
from parkfleet.agent.usb_serial import advise
from parkfleet.agent.zone import UTC, Zone
from parkfleet.native.engine import Engine
from parkfleet.native.spec import LineCounters, Record
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.pcapng import Piece

log = logging.getLogger(__name__)

#: How long scans under way may take to end after stop(). Seconds.
STOP_S: Final = 1.5
#: A change of the local clock is told to the engine so long before it. Seconds.
ZONE_AHEAD_S: Final = 5.0
#: The zone is looked at so often. Seconds; below ZONE_AHEAD_S.
LOOK_S: Final = 2.0
#: The engine tells of finished scans at most so often: each time wakes the event loop. A batch that is closed meanwhile
#: has them all the same (gather()).
NOTIFY_NS: Final = 50_000_000
#: How long a guest waits for the scans under way to end. Seconds.
LEND_S: Final = 10.0


@dataclass
class _Line:
    """One line in the engine, and its port's reopening."""

    plan: LinePlan
    index: int
    status: LineStatus
    handed: int = 0  # ports given to the engine, or told as not to be opened
    reopen_at: float = 0.0  # monotonic
    pause: float = REOPEN_S[0]
    guest_fd: int = -1  # our own descriptor of the port, for guests
    lent: asyncio.Event = field(default_factory=asyncio.Event)
    loans: int = 0  # before the one that is waited for

    def keep(self, fd: int) -> None:
        """Keeps a descriptor of its own beside the engine's; -1: lets go of it."""
        if self.guest_fd >= 0:
            os.close(self.guest_fd)
        self.guest_fd = os.dup(fd) if fd >= 0 else -1


class LineEngine:
    """All lines of a plan on one native thread. A second run() is an error: make a new one."""

    def __init__(
        self, lines: Sequence[LinePlan], on_scan: OnScan, on_failure: OnFailure | None = None, zone: Zone = UTC
    ) -> None:
        """lines: of the kinds in KINDS; others go another way."""
        self._plans = tuple(lines)
        self._on_scan = on_scan
        self._on_failure = on_failure
        self._zone, self._ahead = zone, 0.0
        ring = ring_bytes(meter for line in self._plans for meter in line.meters)
        self._engine = Engine(lines=max(1, len(self._plans)), ring_bytes=ring, notify_ns=NOTIFY_NS)
        self._meters: dict[str, MeterRecords] = {}  # by id
        self._tags: dict[int, tuple[MeterRecords, Layout]] = {}  # of the records that may come
        self._next_tag = 0
        self._lines: list[_Line] = []
        self._tapped_line: _Line | None = None
        self._added = asyncio.Event()
        self._ended = False
        self._over = asyncio.Event()  # the thread has nothing more to do
        self._changed = asyncio.Event()  # lines went up or down
        self._changes = 0
        self.statuses = {line.config.id: LineStatus(line.config.id) for line in self._plans}

    async def run(self) -> None:
        """Polls until stop(), or until cancelled; scans under way are finished and handed on."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._work, args=[loop], name="line engine")
        reopening = None
        try:
            self._follow_zone()
            await self._add_lines()
            self._added.set()
            loop.add_reader(self._engine.results_fd, self.gather)
            thread.start()
            reopening = asyncio.create_task(self._reopen_for_ever(), name="ports")
            await self._over.wait()
            thread.join()
            self.gather()
        finally:
            if reopening is not None:
                reopening.cancel()
                await asyncio.gather(reopening, return_exceptions=True)
            loop.remove_reader(self._engine.results_fd)
            self._end(thread)

    def stop(self) -> None:
        """Begins no scan any more; run() returns within two seconds."""
        self._engine.stop(STOP_S)

    def wake(self, meter: str) -> None:
        """Asks a meter that was taken for dead at once. Raises KeyError for an unknown one."""
        for line in self._lines:
            for plan in line.plan.meters:
                if plan.config.id == meter:
                    self._engine.wake(line.index, plan.config.unit)
                    return
        raise KeyError(meter)

    def hold(self, line_id: str, unit: int, seconds: float) -> None:
        """A guest got no answer from a unit: for so long nothing that comes is taken for that of ours."""
        for line in self._lines if not self._ended else ():
            if line.plan.config.id == line_id:
                self._engine.hold(line.index, unit, round(seconds * NS))

    def held(self, line_id: str, unit: int) -> float:
        """Seconds in which nobody must ask a unit, as the answer to an earlier request may come."""
        lines = [line for line in self._lines if line.plan.config.id == line_id and not self._ended]
        return max((self._engine.held_ns(line.index, unit) / NS for line in lines), default=0.0)

    def drop(self, line_id: str) -> None:
        """Takes a line out; its scans under way are dropped."""
        self._plans = tuple(plan for plan in self._plans if plan.config.id != line_id)
        self.statuses.pop(line_id)
        for line in [line for line in self._lines if line.plan.config.id == line_id]:
            self._lines.remove(line)
            line.keep(-1)
            if not self._ended:
                self._engine.remove_line(line.index)

    def replan(self, plan: MeterPlan) -> None:
        """Has a meter asked by a new plan, from its next scan on."""
        for line in self._lines if not self._ended else ():
            for place, meter in enumerate(line.plan.meters):
                if meter.config.id == plan.config.id:
                    self._engine.replace_meter(line.index, place, meter_spec(plan, self._tag(plan)))

    def activities(self, line_id: str) -> dict[str, MeterActivity]:
        """What the meters of a line did, by id; empty before it was added."""
        line = next((line for line in self._lines if line.plan.config.id == line_id), None)
        if line is None or self._ended:
            return {}
        counted = zip(line.plan.meters, self._engine.meter_counters(line.index), strict=True)
        return {
            meter.config.id: MeterActivity(
                requests=own.requests,
                answers=own.answers,
                timeouts=own.timeouts,
                missed=own.missed,
                busy_s=own.busy_ns / NS,
                turnaround_s=own.median_ns / NS,
                turnarounds=own.turnarounds,
            )
            for meter, own in counted
        }

    @contextlib.asynccontextmanager
    async def lent(self, line_id: str, patience_s: float = LEND_S) -> AsyncIterator[int]:
        """A serial line's port for a guest, between two scans: a descriptor of it, the guest's to close.

        One guest at a time is the caller's to keep. Raises LineDownError.
        """
        await self._added.wait()
        if self._ended:
            raise LineDownError("the agent is stopping")
        line = next(line for line in self._lines if line.plan.config.id == line_id)
        line.lent.clear()
        line.loans = self._engine.loans(line.index)
        self._engine.lend(line.index)
        try:
            try:
                async with asyncio.timeout(patience_s):
                    await line.lent.wait()
            except TimeoutError:
                told = line.status.told or "its scans take too long"
                raise LineDownError(f"line {line_id} could not be had: {told}") from None
            if line.guest_fd < 0:
                raise LineDownError(f"line {line_id} could not be had: {line.status.told or 'its port is away'}")
            yield os.dup(line.guest_fd)
        finally:
            if not self._ended:
                self._engine.take_back(line.index)

    def open_tap(self, line_id: str) -> None:
        """Has what goes over a line written down. Raises ValueError when somebody looks already, or it is not there."""
        line = next((line for line in self._lines if line.plan.config.id == line_id), None)
        if line is None or self._ended:
            raise ValueError(f"line {line_id} is not polled yet, or not any more")
        if self._tapped_line is not None:
            raise ValueError(f"line {self._tapped_line.plan.config.id} is being captured already: one at a time")
        self._tapped_line = line
        self._engine.tapped()  # what was left of the last look
        self._engine.tap(line.index, True)

    def tapped(self) -> list[Piece]:
        """What went over the tapped line since the last call, at most a megabyte of it."""
        if self._ended or self._tapped_line is None:
            return []
        pieces, _ = self._engine.tapped()
        return [Piece(*piece) for piece in pieces]

    def close_tap(self) -> None:
        """Nobody looks any more; idempotent."""
        line, self._tapped_line = self._tapped_line, None
        if line is not None and line in self._lines and not self._ended:
            self._engine.tap(line.index, False)

    async def finish(self, line_id: str, within_s: float) -> None:
        """Begins no scan on a line any more; returns when those under way were handed on, at the latest after so long.

        For a line that is dropped next.
        """
        line = next((line for line in self._lines if line.plan.config.id == line_id), None)
        if line is None or self._ended or not line.status.up:
            return
        line.lent.clear()
        line.loans = self._engine.loans(line.index)
        self._engine.lend(line.index)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await line.lent.wait()

    def refresh(self) -> None:
        """Brings `statuses` up to date. What they count has been handed on."""
        if not self._ended:
            self._refresh()
            self.gather()

    @property
    def overruns(self) -> int:
        """Scans lost because this side did not take them in time."""
        return self._engine.overruns

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread."""
        try:
            self._engine.run()
        finally:
            loop.call_soon_threadsafe(self._over.set)

    def _follow_zone(self) -> None:
        """Slots lie on the local clock: a change of it is told ahead, so that the slot at the change is a new one."""
        ahead = self._zone.offset(time.time() + ZONE_AHEAD_S)
        if ahead != self._ahead:
            self._ahead = ahead
            self._engine.set_zone(round(ahead * NS))

    def _end(self, thread: threading.Thread) -> None:
        """Ends the thread if it still runs (cancelled), and gives everything back."""
        if thread.is_alive():
            self._engine.stop(0)
            thread.join()
            self.gather()
        self._refresh()
        self._ended = True
        self._engine.close()
        for line in self._lines:
            line.keep(-1)

    async def _add_lines(self) -> None:
        for plan in self._plans:
            serial = plan.address.kind == "serial"
            address = b"" if serial else await resolve(plan.address.host, plan.address.port)
            if plan not in self._plans:
                continue  # dropped meanwhile
            index = self._engine.add_line(line_spec(plan, self._next_tag, address))
            line = _Line(plan, index, self.statuses[plan.config.id])
            self._lines.append(line)
            for meter in plan.meters:
                self._meters[meter.config.id] = MeterRecords(meter, line.status)
                self._tag(meter)
            if serial:
                self._open(line)

    def _tag(self, plan: MeterPlan) -> int:
        """The first of the tags for the records that come of a plan, one for each case of groups that are due."""
        tag = self._next_tag
        for due in range(plan.all_due + 1):
            self._tags[tag + due] = self._meters[plan.config.id], Layout(plan, due)
        self._next_tag += plan.all_due + 1
        return tag

    async def _renew(self, line: _Line) -> None:
        """A port is opened anew, a host name looked up again: it may have moved."""
        if line.plan.address.kind == "serial":
            self._open(line)
            return
        line.reopen_at = 0.0
        address = await resolve(line.plan.address.host, line.plan.address.port)
        if line in self._lines:  # not dropped meanwhile
            self._engine.set_address(line.index, address)

    def _open(self, line: _Line) -> None:
        """Opens a serial port, or tells why not and when again."""
        line.handed += 1
        try:
            fd = open_port(line.plan.address)
        except LineDownError as error:
            line.reopen_at = time.monotonic() + line.pause
            line.pause = min(2 * line.pause, REOPEN_S[1])
            self._tell_down(line, str(error))
            line.keep(-1)
            self._engine.line_opened(line.index, -1)
            return
        line.pause = REOPEN_S[0]
        line.reopen_at = 0.0
        line.keep(fd)
        advise(line.status, line.plan.address)
        self._engine.line_opened(line.index, fd)

    async def _reopen_for_ever(self) -> None:
        while True:
            self._changed.clear()
            self._follow_zone()
            now = time.monotonic()
            due = [line for line in self._lines if line.reopen_at and line.reopen_at <= now]
            for line in due:
                if line in self._lines:
                    await self._renew(line)
            waiting = [line.reopen_at for line in self._lines if line.reopen_at]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, min(waiting, default=now + LOOK_S) - now)):
                    await self._changed.wait()

    def gather(self) -> None:
        """Hands on the scans that have finished: done when the engine tells of some, and before a batch is closed."""
        if self._ended:
            return
        for fields in self._engine.take():
            tag, slot_ms, answers, slots, quality, _, _ = fields
            meter, layout = self._tags[tag]
            if quality == layout.good and meter.well and layout.plan is meter.plan:
                ts = meter.timestamp(slot_ms, answers, layout)
                for entry in layout.entries:
                    self._on_scan(Scan(entry, ts, slots, layout.good_told))
            else:
                meter.take(Record(*fields), layout, self._on_scan, self._on_failure)
        if self._engine.changes != self._changes:
            self._changes = self._engine.changes
            self._refresh()
            self._changed.set()

    def _refresh(self) -> None:
        """The engine's counters into the lines' statuses; what became of the lines is told."""
        for line in self._lines:
            counters = self._engine.line_counters(line.index)
            status = line.status
            if counters.missed != status.missed:
                missed = zip(line.plan.meters, self._engine.missed(line.index), strict=True)
                status.late = {meter.config.id: count for meter, count in missed if count}
            status.requests, status.scans, status.missed = counters.requests, counters.scans, counters.missed
            status.busy_s = counters.busy_ns / NS
            self._judge(line, counters)
            if self._engine.loans(line.index) > line.loans:
                line.lent.set()

    def _judge(self, line: _Line, counters: LineCounters) -> None:
        if counters.failed and line.plan.address.kind == "serial":
            # While the engine has not seen the port we opened, it still tells of the one before.
            if not line.reopen_at and counters.openings == line.handed:
                line.reopen_at = time.monotonic() + line.pause
                self._tell_down(line, f"{line.plan.address.device} is gone ({_reason(counters.error)}): unplugged?")
        elif counters.failed:
            address = line.plan.address
            self._tell_down(line, f"{address.host}:{address.port}: {_reason(counters.error)}")
            line.reopen_at = line.reopen_at or time.monotonic() + REOPEN_S[1]
        elif counters.up and not line.status.up:
            if line.status.told:
                log.info("line %s is up again", line.status.id)
            line.status.up, line.status.told = True, ""

    def _tell_down(self, line: _Line, told: str) -> None:
        if line.status.told != told:
            log.warning("line %s is down: %s", line.status.id, told)
        line.status.up, line.status.told = False, told


async def resolve(host: str, port: int) -> bytes:
    """The struct sockaddr of a TCP endpoint; empty for a name that nobody knows (now)."""
    loop = asyncio.get_running_loop()
    try:
        family, _, _, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    except OSError:
        return b""
    packed = socket.inet_pton(family, str(address[0]))
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(">H4s8x", port, packed)
    scope = address[3] if len(address) > 3 else 0
    return struct.pack("=H", family) + struct.pack(">HI16s", port, 0, packed) + struct.pack("=I", int(scope))


def _reason(error: int) -> str:
    return os.strerror(error) if error else "ended by the other side"
