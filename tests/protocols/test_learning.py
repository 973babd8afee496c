"""Learning: whatever map a meter has, after a few searches all that it can give is read, and nothing else is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.config import parse_line_url
from parkfleet.protocols.learned import Evidence, Learned, LearnedHole, Limit, Pause, profile_part
from parkfleet.protocols.learning import SILENT_SCANS, Asking, Block, Search, Watch, watch
from parkfleet.protocols.profile import Hole, Point, Profile
from parkfleet.protocols.quality import EXCEPTION, Quality
from parkfleet.protocols.readplan import PlannedRequest, WireCost, plan_requests

T = TypeVar("T")

COST = WireCost.of(parse_line_url("serial:///dev/ttyUSB0?baud=9600"))
ILLEGAL = EXCEPTION | 2


@dataclass
class Meter:
    """What a meter really takes."""

    limit: int = 125
    holes: tuple[tuple[int, int], ...] = ()  # (address, behind)
    aligned: frozenset[int] = frozenset()  # addresses inside of values: no block begins or ends there
    refusal: int = ILLEGAL
    gap: float = 0.0

    def answers(self, blocks: tuple[Block, ...]) -> tuple[int, ...]:
        return tuple(0 if block.pause >= self.gap and self._takes(block) else self.refusal for block in blocks)

    def _takes(self, block: Block) -> bool:
        end = block.address + block.size
        if block.address in self.aligned or end in self.aligned:
            return False
        return block.size <= self.limit and not any(first < end and block.address < last for first, last in self.holes)


def run(search: Asking[T], answers: Callable[[tuple[Block, ...]], tuple[int, ...]]) -> tuple[T, int]:
    """Plays a search against a meter: what it found, and how many requests that took."""
    asked = 0
    try:
        blocks = next(search)
        while True:
            asked += len(blocks)
            blocks = search.send(answers(blocks))
    except StopIteration as end:
        return end.value, asked


def scan(plan: Sequence[PlannedRequest], meter: Meter) -> list[int]:
    """What comes of a plan's requests."""
    return [meter.answers((Block("holding", p.request.address, p.request.count, 9.0),))[0] for p in plan]


def learn(points: list[Point], meter: Meter, rounds: int = 40) -> tuple[Learned, list[PlannedRequest], int]:
    """Scans and searches until nothing is suspicious."""
    profile, learned, asked = Profile("p", {}, "power", "t", points), Learned(), 0
    for _ in range(rounds):
        plan = plan_requests(profile, points, 1, COST, learned)
        outcomes = scan(plan, meter)
        failed = next((index for index, code in enumerate(outcomes) if code), None)
        if failed is None:
            break
        good = [planned for planned, code in zip(plan, outcomes, strict=True) if not code]
        search = Search(points, plan[failed], outcomes[failed], good, learned, now=lambda: 1)
        found, count = run(search.run(), meter.answers)
        asked += count
        if found == learned:
            break
        learned = found
    return learned, plan, asked


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[Point], Meter]:
    """Up to eight values that do not overlap, and a meter that refuses some registers and long blocks."""
    points, at = [], 0
    for index in range(draw(st.integers(2, 8))):
        at += draw(st.sampled_from([0, 0, 0, 1, 3, 8]))
        points.append(Point(f"p{index}", "float32" if draw(st.booleans()) else "uint16", at))
        at = points[-1].end
    holes = tuple((first, first + 1) for first in draw(st.lists(st.integers(0, at), max_size=3)))
    aligned = {p.address + 1 for p in points if p.count == 2} if draw(st.booleans()) else set()
    return points, Meter(draw(st.integers(2, 40)), holes, frozenset(aligned), draw(st.sampled_from([ILLEGAL, 0x83])))


