"""Telegraf's request optimisations, modelled from its documentation (plugins/inputs/modbus/README.md).

For a user who lists the fields wanted, without "omit" fillers: `none` and `shrink` ask for each run of consecutive
registers (a run longer than the limit is split); `rearrange` moves boundaries within such runs without more requests or
registers, which changes nothing here; `aggressive` fills any gap as long as the request stays within the limit;
`max_insert` fills gaps of at most optimization_max_register_fill (50) registers.
"""

from collections.abc import Sequence

from parkfleet.protocols.profile import BIT_TABLES, MAX_BITS, MAX_REGISTERS, Point, Profile
from parkfleet.protocols.readplan import WireCost

#: name -> largest gap that is filled, in registers.
FILLS = {"none": 0, "shrink": 0, "rearrange": 0, "aggressive": MAX_REGISTERS, "max_insert": 50}


def requests(profile: Profile, fill: int, limits: tuple[int, int] = (MAX_REGISTERS, MAX_BITS)) -> list[list[Point]]:
    """The points of each request. Telegraf knows neither the meter's own limit nor holes: it is given both here."""
    groups: list[list[Point]] = []
    for point in sorted(profile.points, key=lambda point: (point.table, point.address, point.end)):
        limit = min(limits[1], profile.max_bits) if point.table in BIT_TABLES else min(limits[0], profile.max_registers)
        if groups and _fits(profile, groups[-1], point, fill, limit):
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def seconds(groups: Sequence[Sequence[Point]], cost: WireCost) -> float:
    """Wire time of the requests under our cost model."""
    return sum(cost.request + cost.byte * _data_bytes(group) for group in groups)


def _fits(profile: Profile, group: Sequence[Point], point: Point, fill: int, limit: int) -> bool:
    end = max(other.end for other in group)
    start, behind = group[0].address, max(end, point.end)
    if point.table != group[0].table or point.address - end > fill or behind - start > limit:
        return False
    spans = [(hole.address, hole.address + hole.count) for hole in profile.holes if hole.table == point.table]
    return not any(first < behind and start < last for first, last in spans)


def _data_bytes(group: Sequence[Point]) -> int:
    count = max(point.end for point in group) - group[0].address
    return (count + 7) // 8 if group[0].table in BIT_TABLES else 2 * count
