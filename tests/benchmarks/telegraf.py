"""Telegraf's request optimisations, modelled from its documentation (plugins/inputs/modbus/README.md).

For a user who lists the fields wanted, without "omit" fillers: `none` and `shrink` ask for each run of consecutive
registers (a run longer than the limit is split); `rearrange` moves boundaries within such runs without more requests or
registers, which changes nothing here; `aggressive` fills any gap: as few requests as the limit allows, their boundaries
then moved so that the fewest registers are read; `max_insert` fills gaps of at most optimization_max_register_fill (50)
registers. Telegraf knows neither a meter's own limit nor holes: it is given both here.
"""

from collections.abc import Sequence

from parkfleet.protocols.modbus.pdu import data_bytes
from parkfleet.protocols.profile import BIT_TABLES, MAX_BITS, MAX_REGISTERS, Point, Profile
from parkfleet.protocols.readplan import WireCost

Group = tuple[Point, ...]
#: name -> largest gap that is filled, in registers; None: any.
FILLS: dict[str, int | None] = {"none": 0, "shrink": 0, "rearrange": 0, "aggressive": None, "max_insert": 50}


def requests(profile: Profile, fill: int | None) -> list[Group]:
    """The points of each request."""
    points = sorted(profile.points, key=lambda point: (point.table, point.address, point.end))
    return _aggressive(profile, points) if fill is None else _filled(profile, points, fill)


def _filled(profile: Profile, points: Sequence[Point], fill: int) -> list[Group]:
    groups: list[Group] = []
    for point in points:
        if groups and _fits(profile, (*groups[-1], point), fill):
            groups[-1] = (*groups[-1], point)
        else:
            groups.append((point,))
    return groups


def _aggressive(profile: Profile, points: Sequence[Point]) -> list[Group]:
    """The fewest requests, and of those ways the one with the fewest registers."""
    best: list[tuple[int, int, list[Group]]] = [(0, 0, [])]
    for behind in range(1, len(points) + 1):
        tries = []
        for first in range(behind):
            group = tuple(points[first:behind])
            if len(group) == 1 or _fits(profile, group, MAX_BITS):
                count, touched, groups = best[first]
                tries.append((count + 1, touched + _span(group), [*groups, group]))
        best.append(min(tries, key=lambda tried: tried[:2]))
    return best[-1][2]


def seconds(groups: Sequence[Sequence[Point]], cost: WireCost) -> float:
    """Wire time of the requests under our cost model."""
    return sum(cost.request + cost.byte * _data_bytes(group) for group in groups)


def _fits(profile: Profile, group: Group, fill: int) -> bool:
    """Whether the points, in order, may be read by one request."""
    table, end = group[0].table, group[0].end
    for point in group:
        if point.table != table or point.address - end > fill:
            return False
        end = max(end, point.end)
    limit = min(MAX_BITS, profile.max_bits) if table in BIT_TABLES else min(MAX_REGISTERS, profile.max_registers)
    spans = [(hole.address, hole.address + hole.count) for hole in profile.holes if hole.table == table]
    return _span(group) <= limit and not any(first < end and group[0].address < last for first, last in spans)


def _span(group: Sequence[Point]) -> int:
    return max(point.end for point in group) - group[0].address


def _data_bytes(group: Sequence[Point]) -> int:
    return data_bytes(group[0].table, _span(group))
