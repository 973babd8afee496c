"""Read plan: the requests by which a meter's points are read in the least wire time.

Points sorted by address are cut into runs, one request a run, gaps between them included. Dynamic programming
over the cuts finds the exact optimum under the line's cost model and what was learned of the meter.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.learned import Learned
from parkfleet.protocols.modbus.pdu import ReadRequest, data_bytes
from parkfleet.protocols.modbus.rtu import silence
from parkfleet.protocols.profile import BIT_TABLES, Point, Profile, Table

#: What a meter is reckoned to take until its answers have told. Seconds.
TURNAROUND_S: Final = 0.01
NOTHING: Final = Learned()


@dataclass(frozen=True)
class WireCost:
    """What a request costs on a line, in seconds."""

    request: float  # each request, whatever it asks: frames, silences, the meter's turnaround
    byte: float  # each byte of values in the answer

    FRAMES: ClassVar[int] = 8 + 5  # bytes of a request, and of an answer without its values

    @classmethod
    def of(cls, line: LineAddress, turnaround: float = TURNAROUND_S) -> "WireCost":
        """The cost model of a line. turnaround: seconds, beside the silence before the answer."""
        if not line.is_serial:
            return cls(request=0.001 + turnaround, byte=1e-7)  # a round trip outweighs any gap
        byte = line.bits_per_byte / line.baud * (2 if line.kind == "ascii" else 1)  # two characters a byte
        return cls(cls.FRAMES * byte + 2 * silence(line.baud, line.bits_per_byte) + turnaround, byte)


@dataclass(frozen=True)
class PlannedRequest:
    """One request and the points in its answer."""

    request: ReadRequest
    points: tuple[int, ...]  # indices into the planned points

    def seconds(self, cost: WireCost) -> float:
        """Wire time of the request and its answer."""
        return cost.request + cost.byte * self.request.data_bytes


def plan_requests(
    profile: Profile,
    points: Sequence[Point],
    unit: int,
    cost: WireCost,
    learned: Learned = NOTHING,
    chosen: Collection[int] | None = None,
) -> list[PlannedRequest]:
    """The requests of least wire time that read all the points (or those chosen by index), by table and address.

    Points that the meter was learned to refuse are left out, unless there is no other: then the shortest is asked, so
    that something is.
    """
    wanted = range(len(points)) if chosen is None else chosen
    asked = {index for index in wanted if learned.refusal(points[index]) is None}
    asked = asked or {min(wanted, key=lambda index: points[index].count)}
    plan: list[PlannedRequest] = []
    for table in ("coil", "discrete", "holding", "input"):
        order = sorted(
            (index for index in asked if points[index].table == table),
            key=lambda index: (points[index].address, points[index].end),
        )
        for first, behind in _cuts(profile, [points[index] for index in order], table, cost, learned):
            chosen = order[first:behind]
            address = points[chosen[0]].address
            end = max(points[index].end for index in chosen)
            plan.append(PlannedRequest(ReadRequest(unit, table, address, end - address), tuple(chosen)))
    return plan


def _cuts(
    profile: Profile, points: list[Point], table: Table, cost: WireCost, learned: Learned
) -> list[tuple[int, int]]:
    """(first, behind) of each run of the optimum: best[j] is the least time in which points[:j] are read.

    A point alone is always asked for, whatever was learned of its neighbours.
    """
    limit = learned.limit(table, profile.max_bits if table in BIT_TABLES else profile.max_registers)
    holes = [(hole.address, hole.address + hole.count) for hole in profile.holes if hole.table == table]
    holes += [(hole.address, hole.address + hole.count) for hole in learned.holes if hole.table == table]
    # What is refused alone is refused in every block around it.
    holes += [(point.address, point.address + point.count) for point in learned.refused if point.table == table]
    best = [0.0] + [float("inf")] * len(points)
    came_from = [0] * (len(points) + 1)
    for first, point in enumerate(points):
        end = 0
        for behind in range(first + 1, len(points) + 1):
            end = max(end, points[behind - 1].end)
            is_legal = end - point.address <= limit and not any(a < end and point.address < b for a, b in holes)
            if not is_legal and behind > first + 1:
                break
            seconds = best[first] + cost.request + cost.byte * data_bytes(table, end - point.address)
            if seconds < best[behind]:
                best[behind], came_from[behind] = seconds, first
    runs, behind = [], len(points)
    while behind:
        runs.append((came_from[behind], behind))
        behind = came_from[behind]
    return runs[::-1]
