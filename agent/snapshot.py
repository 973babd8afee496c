"""Snapshot: gathers what the agent's parts say of themselves into one picture for the controller."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from parkfleet.agent.activity import LineStatus
from parkfleet.agent.delivery import ForwarderStatus
from parkfleet.agent.status import (
    AgentSnapshot,
    BrokerLink,
    BufferDepth,
    DeliveredCount,
    LineReport,
    resident_bytes,
)
from parkfleet.agent.store import StoreStats

#: A line's load is told over so many seconds.
LOAD_WINDOW_S: Final = 60.0


class LoadMeter:
    """Share of a line's time that was spent in transactions, over the last LOAD_WINDOW_S."""

    def __init__(self, now: float, busy_s: float = 0.0) -> None:
        """busy_s: seconds spent in transactions before."""
        self._samples: deque[tuple[float, float]] = deque([(now, busy_s)])

    def load(self, now: float, busy_s: float) -> float:
        """0 to 1; busy_s: seconds spent in transactions since the start; now: monotonic seconds."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - LOAD_WINDOW_S:
            self._samples.popleft()
        since, busy_then = self._samples[0]
        self._samples.append((now, busy_s))
        return min(1.0, (busy_s - busy_then) / (now - since)) if now > since else 0.0


class Snapshots:
    """Takes snapshots of one agent."""

    def __init__(self, lines: Callable[[], Sequence[LineStatus]], forwarder: ForwarderStatus, meters: int) -> None:
        self._lines = lines
        self._forwarder = forwarder
        self._meters = meters
        self._began = time.monotonic()
        self._loads = {line.id: LoadMeter(self._began, line.busy_s) for line in lines()}

    def take(self, buffer: StoreStats, alarms: int = 0) -> AgentSnapshot:
        """The agent now. alarms: that are raised."""
        now = time.monotonic()
        delivered = self._forwarder
        lines = self._lines()
        bad = sum(len(line.meters_bad) for line in lines)
        return AgentSnapshot(
            uptime_s=now - self._began,
            buffer=BufferDepth(
                batches=buffer.batches,
                readings=buffer.readings,
                bytes=buffer.bytes,
                oldest_ts=buffer.oldest_ts or None,
                last_seq=buffer.last_seq,
                epoch=buffer.epoch,
                thinned_readings=buffer.thinned_readings,
                dropped_readings=buffer.dropped_readings,
            ),
            delivered=DeliveredCount(delivered.batches, delivered.readings, delivered.bytes),
            broker=BrokerLink(delivered.connected, delivered.told),
            lines=[self._report(line, now) for line in lines],
            meters_ok=self._meters - bad,
            meters_bad=bad,
            rss_bytes=resident_bytes(),
            alarms=alarms,
        )

    def _report(self, line: LineStatus, now: float) -> LineReport:
        return LineReport(
            id=line.id,
            load=self._loads.setdefault(line.id, LoadMeter(self._began)).load(now, line.busy_s),
            requests=line.requests,
            errors=dict(line.errors),
            up=line.up,
            told=line.told or line.overload,
            missed=line.missed,
            late=dict(line.late),
        )
