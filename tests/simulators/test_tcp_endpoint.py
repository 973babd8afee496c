"""TCP endpoint: read by pymodbus over Modbus TCP and RTU over TCP, several connections at once, with faults."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
from pymodbus.exceptions import ModbusIOException

from parkfleet.protocols.config import LineAddress, parse_line_url
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.eventually import eventually
from tests.simulators.asking import ask, descriptors, pymodbus_on, rtu_request
from tests.simulators.models import EVERYTHING, GAS, WATER, profile


def meters() -> list[SimulatedMeter]:
    models = {1: EVERYTHING, 2: WATER, 3: GAS}
    return [SimulatedMeter(p, unit, load_of(p.medium, unit)) for unit, text in models.items() if (p := profile(text))]


@pytest.fixture
def record() -> AnswerRecord:
    return AnswerRecord()


@pytest.fixture(params=[False, True], ids=["tcp", "rtu+tcp"])
async def endpoint(request: pytest.FixtureRequest, record: AnswerRecord) -> AsyncIterator[TcpEndpoint]:
    async with TcpEndpoint("hall", meters(), record, rtu=request.param) as running:
        yield running


@pytest.fixture
async def plain(record: AnswerRecord) -> AsyncIterator[TcpEndpoint]:
    """Modbus TCP only."""
    async with TcpEndpoint("hall", meters(), record) as running:
        yield running


def tcp_request(transaction: int, unit: int, address: int = 0, count: int = 2) -> bytes:
    return struct.pack(">HHHBBHH", transaction, 0, 6, unit, 3, address, count)


async def test_pymodbus_reads_every_table_and_type(endpoint: TcpEndpoint, record: AnswerRecord) -> None:
    """What the client got is what the record says, and every point of it decodes."""
    async with pymodbus_on(endpoint) as client:
        for unit, meter in endpoint.meters.items():
            for point in meter.profile.points:
                got = await ask(client, unit, point.table, point.address, point.count)
                await eventually(lambda: len(record) > 0)
                answer = record.since(-1)[0]
                assert (answer.line, answer.unit, answer.table, answer.ok) == ("hall", unit, point.table, True)
                assert got == answer.values.tolist()
                assert decode(point, got)[1] == Quality.GOOD


async def test_url_is_that_of_the_configuration(endpoint: TcpEndpoint) -> None:
    """The gateway's configuration takes it as it is."""
    assert parse_line_url(endpoint.url) == endpoint.address
    assert isinstance(endpoint.address, LineAddress)


async def test_several_connections_at_once(endpoint: TcpEndpoint) -> None:
    """Each gets its own answers."""
    async with pymodbus_on(endpoint) as first, pymodbus_on(endpoint) as second:
        await eventually(lambda: endpoint.connections == 2)
        answers = await asyncio.gather(
            *(ask(client, 1, "holding", 33, 2) for client in (first, second)), ask(first, 2, "holding", 2, 2)
        )
    assert answers[0] == answers[1] != answers[2]
    await eventually(lambda: endpoint.connections == 0)


async def test_requests_ahead_of_answers(plain: TcpEndpoint) -> None:
    """Thirty requests sent at once are all answered, each with its transaction id."""
    reader, writer = await asyncio.open_connection(plain.host, plain.port)
    writer.write(b"".join(tcp_request(number, 1 + number % 2) for number in range(30)))
    answered = {int.from_bytes((await reader.readexactly(13))[:2], "big") for _ in range(30)}
    assert answered == set(range(30))
    writer.close()
    await writer.wait_closed()


async def test_exception_answers_are_seen(endpoint: TcpEndpoint, record: AnswerRecord) -> None:
    """Addresses outside the profile, and a meter that is told to refuse; neither counts as answered."""
    async with pymodbus_on(endpoint) as client:
        outside = await client.read_holding_registers(5000, count=1, device_id=1)
        endpoint.meters[1].faults.exception = 6
        told = await client.read_holding_registers(0, count=1, device_id=1)
    assert (outside.exception_code, told.exception_code) == (2, 6)
    assert [answer.ok for answer in record] == [False, False]


