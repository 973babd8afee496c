"""Identity: how a device says what it is (FC 43/14 and FC 17), and any other reading of it as plain bytes.

Source: MODBUS Application Protocol Specification v1.1b3, sections 6.13 and 6.21.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from parkfleet.protocols.modbus.pdu import CorruptAnswerError, check_function

REPORT_SERVER_ID: Final = 17
READ_IDENTIFICATION: Final = 43
#: The one kind of encapsulated answer that identifies.
_MEI: Final = 14
#: Longest answer there is, less unit, function and CRC.
MAX_DATA: Final = 252
#: Functions that change nothing in a device.
READING: Final = frozenset({1, 2, 3, 4, REPORT_SERVER_ID, READ_IDENTIFICATION})

OBJECT_NAMES: Final = {
    0: "vendor",
    1: "product code",
    2: "revision",
    3: "vendor url",
    4: "product name",
    5: "model name",
    6: "application",
}


class Identification(NamedTuple):
    """One answer of a device to FC 43/14."""

    objects: dict[int, str]
    conformity: int  # the highest category it has: 1 basic, 2 regular, 3 extended
    next: int | None  # ask again from this object on


@dataclass(frozen=True, slots=True)
class IdentificationRequest:
    """Vendor, product code, revision (basic), product and model name (regular)."""

    unit: int
    category: Literal[1, 2] = 1
    first: int = 0  # object id to begin with

    @property
    def pdu(self) -> bytes:
        """The request's bytes, without the frame around them."""
        return bytes([READ_IDENTIFICATION, _MEI, self.category, self.first])

    @property
    def data_bytes(self) -> int:
        """See Request."""
        return MAX_DATA

    def values(self, pdu: bytes) -> Identification:
        """The objects of an answer. Raises ExceptionAnswerError, CorruptAnswerError."""
        check_function(READ_IDENTIFICATION, pdu)
        if len(pdu) < 7 or pdu[1] != _MEI:
            raise CorruptAnswerError(f"no identification: {pdu.hex(' ')}")
        _, _, _, conformity, more, following, count = struct.unpack_from(">7B", pdu)
        objects: dict[int, str] = {}
        at = 7
        for _ in range(count):
            if at + 2 > len(pdu) or at + 2 + pdu[at + 1] > len(pdu):
                raise CorruptAnswerError(f"identification ends early: {pdu.hex(' ')}")
            number, length = pdu[at], pdu[at + 1]
            objects[number] = _text(pdu[at + 2 : at + 2 + length])
            at += 2 + length
        return Identification(objects, conformity & 0x7F, following if more == 0xFF and following else None)


@dataclass(frozen=True, slots=True)
class ServerIdRequest:
    """What the device calls itself, in bytes of its maker's choice."""

    unit: int

    @property
    def pdu(self) -> bytes:
        """The request's bytes, without the frame around them."""
        return bytes([REPORT_SERVER_ID])

    @property
    def data_bytes(self) -> int:
        """See Request."""
        return MAX_DATA

    def values(self, pdu: bytes) -> bytes:
        """The answer's bytes behind its count. Raises ExceptionAnswerError, CorruptAnswerError."""
        check_function(REPORT_SERVER_ID, pdu)
        if pdu[1] != len(pdu) - 2:
            raise CorruptAnswerError(f"expected {pdu[1]} bytes, got {len(pdu) - 2}")
        return pdu[2:]


@dataclass(frozen=True, slots=True)
class RawRequest:
    """Any reading as bytes, for an asker elsewhere who takes the answer apart. Raises ValueError for a writing one."""

    unit: int
    pdu: bytes

    def __post_init__(self) -> None:
        if not self.pdu or self.pdu[0] not in READING:
            raise ValueError("only reading is let through: functions 1, 2, 3, 4, 17 and 43/14")
        known = {REPORT_SERVER_ID: 1, READ_IDENTIFICATION: 4}.get(self.pdu[0], 5)
        if len(self.pdu) != known or (self.pdu[0] == READ_IDENTIFICATION and self.pdu[1] != _MEI):
            raise ValueError(f"function {self.pdu[0]} is not asked with {self.pdu.hex(' ')}")

    @property
    def data_bytes(self) -> int:
        """See Request."""
        if self.pdu[0] > 4:
            return MAX_DATA
        count = int.from_bytes(self.pdu[3:5], "big")
        return min(MAX_DATA, (count + 7) // 8 if self.pdu[0] < 3 else 2 * count)

    def values(self, pdu: bytes) -> bytes:
        """The answer as it came, also when it is a refusal. Raises CorruptAnswerError for another function's."""
        if len(pdu) < 2 or pdu[0] & 0x7F != self.pdu[0]:
            raise CorruptAnswerError(f"asked with function {self.pdu[0]}, answered with {pdu[:1].hex() or 'nothing'}")
        return pdu


def identification_length(pdu: bytes | bytearray) -> int:
    """Bytes of an answer to FC 43/14 whose beginning this is; while its lists still come, the least it can have."""
    if len(pdu) < 7:
        return 7
    at = 7
    for _ in range(pdu[6]):
        if len(pdu) < at + 2:
            return at + 2
        at += 2 + pdu[at + 1]
    return at


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace").strip()
