"""Modbus TCP frame: MBAP header and PDU.

Source: MODBUS Messaging on TCP/IP Implementation Guide v1.0b, section 3.1.3.
"""

import struct
from typing import Final

from parkfleet.protocols.modbus.pdu import CorruptAnswerError, Request

#: unit and PDU: the header's length field never says more.
MAX_LENGTH: Final = 254


def frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """The bytes on the wire; transaction is 0 to 65535."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


class AnswerReader:
    """Collects the bytes of a connection until the answer to one request is whole."""

    def __init__(self, request: Request[object], transaction: int) -> None:
        self._request = request
        self._transaction = transaction
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """The answer's PDU once complete. Raises CorruptAnswerError when the stream has lost its frames."""
        self._buffer += data
        while len(self._buffer) >= 7:
            transaction, protocol, length, unit = struct.unpack_from(">HHHB", self._buffer)
            if protocol or not 2 <= length <= MAX_LENGTH:
                raise CorruptAnswerError(f"not Modbus TCP: {self._buffer[:16].hex(' ')}")
            if len(self._buffer) < 6 + length:
                return None
            pdu = bytes(self._buffer[7 : 6 + length])
            del self._buffer[: 6 + length]
            if transaction != self._transaction:
                continue  # a late answer to an earlier request
            if unit != self._request.unit:
                raise CorruptAnswerError(f"unit {unit} answered when {self._request.unit} was asked")
            return pdu
        return None

    def incomplete(self) -> str:
        """What there is of an answer when time is up; empty when nothing came."""
        return f"only {len(self._buffer)} bytes came: {self._buffer.hex(' ')}" if self._buffer else ""