async def test_garbage_ends_the_connection_and_not_the_endpoint(plain: TcpEndpoint) -> None:
    """Nothing after it could be understood; the next connection works."""
    reader, writer = await asyncio.open_connection(plain.host, plain.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    async with pymodbus_on(plain) as client:
        assert await ask(client, 2, "holding", 0, 2)


async def test_rtu_garbage_is_skipped(record: AnswerRecord) -> None:
    """RTU over TCP finds its frame behind garbage."""
    async with TcpEndpoint("hall", meters(), record, rtu=True) as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"\x00\xff\x10" + rtu_request(2, "holding", 0, 2))
        assert (await reader.readexactly(9))[0] == 2
        writer.close()
        await writer.wait_closed()


async def test_silent_unit_beside_one_that_answers(plain: TcpEndpoint, record: AnswerRecord) -> None:
    """Unknown and silent units say nothing; the first bytes are those of another."""
    plain.meters[1].faults.silent = True
    reader, writer = await asyncio.open_connection(plain.host, plain.port)
    writer.write(tcp_request(1, 1) + tcp_request(2, 99) + tcp_request(3, 2))
    assert (await reader.readexactly(13))[:2] == b"\0\3"
    assert [answer.unit for answer in record] == [2]
    writer.close()
    await writer.wait_closed()


async def test_late_answer_comes_after_the_next(plain: TcpEndpoint, record: AnswerRecord) -> None:
    """It has its own transaction id and does not count."""
    reader, writer = await asyncio.open_connection(plain.host, plain.port)
    plain.meters[1].faults.late = 0.3
    writer.write(tcp_request(1, 1) + tcp_request(2, 2))
    order = [int.from_bytes((await reader.readexactly(13))[:2], "big") for _ in range(2)]
    assert order == [2, 1]
    await eventually(lambda: len(record) == 2)
    assert [(answer.unit, answer.ok) for answer in record] == [(2, True), (1, False)]
    writer.close()
    await writer.wait_closed()


async def test_wrong_unit_is_seen_by_pymodbus(plain: TcpEndpoint) -> None:
    """A client that we did not write refuses the answer of another unit."""
    plain.meters[1].faults.unit = 9
    async with pymodbus_on(plain, timeout=0.3) as client:
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=2, device_id=1)


async def test_corrupt_changes_nothing_where_there_is_no_crc(plain: TcpEndpoint) -> None:
    """A value that nobody could know to be wrong is no fault of the wire."""
    plain.meters[2].faults.corrupt = True
    async with pymodbus_on(plain) as client:
        assert await ask(client, 2, "holding", 0, 2)


async def test_disconnect_instead_of_an_answer(endpoint: TcpEndpoint, record: AnswerRecord) -> None:
    """The connection ends, and the next one finds the endpoint."""
    endpoint.meters[1].faults.disconnect = True
    async with pymodbus_on(endpoint, timeout=0.3) as client:
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=2, device_id=1)
    assert len(record) == 0
    endpoint.meters[1].faults.clear()
    async with pymodbus_on(endpoint) as client:
        assert await ask(client, 1, "holding", 0, 2)


async def test_refused_and_accepted_again(endpoint: TcpEndpoint) -> None:
    """Refusing ends what stands; the port stays the same for later."""
    port = endpoint.port
    reader, writer = await asyncio.open_connection(endpoint.host, port)
    await eventually(lambda: endpoint.connections == 1)
    await endpoint.refuse()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(endpoint.host, port)
    await endpoint.refuse()
    await endpoint.accept()
    assert endpoint.port == port
    async with pymodbus_on(endpoint) as client:
        assert await ask(client, 1, "holding", 0, 2)


async def test_dropped_connections_may_return(endpoint: TcpEndpoint) -> None:
    """A cut that is over at once."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    await eventually(lambda: endpoint.connections == 1)
    await endpoint.drop()
    assert endpoint.connections == 0
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    async with pymodbus_on(endpoint) as client:
        assert await ask(client, 1, "holding", 0, 2)


async def test_nothing_is_left_behind(record: AnswerRecord) -> None:
    """Fifty endpoints opened, asked and closed in the middle leave descriptors and tasks where they were."""
    before = descriptors(), len(asyncio.all_tasks())
    for _ in range(50):
        async with TcpEndpoint("hall", meters(), record) as endpoint:
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            writer.write(tcp_request(1, 2))
            await reader.readexactly(13)
            writer.write(tcp_request(2, 1) + tcp_request(3, 2))
        writer.close()
    await eventually(lambda: (descriptors(), len(asyncio.all_tasks())) == before)
