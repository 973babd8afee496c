"""RTU clients: ParkFleet's engine and its peers reading the same meters of one line, each in a process of its own.

python -m tests.benchmarks.peers.rtu_clients CLIENT DEVICE BAUD UNITS BLOCKS CYCLES
prints good requests, failed requests, CPU seconds, wall seconds; each block is 20 registers at 100 times its number;
for `planned`, 6 registers lie between the blocks, and the read plan says which requests are made.
"""

import asyncio
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable

from parkfleet.agent.engine_spec import field_spec
from parkfleet.native.engine import Engine
from parkfleet.native.spec import SERIAL, FieldSpec, LineSpec, MeterSpec, RequestSpec
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.readplan import WireCost, plan_requests
from tests.benchmarks.peers.tcp_clients import cpu

REGISTERS = 20
PLANNED_GAP = 6
Result = tuple[int, int, float, float]


def expected(block: int) -> list[int]:
    """What the simulated slaves have there."""
    return list(range(100 * block, 100 * block + REGISTERS))


def open_port(device: str, baud: int) -> int:
    """A raw port."""
    fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    tty.setraw(fd)
    settings = termios.tcgetattr(fd)
    settings[4] = settings[5] = getattr(termios, f"B{baud}")
    termios.tcsetattr(fd, termios.TCSANOW, settings)
    return fd


def block_requests(blocks: int) -> tuple[RequestSpec, ...]:
    """One request a block."""
    return tuple(
        RequestSpec(
            3, 100 * block, REGISTERS, tuple(FieldSpec(REGISTERS * block + i, 1, 0, i, 1) for i in range(REGISTERS))
        )
        for block in range(blocks)
    )


def planned_requests(baud: int, blocks: int) -> tuple[RequestSpec, ...]:
    """The requests of our read plan for blocks that lie as near to each other as a real meter's."""
    points = [
        Point(f"p{block}_{index}", "uint16", (REGISTERS + PLANNED_GAP) * block + index)
        for block in range(blocks)
        for index in range(REGISTERS)
    ]
    profile = Profile("planned", {}, "power", "this benchmark", points)
    plan = plan_requests(profile, points, 1, WireCost.of(LineAddress(kind="serial", baud=baud)))
    return tuple(
        RequestSpec(
            planned.request.function,
            planned.request.address,
            planned.request.count,
            tuple(field_spec(points[index], index, planned.request.address) for index in planned.points),
        )
        for planned in plan
    )


def serial_spec(fd: int, baud: int, units: int, requests: tuple[RequestSpec, ...], interval_ns: int = 0) -> LineSpec:
    """The line as the engine sees it; every meter is read by the same requests."""
    columns = sum(len(request.fields) for request in requests)
    meters = tuple(MeterSpec(unit, unit, interval_ns, columns, requests) for unit in range(1, units + 1))
    byte_ns = 10_000_000_000 // baud
    return LineSpec(SERIAL, 1_000_000_000, meters, byte_ns, 35 * byte_ns // 10 if baud <= 19200 else 1_750_000, fd)


def ours(device: str, baud: int, units: int, blocks: int, cycles: int) -> Result:
    """The engine, one request a block."""
    return engine_reads(device, baud, units, block_requests(blocks), cycles)


def planned(device: str, baud: int, units: int, blocks: int, cycles: int) -> Result:
    """The engine by its own plan."""
    return engine_reads(device, baud, units, planned_requests(baud, blocks), cycles)


def engine_reads(device: str, baud: int, units: int, requests: tuple[RequestSpec, ...], cycles: int) -> Result:
    """Continuous reading, until every meter was read so often. The slaves' registers hold their own addresses."""
    engine = Engine()
    right = [request.address + field.first for request in requests for field in request.fields]
    blocks = len(requests)
    engine.add_line(serial_spec(open_port(device, baud), baud, units, requests))
    thread = threading.Thread(target=engine.run, daemon=True)
    begun_cpu, begun = cpu(), time.monotonic()
    thread.start()
    good = failed = 0
    while good + failed < units * blocks * cycles:
        select.select([engine.results_fd], [], [])
        for _, _, answers, slots, _, _, _ in engine.take():
            good += sum(map(bool, answers))
            failed += blocks - sum(map(bool, answers))
            if all(answers) and list(slots) != right:
                sys.exit("not the values that were answered")
    result = good, failed, cpu() - begun_cpu, time.monotonic() - begun
    engine.stop(0)
    thread.join()
    engine.close()
    return result


def pymodbus_sync(device: str, baud: int, units: int, blocks: int, cycles: int) -> Result:
    """pymodbus's serial client, its defaults."""
    from pymodbus.client import ModbusSerialClient
    from pymodbus.exceptions import ModbusException

    client = ModbusSerialClient(device, baudrate=baud)
    client.connect()
    good = failed = 0
    begun_cpu, begun = cpu(), time.monotonic()
    for _ in range(cycles):
        for unit in range(1, units + 1):
            for block in range(blocks):
                try:
                    answer = client.read_holding_registers(100 * block, count=REGISTERS, device_id=unit)
                except ModbusException:
                    failed += 1
                    continue
                good += answer.registers == expected(block)
    return good, failed, cpu() - begun_cpu, time.monotonic() - begun


def pymodbus_async(device: str, baud: int, units: int, blocks: int, cycles: int) -> Result:
    """pymodbus's asyncio serial client, its defaults."""
    from pymodbus.client import AsyncModbusSerialClient
    from pymodbus.exceptions import ModbusException

    async def run() -> Result:
        client = AsyncModbusSerialClient(device, baudrate=baud)
        await client.connect()
        good = failed = 0
        begun_cpu, begun = cpu(), time.monotonic()
        for _ in range(cycles):
            for unit in range(1, units + 1):
                for block in range(blocks):
                    try:
                        answer = await client.read_holding_registers(100 * block, count=REGISTERS, device_id=unit)
                    except ModbusException:
                        failed += 1
                        continue
                    good += answer.registers == expected(block)
        result = good, failed, cpu() - begun_cpu, time.monotonic() - begun
        client.close()
        return result

    return asyncio.run(run())


def minimal_modbus(device: str, baud: int, units: int, blocks: int, cycles: int) -> Result:
    """minimalmodbus, an instrument a meter on one port."""
    import minimalmodbus  # type: ignore[import-not-found]

    instruments = []
    for unit in range(1, units + 1):
        instrument = minimalmodbus.Instrument(device, unit)
        instrument.serial.baudrate = baud
        instrument.serial.timeout = 1.0
        instruments.append(instrument)
    good = failed = 0
    begun_cpu, begun = cpu(), time.monotonic()
    for _ in range(cycles):
        for instrument in instruments:
            for block in range(blocks):
                try:
                    good += instrument.read_registers(100 * block, REGISTERS) == expected(block)
                except OSError:
                    failed += 1
    return good, failed, cpu() - begun_cpu, time.monotonic() - begun


CLIENTS: dict[str, Callable[[str, int, int, int, int], Result]] = {
    "ours": ours,
    "planned": planned,
    "pymodbus_sync": pymodbus_sync,
    "pymodbus_async": pymodbus_async,
    "minimalmodbus": minimal_modbus,
}

if __name__ == "__main__":
    name, device, *numbers = sys.argv[1:]
    baud, units, blocks, cycles = map(int, numbers)
    print(*CLIENTS[name](device, baud, units, blocks, cycles))
