"""Request frame: what arrives at a slave, cut out of its bytes, with pymodbus's framers.

pymodbus decides how long a request is, checks its CRC and builds the answer's frame; the bytes are collected
here, because its own collecting waits for ever behind garbage.
"""

import struct
from typing import Final, NamedTuple, Protocol

from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerBase, FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU

#: More than any sequence of frames that a master could send in good faith before it hears an answer.
MAX_BUFFER: Final = 1024
#: The header's length field counts the unit and up to 253 bytes of PDU.
MAX_LENGTH: Final = 254
_MIN_RTU: Final = 4  # unit, function, CRC


class FramesLostError(Exception):
    """A TCP stream that is no Modbus TCP (any more): nothing after it can be understood."""


class Request(NamedTuple):
    """One request."""

    unit: int
    transaction: int  # 0 in RTU
    pdu: bytes
    behind: int  # bytes that had already come after it


class Requests(Protocol):
    """Collects bytes until they are requests."""

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are whole now. Raises FramesLostError."""

    def silence(self) -> list[Request]:
        """The line has gone quiet: what is left is a frame as it is, or garbage."""

    def frame(self, pdu: ModbusPDU, transaction: int) -> bytes:
        """The answer's bytes; the unit id stands in the pdu."""


class RtuRequests:
    """RTU frames, on a serial line or over TCP."""

    def __init__(self) -> None:
        self._decoder = DecodePDU(is_server=True)
        self._framer: FramerBase = FramerRTU(self._decoder)
        self._buffer = b""

    def feed(self, data: bytes) -> list[Request]:
        """See Requests; garbage before a frame is skipped."""
        self._buffer = (self._buffer + data)[-MAX_BUFFER:]
        found = []
        while request := self._next():
            found.append(request)
        return found

    def silence(self) -> list[Request]:
        """See Requests. Silence ends frames of functions whose length nobody knows."""
        left, self._buffer = self._buffer, b""
        if _MIN_RTU <= len(left) <= 256 and _has_crc(left):
            return [Request(left[0], 0, left[1:-2], 0)]
        return []

    def frame(self, pdu: ModbusPDU, transaction: int) -> bytes:
        """See Requests."""
        return self._framer.buildFrame(pdu)

    def _next(self) -> Request | None:
        """The first whole frame anywhere in the buffer, taken out with all before it."""
        for start in range(len(self._buffer) - _MIN_RTU + 1):
            size = self._size(self._buffer[start:])
            candidate = self._buffer[start : start + size]
            if size >= _MIN_RTU and len(candidate) == size and _has_crc(candidate):
                self._buffer = self._buffer[start + size :]
                return Request(candidate[0], 0, candidate[1:-2], len(self._buffer))
        return None

    def _size(self, data: bytes) -> int:
        """Length of the frame that begins here; 0 when more bytes must tell, or nothing begins like this."""
        if data[1] & 0x80:
            return 0  # an answer's function code
        try:
            kind = self._decoder.lookupPduClass(data)
            return kind.calculateRtuFrameSize(data) if kind else 0
        except (ModbusException, IndexError, KeyError, struct.error):
            return 0


class TcpRequests:
    """Modbus TCP frames of one connection."""

    def __init__(self) -> None:
        self._framer: FramerBase = FramerSocket(DecodePDU(is_server=True))
        self._buffer = b""

    def feed(self, data: bytes) -> list[Request]:
        """See Requests."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 7:
            _, protocol, length = struct.unpack_from(">HHH", self._buffer)
            if protocol or not 2 <= length <= MAX_LENGTH:
                raise FramesLostError(self._buffer[:16].hex(" "))
            if len(self._buffer) < 6 + length:
                break
            _, unit, transaction, pdu = self._framer.decode(self._buffer[: 6 + length])
            self._buffer = self._buffer[6 + length :]
            found.append(Request(unit, transaction, pdu, len(self._buffer)))
        return found

    def silence(self) -> list[Request]:
        """See Requests: a stream knows no silence."""
        return []

    def frame(self, pdu: ModbusPDU, transaction: int) -> bytes:
        """See Requests."""
        pdu.transaction_id = transaction
        return self._framer.buildFrame(pdu)


def _has_crc(frame: bytes) -> bool:
    return FramerRTU.check_CRC(frame[:-2], int.from_bytes(frame[-2:], "big"))
