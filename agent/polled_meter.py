"""Polled meter: what a poller knows of one meter, and what came of one of its scans."""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from parkfleet.agent.activity import MeterActivity
from parkfleet.agent.plan import MeterPlan
from parkfleet.agent.transport import LineDownError
from parkfleet.agent.zone import UTC, Zone
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ModbusError
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.readplan import PlannedRequest


@dataclass
class PolledMeter:
    """What is known of one meter, per (line, unit)."""

    plan: MeterPlan
    last_ts: int = 0
    quiet_until: float = 0.0  # monotonic; it takes no request before
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


class Read:
    """What came of a scan's requests."""

    def __init__(self, plan: MeterPlan, asked: Sequence[PlannedRequest]) -> None:
        """plan, asked: as they were when the scan began; the meter may have got others since."""
        self.plan = plan
        self.asked = asked
        columns = len(plan.points)
        self.slots, self.quality = array("q", bytes(8 * columns)), bytearray([Quality.SKIPPED]) * columns
        self.texts: dict[int, str | None] = {}
        self.outcomes = [int(Quality.SKIPPED)] * len(asked)
        self.answered: float | None = None  # when the first answer came, seconds of the wall clock
        self.cause: int | None = None  # of what ended it before its end
