"""RTU with dead meters: how fast the engine reads the others, and how soon a dead one that returns.

python -m tests.benchmarks.peers.rtu_dead DEVICE BAUD UNITS DEAD LINE_PID
prints: cycle with the dead after detection, cycle of the alive alone, seconds from return to the last one's reading,
what share of the line's time the dead took after detection.
"""

import os
import select
import signal
import sys
import threading
import time

from parkfleet.native.engine import Engine
from tests.benchmarks.peers.rtu_clients import block_requests, open_port, serial_spec

CYCLES = 9
BLOCKS = 3


class Reader:
    """A running engine on the line."""

    def __init__(self, device: str, baud: int, units: int) -> None:
        self.engine = Engine()
        self.line = self.engine.add_line(serial_spec(open_port(device, baud), baud, units, block_requests(BLOCKS)))
        self._thread = threading.Thread(target=self.engine.run, daemon=True)
        self._thread.start()

    def good(self) -> list[int]:
        """Tags of the good scans that came, waiting for some."""
        select.select([self.engine.results_fd], [], [])
        return [record[0] for record in self.engine.take() if all(record[2])]

    def cycle(self, alive: int) -> float:
        """Seconds a cycle of the alive takes, mean of some."""
        seen, begun, wanted = 0, 0.0, CYCLES * alive
        while seen < wanted:
            tags = self.good()
            if not begun and tags:
                begun = time.monotonic()
                continue
            seen += len(tags)
        return (time.monotonic() - begun) / (seen / alive)

    def end(self) -> None:
        self.engine.stop(0)
        self._thread.join()
        self.engine.close()


def main(device: str, baud: int, units: int, dead: int, line_pid: int) -> None:
    """See above."""
    alone = Reader(device, baud, units - dead)
    alone_s = alone.cycle(units - dead)
    alone.end()
    reader = Reader(device, baud, units)
    while min(meter.misses for meter in reader.engine.meter_counters(reader.line)[-dead:]) < 2:
        reader.good()
    begun, before = time.monotonic(), reader.engine.line_counters(reader.line).dead_busy_ns
    with_dead_s = reader.cycle(units - dead)
    took = reader.engine.line_counters(reader.line).dead_busy_ns - before
    share = took / 1e9 / (time.monotonic() - begun)
    os.kill(line_pid, signal.SIGUSR1)
    returned, missing = time.monotonic(), set(range(units - dead + 1, units + 1))
    while missing:
        missing -= set(reader.good())
    print(with_dead_s, alone_s, time.monotonic() - returned, share)
    reader.end()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
