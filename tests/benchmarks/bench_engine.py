"""make bench-engine: the line engine beside the popular clients, in the same run. About six minutes on two cores."""

from tests.benchmarks.bench_rtu import rtu_rows
from tests.benchmarks.bench_tcp import tcp_rows
from tests.benchmarks.harness import compiled, measured, python, served
from tests.benchmarks.reporting import Measure, write_report

HEADER = """
Line engine. Server or simulated line on core 0, client on core 1, rounds interleaved, medians.
TCP: 16 connections to a C server, 100 registers a request, as fast as it goes. ours: scans taken by Python as arrays
  of slots and scaled doubles; pymodbus: async client, convert_from_registers, scaled; libmodbus: a thread for each
  connection, modbus_get_float_abcd, scaled, values thrown away; floor: C epoll loop that decodes nothing. One request
  under way on a connection, but for the row that says otherwise: none of the peers can do that.
RTU: 32 meters x 3 blocks of 20 registers on a pty, each byte delivered when it would be off the wire, turnaround 5 to
  20 ms by meter, requests before t3.5 ignored (for pymodbus async and libmodbus only counted). ideal: wire time,
  turnaround and t3.5, computed. own plan: the same registers, 6 apart between the blocks, read as our read plan says.
"""


def many_rows() -> list[Measure]:
    """1,000 meters over 50 lines at 1 s for a minute."""
    with served(str(compiled("server.c"))) as (_, port):
        late, missed, bad, scans, cpu_s, wall_s, grown = measured(
            *python("tests.benchmarks.peers.many_meters", port, 60), within_s=120
        )
    share = 100 * cpu_s / wall_s
    what = "1,000 meters over 50 lines at 1 s for 60 s"
    failed = late + missed + bad
    return [
        Measure(f"{what}: late, missed or bad scans", f"of {scans:.0f}", failed, {}, None, "0", failed == 0),
        Measure(f"{what}: CPU", "% of a core", share, {}, None, "<= 25 %", share <= 25),
        Measure(f"{what}: RSS growth", "MB", grown, {}, None, "0 after warm-up", grown <= 0),
    ]


def main() -> None:
    """Runs all and reports."""
    write_report("engine", HEADER, [*tcp_rows(), *rtu_rows(), *many_rows()])


if __name__ == "__main__":
    main()
