"""RTU frame: unit, PDU and CRC, as on RS-485 and in RTU over TCP.

An answer is complete by its own length; silence is never waited for. RTU has no transaction id: a frame
counts as the answer only when it comes from the asked unit; frames of other units (late answers, a second
master) are passed over. Source: MODBUS over Serial Line Specification and Implementation Guide v1.02.
"""

from typing import Final

from parkfleet.protocols.modbus.identity import READ_IDENTIFICATION, REPORT_SERVER_ID, identification_length
from parkfleet.protocols.modbus.pdu import CorruptAnswerError, Request

#: unit, function, 252 bytes, CRC: nothing on a serial line is longer.
MAX_FRAME: Final = 256
_LENGTH_BYTE_FUNCTIONS: Final = frozenset({1, 2, 3, 4, REPORT_SERVER_ID})


def crc16(data: bytes) -> int:
    """The Modbus CRC (polynomial 0xA001 reflected, start 0xFFFF), low byte first on the wire."""
    crc = 0xFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def frame(unit: int, pdu: bytes) -> bytes:
    """The bytes on the wire."""
    body = bytes([unit]) + pdu
    return body + crc16(body).to_bytes(2, "little")


def silence(baud: int, bits_per_byte: int = 10) -> float:
    """t3.5 in seconds: the silence that must precede a frame. Fixed at 1.75 ms above 19200 baud (2.5.1.1)."""
    return 0.00175 if baud > 19200 else 3.5 * bits_per_byte / baud


class AnswerReader:
    """Collects the bytes that follow one request until its answer is whole."""

    def __init__(self, request: Request[object]) -> None:
        self._request = request
        self._buffer = bytearray()
        self._passed_over = ""

    def feed(self, data: bytes) -> bytes | None:
        """The answer's PDU once complete. Raises CorruptAnswerError when it cannot become whole any more."""
        self._buffer += data
        while len(self._buffer) >= 3:
            length = self._frame_length()
            if len(self._buffer) < length:
                return None
            found, rest = bytes(self._buffer[:length]), self._buffer[length:]
            if crc16(found[:-2]) != int.from_bytes(found[-2:], "little"):
                raise CorruptAnswerError(f"CRC does not match: {found.hex(' ')}")
            if found[0] == self._request.unit:
                if rest:
                    raise CorruptAnswerError(f"{len(rest)} bytes too many behind the answer: {rest.hex(' ')}")
                return found[1:-2]
            self._passed_over = f"unit {found[0]} answered when {self._request.unit} was asked"
            self._buffer = rest
        return None

    def incomplete(self) -> str:
        """What there is of an answer when time is up; empty when nothing came."""
        if self._buffer:
            return f"only {len(self._buffer)} bytes came: {self._buffer.hex(' ')}"
        return self._passed_over

    def _frame_length(self) -> int:
        """The frame's length, or the least it can have by what has come of it."""
        function, third = self._buffer[1], self._buffer[2]
        if function & 0x80:
            return 5
        if function in _LENGTH_BYTE_FUNCTIONS and 5 + third <= MAX_FRAME:
            return 5 + third
        if function == READ_IDENTIFICATION == self._request.pdu[0]:
            length = 3 + identification_length(self._buffer[1:])
            if length <= MAX_FRAME:
                return length
        raise CorruptAnswerError(f"no answer begins like this: {self._buffer.hex(' ')}")


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE: Final = _table()
