"""Read plan: legal, complete, and never slower than any other way to cut the points into requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.protocols.config import LineAddress, parse_line_url
from parkfleet.protocols.learned import Evidence, Learned, LearnedHole, Limit
from parkfleet.protocols.modbus.pdu import ReadRequest
from parkfleet.protocols.profile import BIT_TABLES, Hole, Point, PointType, Profile, Table
from parkfleet.protocols.readplan import WireCost, plan_requests

SERIAL = WireCost.of(parse_line_url("serial:///dev/ttyUSB0?baud=9600"))
TYPES: st.SearchStrategy[PointType] = st.sampled_from(["uint16", "float32", "int64"])


@st.composite
def profiles(draw: st.DrawFn, tables: tuple[Table, ...] = ("holding",)) -> Profile:
    """Up to twelve points that may lie apart, side by side or over each other, with holes between."""
    table = draw(st.sampled_from(tables))
    bits = table in BIT_TABLES
    kinds: st.SearchStrategy[PointType] = st.just("bool") if bits else TYPES
    size = draw(st.integers(1, 12))
    places = draw(st.lists(st.tuples(st.integers(0, 120), kinds), min_size=size, max_size=size))
    points = [Point(f"p{i}", kind, address, table=table) for i, (address, kind) in enumerate(places)]
    holes = [
        Hole(address, 2, table=table)
        for address in draw(st.lists(st.integers(0, 120), max_size=3))
        if not any(point.address < address + 2 and address < point.end for point in points)
    ]
    limit = draw(st.integers(4, 125))
    return Profile("p", {}, "power", "test", points, max_registers=limit, max_bits=limit, holes=holes)


def legal(profile: Profile, address: int, end: int) -> bool:
    holes = any(hole.address < end and address < hole.address + hole.count for hole in profile.holes)
    return end - address <= profile.max_registers and not holes


def brute_force(profile: Profile, cost: WireCost) -> float:
    """The least wire time over every partition of the points into requests, whatever lies in between.

    least[s] is that of a set of points (its bits): each of its subsets with its first point is tried as one request.
    """
    points, sets = profile.points, range(1 << len(profile.points))

    def alone(chosen: int) -> float:
        group = [point for index, point in enumerate(points) if chosen >> index & 1]
        address, end = min(p.address for p in group), max(p.end for p in group)
        if not legal(profile, address, end):
            return float("inf")
        return ReadRequest(1, group[0].table, address, end - address).data_bytes * cost.byte + cost.request

    of_one = [0.0, *map(alone, sets[1:])]
    least = [0.0]
    for chosen in sets[1:]:
        first = chosen & -chosen
        best, part = float("inf"), chosen
        while part:
            if part & first:
                best = min(best, of_one[part] + least[chosen ^ part])
            part = (part - 1) & chosen
        least.append(best)
    return least[-1]


COSTS = [SERIAL, WireCost(0.001, 0.001), WireCost(0.1, 0.0001), WireCost.of(parse_line_url("tcp://h"))]


@settings(deadline=None)
@given(profiles(("holding", "input", "coil", "discrete")), st.sampled_from(COSTS))
def test_plan_is_the_optimum(profile: Profile, cost: WireCost) -> None:
    """No partition of up to twelve points takes less wire time; every request is legal and every point read once."""
    plan = plan_requests(profile, profile.points, 1, cost)
    assert sorted(index for planned in plan for index in planned.points) == list(range(len(profile.points)))
    for planned in plan:
        address, end = planned.request.address, planned.request.address + planned.request.count
        assert legal(profile, address, end)
        assert all(address <= profile.points[i].address and profile.points[i].end <= end for i in planned.points)
    assert abs(sum(planned.seconds(cost) for planned in plan) - brute_force(profile, cost)) < 1e-9


def test_plan_counts_bits_in_whole_bytes() -> None:
    """Two full bytes are less than nine bits and one, though those are fewer."""
    points = [Point(f"p{address}", "bool", address, table="coil") for address in (0, 7, 8, 15)]
    profile = Profile("p", {}, "power", "test", points, max_bits=12)
    plan = plan_requests(profile, points, 1, WireCost(1.0, 1.0))
    assert [planned.request.count for planned in plan] == [8, 8]


@given(profiles())
def test_what_was_learned_counts_like_what_is_declared(profile: Profile) -> None:
    """A limit and holes that the profile does not know, and the meter has."""
    plain = Profile("p", {}, "power", "test", profile.points)
    evidence = Evidence(0, 1, 1)
    learned = Learned(
        max_registers=Limit(profile.max_registers, evidence),
        holes=tuple(LearnedHole("holding", hole.address, hole.count, evidence) for hole in profile.holes),
    )
    assert plan_requests(plain, profile.points, 1, SERIAL, learned) == plan_requests(profile, profile.points, 1, SERIAL)


def test_cost_of_a_serial_line_is_its_wire_time() -> None:
    """13 bytes of frames, t3.5 twice, 10 ms turnaround, also of an address without a device yet; a byte is ten bits."""
    for cost in (SERIAL, WireCost.of(LineAddress("serial", baud=9600))):
        assert cost.byte == pytest.approx(10 / 9600)
        assert cost.request == pytest.approx(130 / 9600 + 2 * 35 / 9600 + 0.010)


def test_plan_keeps_tables_apart() -> None:
    """One request reads one table."""
    points = [
        Point(id="a", type="uint16", address=0, table="input"),
        Point(id="b", type="uint16", address=1, table="holding"),
        Point(id="c", type="bool", address=0, table="coil"),
    ]
    plan = plan_requests(Profile("p", {}, "power", "t", points), points, 3, SERIAL)
    assert {(planned.request.table, planned.request.unit) for planned in plan} == {
        ("input", 3),
        ("holding", 3),
        ("coil", 3),
    }
