"""Modbus frames: against pymodbus as the reference, and against every way an answer goes wrong."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer.rtu import FramerRTU
from pymodbus.framer.socket import FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import ReadCoilsResponse, ReadDiscreteInputsResponse
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse

from parkfleet.protocols.modbus import rtu, tcp
from parkfleet.protocols.modbus.pdu import CorruptAnswerError, ExceptionAnswerError, ModbusError, ReadRequest

RESPONSES = {
    "coil": ReadCoilsResponse,
    "discrete": ReadDiscreteInputsResponse,
    "holding": ReadHoldingRegistersResponse,
    "input": ReadInputRegistersResponse,
}

requests = st.builds(
    ReadRequest,
    unit=st.integers(1, 247),
    table=st.sampled_from(["coil", "discrete", "holding", "input"]),
    address=st.integers(0, 65000),
    count=st.integers(1, 125),
)


def reference_answer(request: ReadRequest, values: list[int], transaction: int = 0) -> tuple[bytes, bytes]:
    """(RTU frame, TCP frame) of pymodbus's server for these values."""
    bits = request.table in ("coil", "discrete")
    response = RESPONSES[request.table](
        dev_id=request.unit,
        transaction_id=transaction,
        **({"bits": [bool(v) for v in values]} if bits else {"registers": values}),
    )
    decoder = DecodePDU(True)
    return FramerRTU(decoder).buildFrame(response), FramerSocket(decoder).buildFrame(response)


@given(requests)
def test_request_agrees_with_pymodbus(request: ReadRequest) -> None:
    """pymodbus's server reads our requests as we meant them."""
    decoder = DecodePDU(True)
    for framer, frame in (
        (FramerRTU(decoder), rtu.frame(request.unit, request.pdu)),
        (FramerSocket(decoder), tcp.frame(7, request.unit, request.pdu)),
    ):
        used, pdu = framer.handleFrame(frame, 0, 0)
        assert pdu is not None
        assert used == len(frame)
        assert (pdu.dev_id, pdu.function_code) == (request.unit, request.function)
        assert (pdu.address, pdu.count) == (request.address, request.count)


@given(requests, st.data())
def test_answer_agrees_with_pymodbus_in_any_pieces(request: ReadRequest, data: st.DataObject) -> None:
    """pymodbus's answers are read exactly, however the wire cuts them."""
    top = 1 if request.table in ("coil", "discrete") else 0xFFFF
    values = data.draw(st.lists(st.integers(0, top), min_size=request.count, max_size=request.count))
    in_rtu, in_tcp = reference_answer(request, values, 9)
    for reader, frame in ((rtu.AnswerReader(request), in_rtu), (tcp.AnswerReader(request, 9), in_tcp)):
        cut = data.draw(st.integers(1, len(frame)))
        pieces = [reader.feed(piece) for piece in (frame[:cut], frame[cut:])]
        pdu = pieces[0] if cut == len(frame) else pieces[1]
        assert pdu is not None
        assert request.values(pdu) == values


REQUEST = ReadRequest(unit=5, table="holding", address=0, count=2)
ANSWER = rtu.frame(5, b"\x03\x04\x00\x01\x00\x02")


@pytest.mark.parametrize(
    ("wire", "told"),
    [
        (ANSWER[:-1] + b"\x00", "CRC does not match"),
        (ANSWER + b"\x00", "1 bytes too many"),
        (rtu.frame(5, b"\x03\x02\x00\x01"), "expected 4 bytes of values, got 2"),
        (rtu.frame(5, b"\x04\x04\x00\x01\x00\x02"), "asked with function 3, answered with 04"),
        (b"\xff\xff\xff\xff\xff\xff\xff", "CRC"),
        (b"\x05\x2b\x0e\x01", "no answer begins like this"),
    ],
)
def test_rtu_answer_spoiled(wire: bytes, told: str) -> None:
    """A frame that is not the answer is named, never taken for values."""
    with pytest.raises(CorruptAnswerError, match=told):
        REQUEST.values(rtu.AnswerReader(REQUEST).feed(wire) or b"")


def test_rtu_answer_of_another_unit_first() -> None:
    """A late answer of another meter is passed over, and the right one behind it is taken."""
    reader = rtu.AnswerReader(REQUEST)
    assert reader.feed(rtu.frame(4, b"\x03\x04\x00\x09\x00\x09")) is None
    assert reader.incomplete() == "unit 4 answered when 5 was asked"
    assert reader.feed(ANSWER) == b"\x03\x04\x00\x01\x00\x02"


def test_tcp_late_answer_first() -> None:
    """An answer to an earlier request of the same connection is passed over by its transaction id."""
    reader = tcp.AnswerReader(REQUEST, 8)
    late, right = (tcp.frame(n, 5, b"\x03\x04\x00\x01\x00" + bytes([n])) for n in (7, 8))
    assert reader.feed(late + right) == b"\x03\x04\x00\x01\x00\x08"


def test_exception_answer() -> None:
    """The meter's own refusal is an error of its own, with its code."""
    with pytest.raises(ExceptionAnswerError, match="illegal data address") as caught:
        REQUEST.values(b"\x83\x02")
    assert caught.value.code == 2


@pytest.mark.parametrize("code", [0, 128, 255])
def test_exception_answer_without_a_code(code: int) -> None:
    """Codes are 1 to 127."""
    with pytest.raises(CorruptAnswerError, match="no exception code"):
        REQUEST.values(bytes([0x83, code]))


@given(requests, st.binary(max_size=600), st.integers(1, 20))
def test_any_bytes(request: ReadRequest, wire: bytes, step: int) -> None:
    """Whatever comes over a wire is an answer, a ModbusError or nothing yet."""
    for reader in (rtu.AnswerReader(request), tcp.AnswerReader(request, 1)):
        try:
            for start in range(0, len(wire), step):
                if (pdu := reader.feed(wire[start : start + step])) is not None:
                    request.values(pdu)
        except ModbusError as error:
            assert str(error)
        assert isinstance(reader.incomplete(), str)


@given(st.binary(max_size=300))
def test_crc_agrees_with_pymodbus(data: bytes) -> None:
    """The CRC is pymodbus's, in the wire's byte order."""
    assert struct.pack("<H", rtu.crc16(data)) == struct.pack(">H", FramerRTU.compute_CRC(data))
