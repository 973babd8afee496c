"""What silent meters cost a line, and how soon each of them is asked: the engine's rules in a time of their own."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.native.engine import probes_of_silent
from parkfleet.native.spec import TCP
from tests.engine.rig import MS, S, meter, serial_line, tcp_line

HOUR = 3600 * S
NEVER = 1 << 60


def asked(silent: int, alive: int, timeout_ns: int, taught: dict[int, int], span_ns: int = HOUR,
          baud: int = 9600) -> list[tuple[int, int, int]]:  # fmt: skip
    """The probes of the first so many units of a line."""
    meters = [meter(unit, unit, S) for unit in range(1, silent + alive + 1)]
    line = serial_line(-1, *meters, timeout_ns=timeout_ns, baud=baud, learning=True)
    return probes_of_silent(line, taught, dict.fromkeys(range(1, silent + 1), NEVER), span_ns)


def longest_gap_s(probes: list[tuple[int, int, int]], unit: int, behind_s: float = 60) -> float:
    """Seconds in which a unit that came back right after a probe would not be found, once it is known to be silent."""
    times = [at / S for own, at, _ in probes if own == unit and at / S > behind_s]
    return max(later - earlier for earlier, later in pairwise(times))


@given(
    st.integers(1, 60),
    st.integers(1, 10),
    st.sampled_from([50, 300, 1000, 3000, 60_000]),
    st.dictionaries(st.integers(1, 70), st.integers(1, 900).map(lambda ms: ms * MS), max_size=70),
)
def test_silent_meters_together_take_two_percent_at_most(
    silent: int, alive: int, timeout_ms: int, taught: dict[int, int]
) -> None:
    """However many, and whatever is known of them, in an hour behind their second tries; one probe may overhang."""
    taught = {unit: took for unit, took in taught.items() if unit <= silent + alive}
    probes = asked(silent, alive, timeout_ms * MS, taught, 2 * HOUR)
    later = [waited for _, at, waited in probes if at > HOUR]
    assert sum(later) <= 0.02 * HOUR + max(later, default=0)


def test_second_tries_come_soon_and_their_debt_is_bounded() -> None:
    """Thirty that fall silent at once are each tried again at once, and again within a minute and a half."""
    probes = asked(30, 2, 1000 * MS, dict.fromkeys(range(1, 33), 10 * MS))
    second, third = probes[:30], probes[30:60]
    assert sorted(unit for unit, _, _ in second) == sorted(unit for unit, _, _ in third) == list(range(1, 31))
    assert max(at for _, at, _ in second) < 10 * S
    assert third[0][1] < 70 * S


def test_few_silent_meters_are_each_asked_within_a_minute() -> None:
    """Two of 32 that never answered, at the default time-out of a second: learned patience makes that cheap."""
    probes = asked(2, 30, 1000 * MS, dict.fromkeys(range(3, 33), 20 * MS))
    assert max(longest_gap_s(probes, unit) for unit in (1, 2)) <= 60
    usual = [waited for _, at, waited in probes if at > 60 * S]
    assert sorted(usual)[len(usual) // 2] < 100 * MS


def test_each_fourth_probe_has_all_patience() -> None:
    """A meter that became slower than any other of its line is found nevertheless."""
    probes = asked(1, 5, 1000 * MS, dict.fromkeys(range(1, 7), 5 * MS))
    assert [waited > 1000 * MS for _, _, waited in probes[:12]] == [False, False, False, True] * 3
    assert longest_gap_s(probes, 1) <= 60


def test_many_silent_meters_share_the_budget_evenly() -> None:
    """Nobody is asked twice before everybody was asked once."""
    probes = [unit for unit, at, _ in asked(40, 1, 1000 * MS, {41: 10 * MS}) if at > 120 * S]
    for first in range(0, len(probes) - 40, 40):
        assert sorted(probes[first : first + 40]) == list(range(1, 41))


def test_line_without_anybody_has_nobody_to_keep_waiting() -> None:
    """The budget is for the others' sake: where none answers, each is asked every minute."""
    probes = asked(10, 0, 1000 * MS, {})
    assert max(longest_gap_s(probes, unit) for unit in range(1, 11)) <= 60 + 10  # each waits for the nine others
    assert min(waited for _, _, waited in probes) >= 1000 * MS


@pytest.mark.parametrize("alive", [0, 2])
def test_meters_that_come_back_together_are_found_together(alive: int) -> None:
    """Thirty behind one fuse: once one is found, all are, and those that stay silent wait for the budget again."""
    meters = [meter(unit, unit, S) for unit in range(1, 31 + alive)]
    line = serial_line(-1, *meters, timeout_ns=1000 * MS, baud=9600, learning=True)
    taught = dict.fromkeys(range(1, 31 + alive), 20 * MS)
    returned = {unit: HOUR if unit <= 25 else NEVER for unit in range(1, 31)}
    probes = probes_of_silent(line, taught, returned, 2 * HOUR)
    found = sorted(at for _, at, waited in probes if waited == 0)
    assert len(found) == 25
    assert found[0] <= HOUR + 60 * S
    assert found[-1] <= found[0] + 60 * S
    later = [waited for _, at, waited in probes if at > found[-1]]
    assert sum(later) <= 0.02 * HOUR + 1000 * MS


@pytest.mark.parametrize(("connections", "outstanding"), [(1, 1), (4, 2)])
def test_lanes_have_a_budget_each(connections: int, outstanding: int) -> None:
    """Eight requests at once: eight times the line's time."""
    meters = [meter(unit, unit, S) for unit in range(1, 102)]
    line = tcp_line(1, *meters, timeout_ns=1000 * MS, connections=connections, outstanding=outstanding)
    assert line.kind == TCP
    probes = probes_of_silent(line, {}, dict.fromkeys(range(1, 101), NEVER), 2 * HOUR)
    later = [waited for _, at, waited in probes if at > HOUR]
    lanes = connections * outstanding
    assert 0.9 * 0.02 * lanes * HOUR <= sum(later) <= 0.02 * lanes * HOUR + 1000 * MS