@given(maps())
def test_every_point_the_meter_gives_is_read(case: tuple[list[Point], Meter]) -> None:
    """And those it refuses are refused by themselves; none of them costs another its values."""
    points, meter = case
    learned, plan, asked = learn(points, meter)
    alone = [meter.answers((Block("holding", p.address, p.count),)) == (0,) for p in points]
    if not any(alone):
        assert learned.is_empty  # it refuses everything: that says nothing about its map
        return
    planned = {index for request in plan for index in request.points}
    assert planned == {index for index, is_given in enumerate(alone) if is_given}
    assert not any(scan(plan, meter))
    assert asked < 200


def test_limit_is_found_exactly() -> None:
    """Thirty floats side by side, a meter that takes 37 registers: bisected to the register, once for all."""
    points = [Point(f"p{index}", "float32", 2 * index) for index in range(30)]
    learned, plan, asked = learn(points, Meter(limit=37))
    assert learned.max_registers is not None
    assert learned.max_registers.count == 37
    assert (learned.holes, learned.refused) == ((), ())
    assert learned.max_registers.evidence == Evidence(1, asked, learned.max_registers.evidence.refused)
    assert asked < 20
    assert [p.request.count for p in plan] == [36, 24]


def test_hole_is_found_between_its_neighbours() -> None:
    """One unreadable register in a gap: the two blocks beside it remain whole."""
    points = [Point(f"p{index}", "uint16", address) for index, address in enumerate([0, 1, 2, 6, 7, 8])]
    learned, plan, asked = learn(points, Meter(holes=((4, 5),)))
    assert [(hole.address, hole.count) for hole in learned.holes] == [(3, 3)]
    assert [planned.points for planned in plan] == [(0, 1, 2), (3, 4, 5)]
    assert asked < 15


def test_seam_is_found() -> None:
    """A meter whose blocks must not reach from one of its areas into the next: not its length, not its points."""
    points = [Point(f"p{index}", "uint16", index) for index in range(20)]

    class Seamed(Meter):
        def _takes(self, block: Block) -> bool:
            return not block.address < 10 < block.address + block.size

    learned, plan, _ = learn(points, Seamed())
    assert [(hole.address, hole.count) for hole in learned.holes] == [(10, 0)]
    assert [len(planned.points) for planned in plan] == [10, 10]
    assert learned.max_registers is None


def test_refused_point_keeps_its_own_exception() -> None:
    """The others are read in as few requests as possible."""
    points = [Point(f"p{index}", "uint16", index) for index in range(9)]
    learned, plan, _ = learn(points, Meter(holes=((4, 5),)))
    refused = learned.refusal(points[4])
    assert refused is not None
    assert refused.quality == ILLEGAL
    assert [planned.points for planned in plan] == [(0, 1, 2, 3), (5, 6, 7, 8)]


def test_busy_meter_teaches_nothing() -> None:
    """Exceptions about the moment (6: busy) end the search."""
    points = [Point(f"p{index}", "uint16", index) for index in range(4)]
    (planned,) = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST)
    search = Search(points, planned, ILLEGAL, [], Learned())
    assert run(search.run(), lambda blocks: (EXCEPTION | 6,) * len(blocks))[0] == Learned()


def test_gap_is_found() -> None:
    """A meter that hears nothing for 30 ms after an answer: the first gap of the ladder that serves."""
    points = [Point("a", "uint16", 0), Point("b", "uint16", 500)]
    first, second = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST)
    meter = Meter(gap=0.03, refusal=Quality.TIMEOUT)
    learned, _ = run(Search(points, second, Quality.TIMEOUT, [first], Learned(), now=lambda: 5).run(), meter.answers)
    assert learned.gap is not None
    assert learned.gap.ms == 50
    assert learned.gap_ms(10) == 50
    assert learned.gap_ms(80) == 80


def test_gap_that_turns_out_too_short_is_raised() -> None:
    """A later search begins above what is known."""
    points = [Point("a", "uint16", 0), Point("b", "uint16", 500)]
    first, second = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST)
    known = Learned(gap=Pause(20, Evidence(1, 1, 1)))
    meter = Meter(gap=0.03, refusal=Quality.TIMEOUT)
    learned, _ = run(Search(points, second, Quality.TIMEOUT, [first], known).run(), meter.answers)
    assert learned.gap is not None
    assert learned.gap.ms == 50


