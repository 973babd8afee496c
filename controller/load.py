"""Load: how busy this process is, measured once a second."""

import asyncio
import os
import resource
from pathlib import Path
from typing import Final

from parkfleet.controller.admission import Admission

#: The event loop is asked this often whether it is in time. Seconds.
PROBE_S: Final = 0.25
#: Probes of one measurement: a second.
PROBES: Final = 4


class Load:
    """Watches the event loop, and tells the door."""

    def __init__(self, door: Admission) -> None:
        self._door = door
        self.late_s = 0.0  # the latest that the loop was within the last second

    async def run(self) -> None:
        """Measures until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            late_s = 0.0
            for _ in range(PROBES):
                due = loop.time() + PROBE_S
                await asyncio.sleep(PROBE_S)
                late_s = max(late_s, loop.time() - due)
            self.late_s = late_s
            self._door.measure(late_s)


def rss_bytes() -> int:
    """Memory that this process has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors() -> int:
    """Open file descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def cpu_seconds() -> float:
    """CPU time of this process, of all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
