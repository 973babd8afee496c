"""Numbered meter: every value it gives is another one, so that each reading is known again wherever it turns up."""

from array import array
from typing import Final

from parkfleet.protocols.profile import Point, Profile, Table
from parkfleet.protocols.registers import encode
from parkfleet.simulators.loads import NoLoad
from parkfleet.simulators.meter import SimulatedMeter

#: Bits of a float32 below its exponent: so many answers have values of their own.
_BITS: Final = 23
_MASK: Final = (1 << _BITS) - 1
_ONE: Final = 0x3F80_0000  # 1.0
#: Of the meter's turnaround: fast, so that the line is no bottleneck. Seconds.
_TURNAROUND: Final = 0.001


def numbered_profile(gauges: int) -> Profile:
    """So many gauges in one table, and a counter in another: two requests."""
    return Profile(
        profile="numbered",
        title={"en": "Numbered"},
        medium="power",
        source="these tests",
        points=[
            *(Point(f"power_{n}", "float32", address=2 * n, table="input", unit="W") for n in range(gauges)),
            Point("energy", "uint32", address=500, table="holding", unit="Wh", kind="counter"),
        ],
    )


def as_yaml(profile: Profile) -> str:
    """The profile as a file."""
    lines = ["profile: numbered", "title: {en: Numbered}", "medium: power", "source: these tests", "points:"]
    lines += [
        f"  - {{id: {p.id}, type: {p.type}, address: {p.address}, table: {p.table}, unit: {p.unit}, kind: {p.kind}}}"
        for p in profile.points
    ]
    return "\n".join(lines) + "\n"


class NumberedMeter(SimulatedMeter):
    """Gauges give the answer's number, shuffled so that no codec sees through it; the counter counts the answers."""

    def __init__(self, profile: Profile, unit: int) -> None:
        super().__init__(profile, unit, NoLoad(), unit)
        self.turnaround = _TURNAROUND
        self._answers = 0

    def read(self, table: Table, address: int, count: int, time: float) -> "array[int]":
        """Another answer, with another number."""
        self._answers += 1
        image = array("H", bytes(2 * count))
        for point in self.profile.points:
            if point.table == table and address <= point.address and point.end <= address + count:
                place = point.address - address
                image[place : place + point.count] = array("H", encode(point, self._slot(point)))
        return image

    def _slot(self, point: Point) -> int:
        return self._answers if point.type == "uint32" else _ONE | _shuffled(self._answers + point.address & _MASK)


def _shuffled(number: int) -> int:
    """A permutation of the numbers of so many bits."""
    for factor in (0x2C1B3C6D | 1, 0x297A2D39):
        number ^= number >> 11
        number = number * factor & _MASK
    return number ^ number >> 12
