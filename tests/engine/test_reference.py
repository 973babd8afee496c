"""Frames against pymodbus, both ways: it parses what the engine asks, the engine decodes what it answers."""

import random
import socket
from collections.abc import Container

import pytest
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.framer.base import FramerBase
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsResponse, ReadDiscreteInputsResponse
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse

from parkfleet.native.spec import TYPES, FieldSpec, MeterSpec, Record, RequestSpec
from parkfleet.protocols.modbus import rtu
from tests.engine.rig import GOOD, PtySlave, Rig, TcpSlave, mbap, serial_line, tcp_line

RESPONSES = {
    1: ReadCoilsResponse,
    2: ReadDiscreteInputsResponse,
    3: ReadHoldingRegistersResponse,
    4: ReadInputRegistersResponse,
}


def any_meter(chance: random.Random, unit: int) -> MeterSpec:
    """Four requests of any function, address and legal count."""
    requests: list[RequestSpec] = []
    columns = 0
    for _ in range(4):
        function = chance.randint(1, 4)
        count = chance.choice([1, 7, 8, 9, chance.randint(1, 2000)] if function < 3 else [1, 2, chance.randint(1, 125)])
        kind = TYPES.index("bool" if function < 3 else "uint16")
        fields = tuple(FieldSpec(columns + i, kind, 0, i, 1) for i in range(count))
        requests.append(RequestSpec(function, chance.randint(0, 65536 - count), count, fields))
        columns += count
    return MeterSpec(unit, unit, 0, columns, tuple(requests))


def said(unit: int, function: int, address: int, count: int) -> list[int]:
    """The values in a slave's registers or bits."""
    chance = random.Random(f"{unit} {function} {address}")
    return [chance.randrange(2 if function < 3 else 65536) for _ in range(count)]


class Reference:
    """A slave made of pymodbus."""

    def __init__(self, framer: type[FramerBase], refused: Container[int] = ()) -> None:
        """refused: addresses of requests that are answered with exception 2."""
        self._requests = framer(DecodePDU(True))
        self._refused = refused

    def answer(self, frame: bytes) -> bytes:
        """The frame that answers a frame; every value is another."""
        used, request = self._requests.handleFrame(frame, 0, 0)
        assert used == len(frame)
        assert isinstance(request, ModbusPDU)
        bits = request.function_code < 3
        if request.address in self._refused:
            refusal = ExceptionResponse(request.function_code, 2, request.dev_id, request.transaction_id)
            return self._requests.buildFrame(refusal)
        values = said(request.dev_id, request.function_code, request.address, request.count)
        response = RESPONSES[request.function_code](
            dev_id=request.dev_id,
            transaction_id=request.transaction_id,
            **({"bits": [bool(bit) for bit in values]} if bits else {"registers": values}),
        )
        return self._requests.buildFrame(response)


def decoded_right(meters: list[MeterSpec], record: Record) -> bool:
    """Whether a record has what was said."""
    meter = next(meter for meter in meters if meter.tag == record.tag)
    right = [value for r in meter.requests for value in said(meter.unit, r.function, r.address, r.items)]
    return set(record.quality) == {GOOD} and list(record.slots) == right


@pytest.mark.parametrize("seed", range(3))
def test_rtu_frames_are_those_of_pymodbus(seed: int) -> None:
    """Every function, on a serial line."""
    reference = Reference(FramerRTU)
    meters = [any_meter(random.Random(f"{seed} {unit}"), unit) for unit in (1, 17, 247)]

    def behave(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, reference.answer(rtu.frame(unit, pdu)))]

    with PtySlave(behave) as slave, Rig() as rig:
        rig.engine.add_line(serial_line(slave.open(), *meters))
        records = rig.scans(3)
    assert all(decoded_right(meters, record) for record in records)


@pytest.mark.parametrize("seed", range(3))
def test_tcp_frames_are_those_of_pymodbus(seed: int) -> None:
    """Every function, at an endpoint, several requests under way."""
    reference = Reference(FramerSocket)
    meters = [any_meter(random.Random(f"{seed} {unit}"), unit) for unit in (0, 17, 255)]

    def behave(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        connection.sendall(reference.answer(mbap(transaction, unit, pdu)))

    with TcpSlave(behave) as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, *meters, outstanding=4))
        records = rig.scans(3)
    assert all(decoded_right(meters, record) for record in records)


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_refusals_are_those_of_pymodbus(kind: str) -> None:
    """Every second request is refused by pymodbus: its points bear the exception, the others their values."""
    plain = any_meter(random.Random(7), 9)
    refused = {request.address for request in plain.requests[::2]}
    reference = Reference(FramerRTU if kind == "rtu" else FramerSocket, refused)

    def on_line(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
        return [(0.0, reference.answer(rtu.frame(unit, pdu)))]

    def at_endpoint(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        connection.sendall(reference.answer(mbap(transaction, unit, pdu)))

    with PtySlave(on_line) as slave, TcpSlave(at_endpoint) as server, Rig() as rig:
        rig.engine.add_line(serial_line(slave.open(), plain) if kind == "rtu" else tcp_line(server.port, plain))
        record = rig.scans(1)[0]
    for place, request in enumerate(plain.requests):
        columns = [field.column for field in request.fields]
        own = {record.quality[column] for column in columns}
        assert own == ({0x82} if place % 2 == 0 else {GOOD})
        values = said(plain.unit, request.function, request.address, request.items)
        assert [record.slots[column] for column in columns] == ([0] * len(values) if place % 2 == 0 else values)
