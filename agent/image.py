"""Image: a unit's registers as they were read for a profile, and those beside them; what its points come to there."""

from array import array
from typing import Final

import msgspec

from parkfleet.agent.identify import Registers
from parkfleet.protocols.derived import Derivation, make_derivation, needed_points
from parkfleet.protocols.modbus.pdu import ModbusError, ReadRequest
from parkfleet.protocols.payload.series import has_value
from parkfleet.protocols.profile import MAX_REGISTERS, Derived, Order, Point, Profile, Table
from parkfleet.protocols.readplan import WireCost, plan_requests
from parkfleet.protocols.registers import decode

_COST: Final = WireCost(request=0.04, byte=0.001)
_NO_NUMBERS: Final = frozenset({"string", "bits", "bool"})


class Image:
    """One unit's registers, for one profile. Empty until they are read."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.numbers: tuple[Point | Derived, ...] = tuple(
            own for own in profile.quantities if isinstance(own, Derived) or own.type not in _NO_NUMBERS
        )
        self._words: dict[tuple[Table, int], int] = {}
        self._ways = {own.id: _way(profile, own) for own in self.numbers}

    def value(self, id: str, shift: int = 0, order: Order | None = None) -> float | None:
        """A number of the profile, its addresses shifted and its order another one (None: as the profile says).

        The meter's own factors and ratios are in it. None: the meter does not give it.
        """
        points, derivation = self._ways[id]
        slots, codes = array("q"), bytearray()
        for point in points:
            moved = moved_point(point, shift, order) if 0 <= point.address + shift <= 65536 - point.count else None
            words = [self._words.get((point.table, point.address + shift + n)) for n in range(point.count)]
            if moved is None or None in words:
                return None
            slot, code, _ = decode(moved, [word for word in words if word is not None])
            slots.append(slot)
            codes.append(code)
        made, quality = derivation.derive(slots, bytes(codes))
        value = derivation.columns[0].value(made[0]) if has_value(quality[0]) else None
        return float(value) if isinstance(value, int | float) else None

    async def read(self, registers: Registers) -> None:
        """Reads the profile's registers and those beside them, as far as the meter gives them. Raises LineDownError."""
        for planned in plan_requests(self.profile, self.profile.points, registers.unit, _COST):
            request = planned.request
            first, behind = request.address, request.address + request.count
            if await self._take(registers, request.table, first - 1, behind + 1):
                continue
            await self._take(registers, request.table, first, behind)
            # Whoever refuses a block that begins one too early or late gives the block one place beside.
            await self._take(registers, request.table, first - 1, behind - 1)
            await self._take(registers, request.table, first + 1, behind + 1)

    async def _take(self, registers: Registers, table: Table, first: int, behind: int) -> bool:
        """Reads registers [first, behind); False when the meter does not give them."""
        first, behind = max(0, first), min(65536, behind)
        if not 1 <= behind - first <= MAX_REGISTERS:
            return False
        try:
            words = await registers.ask(ReadRequest(registers.unit, table, first, behind - first))
        except ModbusError:
            return False
        self._words.update({(table, first + n): word for n, word in enumerate(words)})
        return True


def moved_point(point: Point, shift: int, order: Order | None) -> Point:
    """The point at another place, in another order (None: its own)."""
    new = order if order is not None and point.count > 1 and point.type != "string" else point.order
    return msgspec.structs.replace(point, address=point.address + shift, order=new)


def _way(profile: Profile, own: Point | Derived) -> tuple[tuple[Point, ...], Derivation]:
    """What is read for a number, and how it is made of that."""
    points = needed_points(profile, [own.id])
    return points, make_derivation(profile, points, [own.id])
