"""Asking simulated meters over real wires, by clients that are not ours."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.framer import FramerRTU, FramerType
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from parkfleet.protocols.profile import Table
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.line import SerialLine

REQUESTS = {
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
}
Client = AsyncModbusTcpClient | AsyncModbusSerialClient


def rtu_request(unit: int, table: Table, address: int, count: int) -> bytes:
    """A request's bytes as pymodbus frames them."""
    request = REQUESTS[table](dev_id=unit, address=address, count=count)
    return FramerRTU(DecodePDU(is_server=False)).buildFrame(request)


def with_crc(body: bytes) -> bytes:
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


@asynccontextmanager
async def pymodbus_on(line: SerialLine | TcpEndpoint, timeout: float = 5.0) -> AsyncIterator[Client]:
    """A pymodbus client of a line."""
    client: Client
    if isinstance(line, SerialLine):
        client = AsyncModbusSerialClient(str(line.path), baudrate=line.address.baud, timeout=timeout, retries=0)
    else:
        framer = FramerType.RTU if line.address.kind == "rtu+tcp" else FramerType.SOCKET
        client = AsyncModbusTcpClient(line.host, port=line.port, framer=framer, timeout=timeout, retries=0)
    assert await client.connect()
    try:
        yield client
    finally:
        client.close()


async def ask(client: Client, unit: int, table: Table, address: int, count: int) -> list[int]:
    """Registers or bits. Raises AssertionError for an exception answer."""
    readers = {
        "coil": client.read_coils,
        "discrete": client.read_discrete_inputs,
        "holding": client.read_holding_registers,
        "input": client.read_input_registers,
    }
    answer = await readers[table](address, count=count, device_id=unit)
    assert not answer.isError(), answer
    return list(answer.registers) or [int(bit) for bit in answer.bits[:count]]


class Port:
    """A line's device, opened as a program would, for bytes that no client sends."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    async def read(self, count: int) -> bytes:
        """Exactly count bytes. Raises OSError or EOFError when the line goes."""
        data = b""
        while len(data) < count:
            await self._readable()
            piece = os.read(self._fd, count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@asynccontextmanager
async def port_of(line: SerialLine) -> AsyncIterator[Port]:
    port = Port(line.path)
    try:
        yield port
    finally:
        port.close()
