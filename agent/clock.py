"""Clock: whether this box knows the time, and by how much it was set. Readings from before are given the right time.

A Raspberry Pi has no battery: after a power cut it believes an old time until NTP answers. Until then readings wait
with the time as it was believed (held.py keeps them); once the clock is set they are stamped anew by the step.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, Protocol

from parkfleet.agent.held import HeldScan
from parkfleet.protocols.payload.series import Scan

#: No box has a right clock that shows an earlier time. Seconds: 2026-01-01 UTC.
EARLIEST_S: Final = 1_767_225_600
#: Readings from before the clock was set are kept back so long, then go out as they are stamped. Seconds.
PATIENCE_S: Final = 600.0
#: … or so many scans of them.
MOST_HELD: Final = 100_000
#: A smaller change is the slow correction every clock gets. Seconds.
STEP_S: Final = 2.0
#: So long after a step, scans can still come that were stamped before it: the line engine looks at the clock once a
#: second, and a scan under way keeps the time of its answers. Seconds.
LATE_S: Final = 10.0
_STA_UNSYNC: Final = 0x0040


class TimeSource(Protocol):
    """What the operating system tells."""

    def wall(self) -> float:
        """Seconds UTC, right or not."""

    def since_boot(self) -> float:
        """Seconds, suspended ones too; never set."""

    def synchronised(self) -> bool:
        """Whether somebody (NTP, PTP, GPS) keeps the wall clock right."""


class SystemTime:
    """Linux."""

    def wall(self) -> float:
        return time.time()

    def since_boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def synchronised(self) -> bool:
        """adjtimex(2): the kernel's own flag, which chrony, ntpd and systemd-timesyncd keep."""
        state = (ctypes.c_byte * 512)()  # struct timex; modes, its first member, is 0: nothing is changed
        if _library().adjtimex(ctypes.byref(state)) == -1:
            return False  # refused, as in some containers: nobody vouches for the clock
        status = ctypes.c_int.from_buffer(state, 5 * ctypes.sizeof(ctypes.c_long)).value
        return not status & _STA_UNSYNC


@dataclass
class ClockGate:
    """Stands before everything that keeps readings: lets them through once the time is known.

    on_event: called with (kind, text, data) when the clock is set, stepped, or given up.
    """

    source: TimeSource
    deliver: Callable[[Scan], None]
    on_event: Callable[[str, str, dict[str, object]], None]
    newest_ts: int = 0  # ms UTC of the newest reading of an earlier life: the clock cannot be before it
    boot: str = ""  # which life of the box since_boot counts in
    _held: list[Scan] = field(default_factory=list)
    _open: bool = False
    _offset: float = 0.0  # wall minus boot time, as last seen
    _began: float = 0.0
    _step: float = 0.0  # the last one that held readings were moved by; 0: none of late
    _stepped: float = 0.0  # when, since boot
    _told: bool | None = None  # whether the clock was synchronised when that was last told

    def __post_init__(self) -> None:
        self._began = self.source.since_boot()
        self._offset = self._now_offset()
        self._open = self._is_plausible()

    @property
    def held(self) -> int:
        """Scans that wait for the time."""
        return len(self._held)

    def held_from(self, index: int) -> list[HeldScan]:
        """Those that wait, from the index-th on."""
        return [HeldScan(scan.ts - round(1000 * self._offset), scan) for scan in self._held[index:]]

    def resume(self, held: Sequence[HeldScan], *, same_boot: bool) -> None:
        """Takes over what waited in an earlier life. Before the first scan. Of another start of the box nobody will
        ever know its time: it goes out as it is."""
        if not held:
            return
        if not same_boot:
            self.on_event(
                "clock-not-set", "the box was started anew, readings before bear a wrong time", self._facts(0.0)
            )
            for each in held:
                self.deliver(each.scan)
            return
        self._held = [replace(each.scan, ts=each.since_boot + round(1000 * self._offset)) for each in held]
        self._began = min(self._began, held[0].since_boot / 1000)
        if self._open:
            self._let_go("clock-set", "the clock was set while the agent did not run")

    def on_scan(self, scan: Scan) -> None:
        """Takes a scan."""
        if not self._open:
            self.look()  # set since the last look? Then the scan may be right already, those held are not
        scan = self._stamped(scan)
        if self._open:
            self.deliver(scan)
            return
        self._held.append(scan)
        if len(self._held) >= MOST_HELD:
            self._give_up("too many readings wait for it")

    def look(self) -> None:
        """Looks at the clock; call it every second or so, and once more before the end."""
        offset = self._now_offset()
        step = offset - self._offset
        if not self._open:
            step = round(step, 3)  # what is below a stamp's resolution is kept until it adds up
        self._offset += step
        if not self._open:
            if step:
                self._held = [_moved(scan, step) for scan in self._held]
            if abs(step) > STEP_S:
                self._step, self._stepped = step, self.source.since_boot()
            if self._is_plausible():
                self._let_go("clock-set", f"the clock was set by {step:+.0f} s")
            elif self.source.since_boot() - self._began > PATIENCE_S:
                self._give_up(f"nobody set it for {PATIENCE_S:.0f} s")
        elif abs(step) > STEP_S:
            self.on_event("clock-stepped", f"the clock was set by {step:+.1f} s", self._facts(step))

    def tell(self) -> None:
        """Tells how wall clock and time since boot stand, at first and when somebody begins or ceases to keep it right.

        With the events of its steps, this is every reading's monotonic time, boot and synchronisation.
        """
        synchronised = self.source.synchronised()
        if self._open and synchronised is not self._told:
            self._told = synchronised
            text = "the clock is kept right" if synchronised else "nobody keeps the clock right"
            self.on_event("clock", text, self._facts(0.0))

    def end(self) -> None:
        """Nothing waits any longer: the agent stops."""
        self.look()
        if not self._open:
            self._give_up("the agent stops")

    def _stamped(self, scan: Scan) -> Scan:
        """The scan by the clock as it is now: after a step, those stamped before it are told by their age."""
        if not self._step:
            return scan
        if self.source.since_boot() - self._stepped > LATE_S:
            self._step = 0.0
            return scan
        age = self.source.wall() - scan.ts / 1000
        return _moved(scan, self._step) if abs(age - self._step) < abs(age) else scan

    def _is_plausible(self) -> bool:
        if self.source.synchronised():
            return True
        return self.source.wall() >= max(EARLIEST_S, self.newest_ts / 1000 - 60)

    def _give_up(self, why: str) -> None:
        self._let_go("clock-not-set", f"the clock was not set, readings bear a wrong time: {why}")

    def _let_go(self, kind: str, text: str) -> None:
        held, self._held, self._open = self._held, [], True
        if held or kind == "clock-not-set":
            self.on_event(kind, text, {**self._facts(0.0), "scans": len(held)})
        for scan in held:
            self.deliver(scan)

    def _facts(self, step: float) -> dict[str, object]:
        return {
            "step_ms": round(1000 * step),
            "since_boot_ms": round(1000 * self.source.since_boot()),
            "boot": self.boot,
            "synchronised": self.source.synchronised(),
        }

    def _now_offset(self) -> float:
        return self.source.wall() - self.source.since_boot()


@cache
def _library() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None)


def _moved(scan: Scan, step: float) -> Scan:
    return replace(scan, ts=scan.ts + round(1000 * step))
