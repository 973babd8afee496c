"""Request frames: found whatever pieces they come in and whatever garbage is around them."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.simulators.frames import FramesLostError, Request, Requests, RtuRequests, TcpRequests
from tests.simulators.asking import rtu_request, with_crc

cuts = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def in_pieces(requests: Requests, data: bytes, sizes: Iterable[int]) -> list[Request]:
    found = []
    for size in [*sizes, len(data)]:
        found += requests.feed(data[:size])
        data = data[size:]
    assert not data
    return found


def tcp_request(transaction: int, unit: int) -> bytes:
    return struct.pack(">HHHBBHH", transaction, 0, 6, unit, 3, 100, 2)


@given(cuts, st.lists(st.integers(1, 247), max_size=5))
def test_rtu_requests_in_any_pieces(sizes: list[int], units: list[int]) -> None:
    """Pieces and merged frames make the same requests."""
    data = b"".join(rtu_request(unit, "holding", 100, 2) for unit in units)
    found = in_pieces(RtuRequests(), data, sizes)
    assert [request.unit for request in found] == units
    assert all(request.pdu == b"\x03\x00\x64\x00\x02" for request in found)


@given(cuts, st.lists(st.integers(0, 255), max_size=5))
def test_tcp_requests_in_any_pieces(sizes: list[int], units: list[int]) -> None:
    """The same for Modbus TCP, transaction ids kept."""
    data = b"".join(tcp_request(1000 + number, unit) for number, unit in enumerate(units))
    found = in_pieces(TcpRequests(), data, sizes)
    assert [(request.transaction, request.unit) for request in found] == [(1000 + n, u) for n, u in enumerate(units)]


@given(st.binary(max_size=300))
def test_rtu_request_behind_garbage(garbage: bytes) -> None:
    """A request is found behind any bytes; the line's silence clears what is left."""
    requests = RtuRequests()
    requests.feed(garbage)
    found = requests.feed(rtu_request(17, "input", 7, 2))
    assert [request.unit for request in found][-1:] == [17]
    requests.silence()
    assert [request.behind for request in requests.feed(rtu_request(18, "input", 7, 2))] == [0]


@given(st.binary(max_size=600))
def test_tcp_garbage_ends_the_stream_or_waits(garbage: bytes) -> None:
    """A stream that is no Modbus TCP is given up by name, never by another error."""
    try:
        TcpRequests().feed(garbage)
    except FramesLostError as error:
        assert str(error)


def test_rtu_function_of_unknown_length_ends_with_silence() -> None:
    """Only silence tells where such a frame ends; its CRC tells that it is one."""
    requests = RtuRequests()
    assert requests.feed(with_crc(b"\x05\x41\x01\x02\x03")) == []
    assert requests.silence() == [Request(5, 0, b"\x41\x01\x02\x03", 0)]
    requests.feed(b"\x05\x41\x01\x02\x03\x00\x00")
    assert requests.silence() == []


def test_rtu_request_with_a_wrong_crc_is_ignored() -> None:
    """As on a real bus."""
    frame = bytearray(rtu_request(5, "holding", 0, 1))
    frame[-1] ^= 1
    assert RtuRequests().feed(bytes(frame)) == []


@pytest.mark.parametrize("header", [b"\0\1\0\1\0\6", b"\0\1\0\0\0\1", b"\0\1\0\0\1\0"])
def test_tcp_header_that_cannot_be(header: bytes) -> None:
    """Another protocol id, or a length no request has."""
    with pytest.raises(FramesLostError):
        TcpRequests().feed(header + b"\1\3\0\0\0\1")