def test_meter_that_fell_silent_during_the_search_teaches_nothing() -> None:
    """Every probe unanswered from the third on: dead, not limited."""
    points = [Point(f"p{index}", "uint16", index) for index in range(16)]
    (planned,) = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST)
    asked = 0

    def dying(blocks: tuple[Block, ...]) -> tuple[int, ...]:
        nonlocal asked
        asked += 1
        return (Quality.GOOD if asked == 3 else Quality.TIMEOUT,) * len(blocks)

    assert run(Search(points, planned, Quality.TIMEOUT, [planned], Learned()).run(), dying)[0] == Learned()


def test_dead_meter_costs_one_request() -> None:
    """Silent as a whole, scan after scan: one point alone tells whether it is dead, or its first block too long."""
    state, suspects = Watch(), []
    for _ in range(SILENT_SCANS):
        state, suspect = watch(state, [Quality.TIMEOUT, Quality.SKIPPED])
        suspects.append(suspect)
    assert suspects == [None, None, 0]
    points = [Point(f"p{index}", "uint16", index) for index in range(16)]
    (planned,) = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST)
    search = Search(points, planned, Quality.TIMEOUT, [], Learned())
    assert run(search.run(), Meter(limit=0, refusal=Quality.TIMEOUT).answers) == (Learned(), 1)
    search = Search(points, planned, Quality.TIMEOUT, [], Learned())
    learned, _ = run(search.run(), Meter(limit=7, refusal=Quality.TIMEOUT).answers)
    assert learned.max_registers is not None
    assert learned.max_registers.count == 7


def test_watch_waits_for_a_row_of_silences() -> None:
    """Noise takes a request now and then; only the same one again and again, while others answer, is searched."""
    silent = [0, Quality.TIMEOUT, 0]
    state = Watch()
    for index in range(SILENT_SCANS):
        state, suspect = watch(state, silent)
        assert suspect == (1 if index == SILENT_SCANS - 1 else None)
    state, suspect = watch(state, [0, 0, 0])
    assert watch(state, silent)[1] is None
    state, suspect = watch(state, [Quality.TIMEOUT, Quality.SKIPPED])
    assert suspect is None  # the meter is silent as a whole
    assert watch(Watch(), [0, ILLEGAL])[1] == 1  # an exception says it by itself
    assert watch(Watch(), [0, EXCEPTION | 6])[1] is None


def test_single_point_is_planned_whatever_was_learned() -> None:
    """A limit or hole that contradicts a point (points were chosen anew) does not leave it out."""
    points = [Point("a", "float32", 0), Point("b", "float32", 2)]
    evidence = Evidence(1, 1, 1)
    learned = Learned(max_registers=Limit(1, evidence), holes=(LearnedHole("holding", 1, 2, evidence),))
    plan = plan_requests(Profile("p", {}, "power", "t", points), points, 1, COST, learned)
    assert [planned.points for planned in plan] == [(0,), (1,)]


def test_profile_part_names_what_the_profile_should_say() -> None:
    """Addresses as the profile counts them; holes around points that were not read then."""
    points = [Point("a", "uint16", 40001), Point("b", "uint16", 40005), Point("c", "uint16", 40011)]
    profile = Profile("p", {}, "power", "t", points, base=40001, holes=[Hole(40003, 1)])
    evidence = Evidence(1, 1, 1)
    learned = Learned(
        max_registers=Limit(37, evidence),
        gap=Pause(50, evidence),
        holes=(LearnedHole("holding", 1, 9, evidence), LearnedHole("holding", 10, 0, evidence)),
    )
    assert profile_part(profile, learned) == {
        "max_registers": 37,
        "min_gap": 50,
        "holes": [
            {"table": "holding", "address": 40003, "count": 1},
            {"table": "holding", "address": 40002, "count": 3},
            {"table": "holding", "address": 40006, "count": 5},
        ],
    }
    assert profile_part(profile, Learned()) == {}
