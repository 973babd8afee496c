"""Read plan: legal, complete, and never slower than any other way to cut the points into requests."""

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.config import parse_line_url
from parkfleet.protocols.learned import Evidence, Learned, LearnedHole, Limit
from parkfleet.protocols.profile import Hole, Point, PointType, Profile
from parkfleet.protocols.readplan import WireCost, plan_requests

SERIAL = WireCost.of(parse_line_url("serial:///dev/ttyUSB0?baud=9600"))
TYPES: st.SearchStrategy[PointType] = st.sampled_from(["uint16", "float32", "int64"])


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Up to nine points that may lie apart, side by side or over each other, with holes between."""
    places = draw(st.lists(st.tuples(st.integers(0, 120), TYPES), min_size=1, max_size=9))
    points = [Point(id=f"p{i}", type=kind, address=address) for i, (address, kind) in enumerate(places)]
    holes = [
        Hole(address, 2)
        for address in draw(st.lists(st.integers(0, 120), max_size=3))
        if not any(point.address < address + 2 and address < point.end for point in points)
    ]
    limit = draw(st.integers(4, 125))
    return Profile("p", {}, "power", "test", points, max_registers=limit, holes=holes)


def legal(profile: Profile, address: int, end: int) -> bool:
    holes = any(hole.address < end and address < hole.address + hole.count for hole in profile.holes)
    return end - address <= profile.max_registers and not holes


def brute_force(profile: Profile, cost: WireCost) -> float:
    """The least wire time over every partition of the points into requests."""

    def best(groups: list[list[Point]], rest: list[Point]) -> float:
        if not rest:
            spans = [(min(p.address for p in group), max(p.end for p in group)) for group in groups]
            if not all(legal(profile, *span) for span in spans):
                return float("inf")
            return sum(cost.request + 2 * cost.byte * (end - address) for address, end in spans)
        point, *others = rest
        tries = [[*groups[:i], [*group, point], *groups[i + 1 :]] for i, group in enumerate(groups)]
        return min(best(tried, others) for tried in [*tries, [*groups, [point]]])

    return best([], profile.points)


@given(profiles(), st.sampled_from([SERIAL, WireCost(0.001, 0.001), WireCost(0.1, 0.0001)]))
def test_plan_is_the_optimum(profile: Profile, cost: WireCost) -> None:
    """No partition of up to seven points takes less wire time; every request is legal and every point read once."""
    few = Profile("p", {}, "power", "t", profile.points[:7], max_registers=profile.max_registers, holes=profile.holes)
    plan = plan_requests(few, few.points, 1, cost)
    assert sorted(index for planned in plan for index in planned.points) == list(range(len(few.points)))
    for planned in plan:
        address, end = planned.request.address, planned.request.address + planned.request.count
        assert legal(few, address, end)
        assert all(address <= few.points[i].address and few.points[i].end <= end for i in planned.points)
    assert abs(sum(planned.seconds(cost) for planned in plan) - brute_force(few, cost)) < 1e-9


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
