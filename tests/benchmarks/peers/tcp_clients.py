"""TCP clients: ParkFleet's engine and pymodbus reading as fast as they can, each in a process of its own.

python -m tests.benchmarks.peers.tcp_clients CLIENT PORT SECONDS CONNECTIONS REGISTERS
prints requests, CPU seconds, wall seconds; CPU is counted from when all connections stand.
"""

import asyncio
import resource
import select
import struct
import sys
import threading
import time
from collections.abc import Callable

from parkfleet.native.engine import Engine
from parkfleet.native.spec import TCP, TYPES, FieldSpec, LineSpec, MeterSpec, RequestSpec


def cpu() -> float:
    """Seconds this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


#: Requests under way on each connection of `several`.
OUTSTANDING = 4


def ours(port: int, seconds: float, connections: int, registers: int) -> tuple[int, float, float]:
    """The engine, a line per connection; scans are taken as arrays with scaled doubles, and every value is there."""
    return engine_reads(port, seconds, connections, registers, 1)


def several(port: int, seconds: float, connections: int, registers: int) -> tuple[int, float, float]:
    """The same where endpoints allow some requests under way."""
    return engine_reads(port, seconds, connections, registers, OUTSTANDING)


def engine_reads(
    port: int, seconds: float, connections: int, registers: int, outstanding: int
) -> tuple[int, float, float]:
    """A line for each connection, with as many meters as requests may be under way."""
    address = struct.pack("=H", 2) + struct.pack(">H4s8x", port, bytes([127, 0, 0, 1]))
    floats = registers // 2
    fields = tuple(FieldSpec(i, TYPES.index("float32"), 0, 2 * i, 2, divide=10.0) for i in range(floats))
    requests_of = (RequestSpec(3, 0, registers, fields),)
    engine = Engine(ring_bytes=1 << 24)
    for _ in range(connections):
        meters = tuple(MeterSpec(unit, unit, 0, floats, requests_of, values=True) for unit in range(1, outstanding + 1))
        engine.add_line(
            LineSpec(TCP, 1_000_000_000, meters, address=address, least_timeout_ns=300_000_000, outstanding=outstanding)
        )
    thread = threading.Thread(target=engine.run, daemon=True)
    begun_cpu, begun = cpu(), time.monotonic()
    thread.start()
    requests, good = 0, bytes(floats)
    while time.monotonic() - begun < seconds:
        select.select([engine.results_fd], [], [], 0.1)
        for _, _, _, _, quality, _, values in engine.take():
            requests += 1
            if quality != good or values is None or len(values) != floats or values[0] != 23.0:
                sys.exit(f"not the values that were answered: quality {quality.hex()}, {engine.line_counters(0)}")
    result = requests, cpu() - begun_cpu, time.monotonic() - begun
    engine.stop()
    thread.join()
    if engine.overruns:
        sys.exit("scans were lost")
    engine.close()
    return result


def pymodbus(port: int, seconds: float, connections: int, registers: int) -> tuple[int, float, float]:
    """pymodbus's async client and its own decoding of a list of floats in one call."""
    from pymodbus.client import AsyncModbusTcpClient

    async def poll(client: AsyncModbusTcpClient, until: float) -> int:
        requests = 0
        while time.monotonic() < until:
            answer = await client.read_holding_registers(0, count=registers, device_id=1)
            floats = client.convert_from_registers(answer.registers, client.DATATYPE.FLOAT32)
            values = [value / 10 for value in floats]  # type: ignore[union-attr,operator]
            if values[0] != 23.0:
                sys.exit("not the values that were answered")
            requests += 1
        return requests

    async def run() -> tuple[int, float, float]:
        clients = [AsyncModbusTcpClient("127.0.0.1", port=port) for _ in range(connections)]
        for client in clients:
            await client.connect()
        begun_cpu, begun = cpu(), time.monotonic()
        counts = await asyncio.gather(*(poll(client, begun + seconds) for client in clients))
        result = sum(counts), cpu() - begun_cpu, time.monotonic() - begun
        for client in clients:
            client.close()
        return result

    return asyncio.run(run())


CLIENTS: dict[str, Callable[[int, float, int, int], tuple[int, float, float]]] = {
    "ours": ours,
    "several": several,
    "pymodbus": pymodbus,
}

if __name__ == "__main__":
    name, port, seconds, connections, registers = sys.argv[1:]
    print(*CLIENTS[name](int(port), float(seconds), int(connections), int(registers)))
