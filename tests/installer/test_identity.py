"""How a device says what it is: our frames beside pymodbus's, both ways, whole and byte by byte."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdRequest, ReportDeviceIdResponse

from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.modbus.identity import IdentificationRequest, RawRequest, ServerIdRequest
from parkfleet.protocols.modbus.pdu import CorruptAnswerError, ExceptionAnswerError, ModbusError, ReadRequest

TEXTS = st.lists(st.text("ABCxyz -_.0123456789", min_size=1, max_size=30).map(str.strip), min_size=1, max_size=7)


def test_requests_are_pymodbus_requests() -> None:
    """Each request's bytes are what pymodbus would send, and read as it."""
    decoder = DecodePDU(is_server=True)
    identification = decoder.decode(IdentificationRequest(1, 2, 3).pdu)
    assert isinstance(identification, ReadDeviceInformationRequest)
    assert (identification.read_code, identification.object_id) == (2, 3)
    assert isinstance(decoder.decode(ServerIdRequest(1).pdu), ReportDeviceIdRequest)


@given(TEXTS)
def test_identification_of_pymodbus_server(texts: list[str]) -> None:
    """Whatever names a server gives, we read the same; the frame's length is known from its own bytes."""
    answer = ReadDeviceInformationResponse(1, {number: text.encode() for number, text in enumerate(texts)})
    pdu = bytes([0x2B]) + answer.encode()
    request = IdentificationRequest(5)
    reader = rtu.AnswerReader(request)
    whole = rtu.frame(5, pdu)
    for byte in whole[:-1]:
        assert reader.feed(bytes([byte])) is None
    assert reader.feed(whole[-1:]) == pdu
    assert request.values(pdu).objects == dict(enumerate(texts))
    assert request.values(pdu).next is None


def test_identification_in_parts() -> None:
    """A server that has more to say names the object to go on from."""
    texts = dict.fromkeys(range(5), b"x" * 80)
    pdu = bytes([0x2B]) + ReadDeviceInformationResponse(2, dict(texts)).encode()
    said = IdentificationRequest(1, 2).values(pdu)
    assert said.next == 3
    assert sorted(said.objects) == [0, 1, 2]


def test_server_id_of_pymodbus_server() -> None:
    """The bytes behind the count."""
    pdu = bytes([0x11]) + ReportDeviceIdResponse(b"SDM630 V2").encode()
    assert ServerIdRequest(1).values(pdu) == b"SDM630 V2\xff"
    reader = rtu.AnswerReader(ServerIdRequest(1))
    assert reader.feed(rtu.frame(1, pdu)) == pdu


@given(st.binary(max_size=40))
def test_any_answer_is_survived(data: bytes) -> None:
    """Bytes from a device either mean something or raise our own error."""
    for request in (IdentificationRequest(1), ServerIdRequest(1)):
        for pdu in (data, bytes([request.pdu[0]]) + data):
            with contextlib.suppress(ModbusError):
                request.values(pdu)
        reader = rtu.AnswerReader(request)
        with contextlib.suppress(CorruptAnswerError):
            reader.feed(bytes([1, request.pdu[0]]) + data)


def test_refusals_are_named() -> None:
    """Most meters know neither function."""
    for request in (IdentificationRequest(1), ServerIdRequest(1)):
        with pytest.raises(ExceptionAnswerError, match="illegal function"):
            request.values(bytes([request.pdu[0] | 0x80, 1]))


@pytest.mark.parametrize(
    "pdu", ["06 0000 0001", "10 0000 0001 02 0001", "05 0000 ff00", "2b 0d 01 00", "03 00", "", "11 00"]
)
def test_raw_request_only_reads(pdu: str) -> None:
    """No writing function, and nothing malformed, gets through."""
    with pytest.raises(ValueError, match=r"only reading|is not asked with"):
        RawRequest(1, bytes.fromhex(pdu))


def test_raw_request_of_a_read() -> None:
    """The answer stays bytes, a refusal too; the other side takes them apart."""
    asked = ReadRequest(1, "holding", 10, 2)
    raw = RawRequest(1, asked.pdu)
    assert raw.data_bytes == asked.data_bytes
    assert asked.values(raw.values(bytes.fromhex("03 04 0001 0002"))) == [1, 2]
    assert raw.values(bytes.fromhex("83 02")) == bytes.fromhex("83 02")
