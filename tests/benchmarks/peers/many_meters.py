"""A thousand meters over fifty TCP lines at one second, as an agent would read them.

python -m tests.benchmarks.peers.many_meters PORT SECONDS
prints: late scans, missed slots, bad scans, scans, CPU s, wall s, RSS growth after warm-up in MB.
"""

import select
import struct
import sys
import threading
import time
from pathlib import Path

from parkfleet.native.engine import Engine
from parkfleet.native.spec import TCP, TYPES, FieldSpec, LineSpec, MeterSpec, RequestSpec
from tests.benchmarks.peers.tcp_clients import cpu

LINES, METERS, REGISTERS, WARM_UP_S = 50, 20, 100, 10.0
#: A scan is late when its answer came after the following slot.
INTERVAL_MS = 1000


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def line(port: int, first_tag: int) -> LineSpec:
    """Twenty meters behind one endpoint."""
    fields = tuple(FieldSpec(i, TYPES.index("float32"), 0, 2 * i, 2) for i in range(REGISTERS // 2))
    requests = (RequestSpec(3, 0, REGISTERS, fields),)
    meters = tuple(
        MeterSpec(first_tag + unit, 1 + unit, INTERVAL_MS * 1_000_000, REGISTERS // 2, requests)
        for unit in range(METERS)
    )
    address = struct.pack("=H", 2) + struct.pack(">H4s8x", port, bytes([127, 0, 0, 1]))
    return LineSpec(TCP, 1_000_000_000, meters, address=address, least_timeout_ns=300_000_000)


def main(port: int, seconds: float) -> None:
    """See above."""
    engine = Engine()
    lines = [engine.add_line(line(port, METERS * index)) for index in range(LINES)]
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    begun, begun_cpu, warm_mb, late, bad, scans = time.monotonic(), cpu(), 0.0, 0, 0, 0
    while (elapsed := time.monotonic() - begun) < seconds:
        select.select([engine.results_fd], [], [], 0.5)
        for _, slot_ms, answers, _, quality, _, _ in engine.take():
            scans += 1
            late += max(answers) - slot_ms >= INTERVAL_MS
            bad += any(quality)
        if not warm_mb and elapsed > WARM_UP_S:
            warm_mb = resident_mb()
    used, took, grown = cpu() - begun_cpu, time.monotonic() - begun, resident_mb() - warm_mb
    missed = sum(engine.line_counters(index).missed for index in lines)
    engine.stop(0)
    thread.join()
    engine.close()
    print(late, missed, bad, scans, used, took, grown)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
