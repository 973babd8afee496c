"""Read request: what is asked of a meter (FC 1 to 4), and its answer taken apart.

Source: MODBUS Application Protocol Specification v1.1b3, sections 6.1 to 6.4 and 7.
"""

import struct
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from parkfleet.protocols.profile import BIT_TABLES, Table

FUNCTIONS: Final[dict[Table, int]] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}

EXCEPTION_NAMES: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target did not respond",
}


T_co = TypeVar("T_co", covariant=True)


class Request(Protocol[T_co]):
    """Anything that can be asked of a unit: ReadRequest, and those of identity.py."""

    @property
    def unit(self) -> int: ...

    @property
    def pdu(self) -> bytes:
        """The request's bytes, without the frame around them."""

    @property
    def data_bytes(self) -> int:
        """Bytes in the answer beside its frame, at most; for the time it takes on the wire."""

    def values(self, pdu: bytes) -> T_co:
        """What the answer's bytes say. Raises ExceptionAnswerError, CorruptAnswerError."""


class ModbusError(Exception):
    """A transaction that gave no values."""


class AnswerTimeoutError(ModbusError):
    """Nothing came that could be an answer."""


class CorruptAnswerError(ModbusError):
    """Something came, but not this request's answer: CRC, length, unit or function are wrong."""


class ExceptionAnswerError(ModbusError):
    """The meter answered that it will not."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({EXCEPTION_NAMES.get(code, 'unknown')})")
        self.code = code


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """count registers (or bits) from address of one of a unit's tables."""

    unit: int
    table: Table
    address: int
    count: int

    @property
    def function(self) -> int:
        return FUNCTIONS[self.table]

    @property
    def pdu(self) -> bytes:
        """The request's bytes, without the frame around them."""
        return struct.pack(">BHH", self.function, self.address, self.count)

    @property
    def data_bytes(self) -> int:
        """Bytes of values in the answer."""
        return data_bytes(self.table, self.count)

    def values(self, pdu: bytes) -> list[int]:
        """The registers (or bits, 0 and 1) of an answer. Raises ExceptionAnswerError, CorruptAnswerError."""
        check_function(self.function, pdu)
        if pdu[1] != self.data_bytes or len(pdu) != 2 + self.data_bytes:
            raise CorruptAnswerError(f"expected {self.data_bytes} bytes of values, got {len(pdu) - 2}")
        if self.table in BIT_TABLES:
            return [pdu[2 + bit // 8] >> bit % 8 & 1 for bit in range(self.count)]
        return list(struct.unpack_from(f">{self.count}H", pdu, 2))


def data_bytes(table: Table, count: int) -> int:
    """Bytes of values in the answer to a read of so many registers or bits."""
    return (count + 7) // 8 if table in BIT_TABLES else 2 * count


def check_function(function: int, pdu: bytes) -> None:
    """Raises ExceptionAnswerError when the answer is a refusal, CorruptAnswerError when it is another function's."""
    if len(pdu) == 2 and pdu[0] == function | 0x80:
        if not 1 <= pdu[1] <= 0x7F:
            raise CorruptAnswerError(f"refused with {pdu[1]}, which is no exception code")
        raise ExceptionAnswerError(pdu[1])
    if len(pdu) < 2 or pdu[0] != function:
        raise CorruptAnswerError(f"asked with function {function}, answered with {pdu[:1].hex() or 'nothing'}")
