"""Simulated meter: one slave made from a profile and a load, with its faults. It answers PDUs; lines carry them."""

import random
import struct
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsResponse, ReadDiscreteInputsResponse
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse

from parkfleet.protocols.profile import BIT_TABLES, MAX_BITS, MAX_REGISTERS, Point, Profile, Table
from parkfleet.protocols.registers import encode
from parkfleet.simulators.faults import Faults
from parkfleet.simulators.identity import Identity
from parkfleet.simulators.loads import Load
from parkfleet.simulators.sensor import Sensor, sensors_of

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3
#: Seconds between a request and its answer, drawn once for each meter: what field meters were seen to take.
TURNAROUND: Final = (0.005, 0.020)

_TABLES: Final[dict[int, Table]] = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a meter says to a request, and what that stands for."""

    pdu: ModbusPDU
    table: Table | None  # None: the function reads no table
    address: int
    count: int
    values: "array[int]"  # registers or bits; empty for an exception


class SimulatedMeter:
    """One slave. Its registers are computed from the load when they are read."""

    def __init__(self, profile: Profile, unit: int, load: Load, seed: int = 0) -> None:
        """unit: 1 to 247. seed: turnaround and serial number."""
        self.profile = profile
        self.unit = unit
        self.faults = Faults()
        self.identity = Identity()
        self.turnaround = random.Random(f"turnaround {seed} {unit}").uniform(*TURNAROUND)
        self.serial_number = 10_000_000 + zlib.crc32(f"{profile.profile} {seed} {unit}".encode()) % 90_000_000
        self._load = load
        self._latest = 0.0  # a clock set back must not take the counters with it
        self._sensors: dict[Table, list[Sensor]] = {}
        for sensor in sensors_of(profile, self.serial_number):
            self._sensors.setdefault(sensor.point.table, []).append(sensor)
        for sensors in self._sensors.values():
            # Bit fields last: they share their register with each other and with a view of it as a whole.
            sensors.sort(key=lambda sensor: sensor.point.type == "bits")
        self._span = {
            table: (min(s.point.address for s in sensors), max(s.point.end for s in sensors))
            for table, sensors in self._sensors.items()
        }

    def answer(self, request: bytes, time: float) -> Reply:
        """The answer to a request PDU at a unix time, faults included. Any bytes get one."""
        function = request[0] if request else 0
        table = _TABLES.get(function)
        if table is None:
            if told := self.identity.answer(request):
                return Reply(self._dress(told), None, 0, 0, array("H"))
            return self._refuse(function, None, 0, 0, ILLEGAL_FUNCTION)
        if len(request) != 5:
            return self._refuse(function, table, 0, 0, ILLEGAL_VALUE)
        address, count = struct.unpack(">HH", request[1:])
        limit = MAX_BITS if table in BIT_TABLES else MAX_REGISTERS
        allowed = self.profile.max_bits if table in BIT_TABLES else self.profile.max_registers
        if self.faults.exception:
            return self._refuse(function, table, address, count, self.faults.exception)
        if not 1 <= count <= min(limit, allowed):
            return self._refuse(function, table, address, count, ILLEGAL_VALUE)
        if not self._readable(table, address, count):
            return self._refuse(function, table, address, count, ILLEGAL_ADDRESS)
        values = self.read(table, address, count, time)
        pdu = self._dress(_response(function, list(values) + self._surplus(table, count)))
        return Reply(pdu, table, address, count, values)

    def read(self, table: Table, address: int, count: int, time: float) -> "array[int]":
        """Registers (or bits) as they stand at a unix time; 0 where the profile has no point."""
        self._latest = max(self._latest, time)
        quantities = self._load.quantities(self._latest)
        image = array("H", bytes(2 * count))
        for sensor in self._sensors.get(table, ()):
            point = sensor.point
            if point.address < address + count and address < point.end:
                _place(image, point, sensor.words(quantities), address)
        return image

    def _readable(self, table: Table, address: int, count: int) -> bool:
        first, behind = self._span.get(table, (0, 0))
        if address < first or address + count > behind:
            return False
        holes = (hole for hole in self.profile.holes if hole.table == table)
        return not any(address < hole.address + hole.count and hole.address < address + count for hole in holes)

    def _surplus(self, table: Table, count: int) -> list[int]:
        """What faults.longer puts behind the values asked for."""
        if not self.faults.longer:
            return []
        return [0] * (8 * self.faults.longer - count % 8 if table in BIT_TABLES else self.faults.longer)

    def _refuse(self, function: int, table: Table | None, address: int, count: int, code: int) -> Reply:
        pdu = self._dress(ExceptionResponse(function & 0x7F, code))
        return Reply(pdu, table, address, count, array("H"))

    def _dress(self, pdu: ModbusPDU) -> ModbusPDU:
        """Unit id and function code as the faults want them."""
        pdu.dev_id = self.unit if self.faults.unit is None else self.faults.unit
        if self.faults.function is not None:
            pdu.function_code = self.faults.function
        return pdu


def _response(function: int, values: list[int]) -> ModbusPDU:
    match function:
        case 1:
            return ReadCoilsResponse(bits=[bool(value) for value in values])
        case 2:
            return ReadDiscreteInputsResponse(bits=[bool(value) for value in values])
        case 3:
            return ReadHoldingRegistersResponse(registers=values)
        case _:
            return ReadInputRegistersResponse(registers=values)


def _place(image: "array[int]", point: Point, words: Iterable[int], address: int) -> None:
    """Writes a point's registers where they lie in the image; of a bit field only its own bits."""
    own = encode(point, -1) if point.type == "bits" else None
    for index, word in enumerate(words):
        place = point.address + index - address
        if 0 <= place < len(image):
            kept = image[place] & ~own[index] & 0xFFFF if own else 0
            image[place] = kept | word
