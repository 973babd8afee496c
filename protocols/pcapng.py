"""Pcapng: what went over a line, as a file that Wireshark opens and takes apart without any setting.

Modbus frames stand in it as a TCP conversation between 192.0.2.1 (the gateway) and 192.0.2.2 port 502 (RFC 5737
addresses: nobody's), because that is what Wireshark decodes by itself. RTU frames get an MBAP header in place of their
check sum; the bytes as they were stand in the packet's comment. What is no whole frame goes from port 9 (discard),
undecoded, with the reason in its comment. Format: draft-ietf-opsawg-pcapng, blocks SHB, IDB and EPB.
"""

import struct
from typing import Final, NamedTuple

from parkfleet.protocols.modbus.rtu import crc16

_RAW_IPV4: Final = 228  # LINKTYPE_IPV4
_COMMENT, _TSRESOL, _NAME = 1, 9, 2  # option codes
_GATEWAY, _METERS = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
_MODBUS, _DISCARD, _OURS = 502, 9, 50000
_ACK_PUSH: Final = 0x18
#: Silence, in nanoseconds, after which what came is looked at, whether it is a frame or not: the longest time-out of a
#: sane line is above it, the longest pause within a frame below.
IDLE_NS: Final = 50_000_000


class Piece(NamedTuple):
    """Bytes as they came or went."""

    came: bool  # in; else out
    at_ns: int  # UTC
    data: bytes


class PcapWriter:
    """Makes one file: header(), then add() for every piece, then end(). Each returns bytes to append."""

    def __init__(self, name: str, rtu: bool) -> None:
        """name: of the line. rtu: its frames have no header of their own."""
        self._name = name
        self._rtu = rtu
        self._sent = {True: 1, False: 1}  # TCP's sequence numbers, by direction
        self._transaction = 0
        self._open: Piece | None = None  # RTU: what has come of an answer

    def header(self) -> bytes:
        """The file's beginning."""
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        described = _option(_NAME, self._name.encode()[:200]) + _option(_TSRESOL, b"\x09")
        interface = struct.pack("<HHI", _RAW_IPV4, 0, 0) + described + _END
        return _block(0x0A0D0D0A, section) + _block(1, interface)

    def add(self, piece: Piece) -> bytes:
        """A piece; what is a frame by now."""
        if not self._rtu:
            return self._packet(piece, piece.data, _MODBUS, "")
        if piece.came and self._open and piece.at_ns - self._open.at_ns < IDLE_NS:
            self._open = Piece(True, piece.at_ns, self._open.data + piece.data)
            return b""
        done = self._finish("the check sum does not match")
        if piece.came:
            self._open = piece
            return done
        self._transaction = (self._transaction + 1) & 0xFFFF
        return done + self._frame(piece)

    def end(self) -> bytes:
        """What is still open."""
        return self._finish("the capture ends here")

    def _finish(self, otherwise: str) -> bytes:
        """The answer that is open; otherwise: why it is none."""
        if self._open is None:
            return b""
        piece, self._open = self._open, None
        return self._frame(piece, otherwise)

    def _frame(self, piece: Piece, otherwise: str = "") -> bytes:
        """An RTU frame, or bytes that are none."""
        data, shown = piece.data, piece.data.hex(" ")
        if len(data) < 4 or crc16(data[:-2]) != int.from_bytes(data[-2:], "little"):
            return self._packet(piece, data, _DISCARD, f"{otherwise}: {shown}")
        mbap = struct.pack(">HHH", self._transaction, 0, len(data) - 2)
        return self._packet(piece, mbap + data[:-2], _MODBUS, f"RTU: {shown}")

    def _packet(self, piece: Piece, payload: bytes, port: int, comment: str) -> bytes:
        source, target = (_METERS, _GATEWAY) if piece.came else (_GATEWAY, _METERS)
        ports = (port, _OURS) if piece.came else (_OURS, port)
        tcp = struct.pack(
            ">HHIIBBHHH", *ports, self._sent[piece.came], self._sent[not piece.came], 5 << 4, _ACK_PUSH, 65535, 0, 0
        )
        if port == _MODBUS:
            self._sent[piece.came] = (self._sent[piece.came] + len(payload)) & 0xFFFFFFFF
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0, 64, 6, 0, source, target)
        ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
        data = ip + tcp + payload
        head = struct.pack("<IIIII", 0, piece.at_ns >> 32, piece.at_ns & 0xFFFFFFFF, len(data), len(data))
        options = _option(_COMMENT, comment.encode()) + _END if comment else b""
        return _block(6, head + _padded(data) + options)


_END: Final = struct.pack("<HH", 0, 0)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _checksum(header: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
