"""The ledger of the fault run: it sees what is lost, doubled, invented and moved, and knows what a kill may cost."""

from collections.abc import Sequence

import pytest

from parkfleet.simulators.verdict import Series
from tests.faults.ledger import Ledger, Life, balance

SERIES = Series("m", "p")
LIVES = [Life(0, 10, killed=True, allowed=1.0), Life(11, 20, killed=False)]
Times = dict[int, float]


def account(answered: Times, received: Times, twice: Times | None = None, timeouts: Sequence[float] = ()) -> Ledger:
    """Of one series: times by value."""
    sides = [[(SERIES, value, at) for value, at in side.items()] for side in (answered, received, twice or {})]
    told = [(SERIES, at) for at in timeouts]
    return balance(sides[0], sides[1] + sides[2], told, LIVES, lambda a, b: abs(a - b) < 0.5)


ANSWERED = {1: 8.0, 2: 9.2, 3: 9.8, 4: 12.0, 5: 19.9}


def test_everything_received() -> None:
    """Nothing to explain."""
    ledger = account(ANSWERED, ANSWERED)
    assert (ledger.exact, ledger.answered, ledger.received, ledger.lost_at_kills) == (True, 5, 5, 0)


def test_end_of_a_killed_life() -> None:
    """What was answered within the last flush interval before a kill may be missing, and is counted."""
    ledger = account(ANSWERED, {1: 8.0, 4: 12.0, 5: 19.9})
    assert (ledger.exact, ledger.lost_at_kills, round(ledger.oldest_lost, 3)) == (True, 2, 0.8)


@pytest.mark.parametrize(
    ("received", "what"),
    [
        ({1: 8.0, 3: 9.8, 4: 12.0, 5: 19.9}, "though later ones came"),  # a hole in the last interval
        ({4: 12.0, 5: 19.9}, "2.000 s before a kill"),  # more than the interval
        ({1: 8.0, 2: 9.2, 3: 9.8, 4: 12.0}, "before the end"),  # of a life that nobody killed
    ],
)
def test_other_losses_are_unexplained(received: Times, what: str) -> None:
    """A hole, too much, and a life that ended by itself."""
    ledger = account(ANSWERED, received)
    assert (ledger.exact, ledger.unexplained) == (False, 1)
    assert what in ledger.examples[0]


def test_answer_that_came_too_late() -> None:
    """Each one has a reading that tells of its time-out; one such reading explains one answer."""
    late = account(ANSWERED, {1: 8.0, 3: 9.8, 4: 12.0, 5: 19.9}, timeouts=[9.0, 12.1])
    assert (late.exact, late.came_too_late) == (True, 1)
    assert account({1: 12.0, 2: 12.1, 3: 13.0}, {3: 13.0}, timeouts=[12.0]).unexplained == 1


def test_twice_invented_and_moved() -> None:
    """Each of them is seen."""
    assert account(ANSWERED, ANSWERED, {3: 9.8}).twice == 1
    assert account(ANSWERED, ANSWERED | {6: 19.9}).never_answered == 1
    assert account(ANSWERED, ANSWERED | {5: 18.0}).wrong_time == 1
    assert not account({}, {}).exact
