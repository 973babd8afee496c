"""What a survey tells of the time it still takes: it only falls, and is no promise that it breaks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.time_left import IDENTIFY_S, TimeLeft


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0.0, 30.0), min_size=2, max_size=40), st.lists(st.floats(0.0, 30.0), min_size=2, max_size=40))
def test_time_left_only_falls(trials: list[float], looks: list[float]) -> None:
    """Whatever each trial and each look takes, in either part of the survey."""
    clock = Clock()
    left = TimeLeft(float(len(trials)), 0.5, clock)
    told = []
    for place, seconds in enumerate(trials, 1):
        clock.now += seconds
        told.append(left.searching(float(len(trials) - place)))
    assert told == sorted(told, reverse=True)
    assert told[-1] == 0
    asked = []
    for place, seconds in enumerate(looks, 1):
        clock.now += seconds
        asked.append(left.identifying(place / 4, -(-len(looks) // 4)))
    assert all(later <= before for before, later in pairwise(asked))


def test_searching_beside_the_agent_takes_twice_as_long() -> None:
    """The scan gets half of the line's time, and says so from the start."""
    left = TimeLeft(60.0, 0.5, Clock())
    assert left.searching(60.0) == 120.0


def test_searching_slower_than_planned_stands_still() -> None:
    """Noise costs patience: what is told waits until it is true again, it never rises."""
    clock = Clock()
    left = TimeLeft(10.0, clock=clock)
    clock.now += 1
    assert left.searching(9.0) == pytest.approx(9.0)
    clock.now += 9  # one second of the plan took nine
    assert left.searching(8.0) == pytest.approx(9.0)
    clock.now += 5
    assert left.searching(3.0) == pytest.approx(3.0 * 15 / 7)


def test_identifying_learns_from_the_first() -> None:
    """Before one unit is known the usual time counts, then what it took."""
    clock = Clock()
    left = TimeLeft(0.0, clock=clock)
    assert left.identifying(0.0, 4) == 4 * IDENTIFY_S
    clock.now += 2
    assert left.identifying(1.0, 4) == pytest.approx(6.0)
    assert left.identifying(4.0, 4) == 0
