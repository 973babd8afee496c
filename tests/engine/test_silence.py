"""What silent meters cost a line, and how soon each of them is asked, in a time of its own: by the engine's rules, and
by those of the lines that are polled in Python."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.agent.silence import Silence
from parkfleet.native.engine_parts import probes_of_silent
from tests.engine.rig import MS, S, meter, serial_line, tcp_line

HOUR = 3600 * S
NEVER = 1 << 60
#: (unit, asked at, waited) in ns; waited 0: it answered.
Probes = list[tuple[int, int, int]]
#: (time-out in ns, by unit its turnaround before, by unit when it answers again, how many units, until when): probes.
Rules = Callable[[int, dict[int, int], dict[int, int], int, int], Probes]


def of_engine(timeout_ns: int, taught: dict[int, int], silent: dict[int, int], units: int, span_ns: int) -> Probes:
    """A serial line at 9600 baud, every meter each second."""
    meters = [meter(unit, unit, S) for unit in range(1, units + 1)]
    line = serial_line(-1, *meters, timeout_ns=timeout_ns, baud=9600, learning=True)
    return probes_of_silent(line, taught, silent, span_ns)


def of_poller(timeout_ns: int, taught: dict[int, int], silent: dict[int, int], units: int, span_ns: int) -> Probes:
    """The same on a line that Python polls."""
    rules = Silence(dict.fromkeys(range(1, units + 1), 1.0), timeout_ns / S, 0.0, lambda: 0.5)
    for known, took in taught.items():
        for _ in range(30):
            rules.answered(known, 0.0, took / S)
    for fell in silent:
        rules.missed(fell, 0.0, 0.0)
    probes: Probes = []
    now = 0.0
    while now * S < span_ns and any(map(rules.is_silent, silent)):
        if (unit := rules.due(now)) is None:
            now = max(now + 1e-6, rules.next_due())
        elif silent[unit] <= now * S:
            rules.answered(unit, now, 0.01)
            probes.append((unit, round(now * S), 0))
        else:
            waited_s = rules.patience(unit)
            probes.append((unit, round(now * S), round(waited_s * S)))
            now += waited_s
            rules.missed(unit, now, waited_s, timeout_ns / S)
    return probes


EACH = pytest.mark.parametrize("rules", [of_engine, of_poller])


def asked(
    rules: Rules, silent: int, alive: int, timeout_ms: int, taught: dict[int, int], span_ns: int = HOUR
) -> Probes:
    """The probes of the first so many units of a line, which never answer again. taught: ms."""
    known = {unit: took * MS for unit, took in taught.items()}
    return rules(timeout_ms * MS, known, dict.fromkeys(range(1, silent + 1), NEVER), silent + alive, span_ns)


def longest_gap_s(probes: Probes, unit: int, behind_s: float = 60) -> float:
    """Seconds in which a unit that came back right after a probe would not be found, some time after it fell silent."""
    times = [at / S for own, at, _ in probes if own == unit and at / S > behind_s]
    return max(later - earlier for earlier, later in pairwise(times))


@EACH
@given(
    silent=st.integers(1, 60),
    alive=st.integers(1, 10),
    timeout_ms=st.sampled_from([50, 300, 1000, 3000, 60_000]),
    taught=st.dictionaries(st.integers(1, 70), st.integers(1, 900), max_size=70),
)
@settings(deadline=None, max_examples=25)
def test_silent_meters_together_take_two_percent_at_most(
    rules: Rules, silent: int, alive: int, timeout_ms: int, taught: dict[int, int]
) -> None:
    """However many, and whatever is known of them, in an hour behind their second tries; one probe may overhang."""
    known = {unit: took for unit, took in taught.items() if unit <= silent + alive}
    later = [waited for _, at, waited in asked(rules, silent, alive, timeout_ms, known, 2 * HOUR) if at > HOUR]
    assert sum(later) <= 0.02 * HOUR + max(later, default=0)


@EACH
def test_second_tries_come_soon_and_their_debt_is_bounded(rules: Rules) -> None:
    """Twenty that fall silent at once are each tried again at once, and again from a minute later on."""
    probes = asked(rules, 20, 2, 1000, dict.fromkeys(range(1, 23), 10))
    second, third = probes[:20], probes[20:40]
    assert sorted(unit for unit, _, _ in second) == sorted(unit for unit, _, _ in third) == list(range(1, 21))
    assert max(at for _, at, _ in second) < 20 * S
    assert third[0][1] < 80 * S


@pytest.mark.parametrize(("rules", "silent"), [(of_engine, 1), (of_engine, 2), (of_engine, 4), (of_poller, 2)])
def test_few_silent_meters_are_each_asked_within_a_minute(rules: Rules, silent: int) -> None:
    """Of 32, and never answered, at the default time-out of a second: what was learned of others makes it cheap."""
    probes = asked(rules, silent, 32 - silent, 1000, dict.fromkeys(range(1 + silent, 33), 20))
    behind_s = 0 if rules is of_engine else 240  # Python waits longer at least, and pays so long for its first tries
    assert max(longest_gap_s(probes, unit, behind_s) for unit in range(1, 1 + silent)) <= 60
    usual = [waited for _, at, waited in probes if at > 60 * S]
    assert sorted(usual)[len(usual) // 2] < 400 * MS


@EACH
def test_each_eighth_probe_has_all_patience(rules: Rules) -> None:
    """A meter that became slower than any other of its line is found nevertheless; the count begins with the miss."""
    probes = asked(rules, 1, 5, 1000, dict.fromkeys(range(1, 7), 5))
    assert [number for number, probe in enumerate(probes[:31], 2) if probe[2] >= 1000 * MS] == [16, 24, 32]
    assert longest_gap_s(probes, 1) <= 60


@EACH
def test_many_silent_meters_share_the_budget_evenly(rules: Rules) -> None:
    """Nobody is asked twice before everybody was asked once."""
    probes = [unit for unit, at, _ in asked(rules, 40, 1, 1000, {41: 10}) if at > 180 * S]
    assert len(probes) > 80
    for first in range(0, len(probes) - 40, 40):
        assert sorted(probes[first : first + 40]) == list(range(1, 41))


@EACH
def test_line_without_anybody_has_nobody_to_keep_waiting(rules: Rules) -> None:
    """The budget is for the others' sake: where none answers, each is asked every minute."""
    probes = asked(rules, 10, 0, 1000, {})
    assert max(longest_gap_s(probes, unit) for unit in range(1, 11)) <= 60 + 10  # each waits for the nine others
    assert min(waited for _, _, waited in probes) >= 1000 * MS


@EACH
@pytest.mark.parametrize("alive", [0, 2])
def test_meters_that_come_back_together_are_found_together(rules: Rules, alive: int) -> None:
    """Thirty behind one fuse: once one is found, all are, and those that stay silent wait for the budget again."""
    taught = dict.fromkeys(range(1, 31 + alive), 20 * MS)
    returned = {unit: HOUR if unit <= 25 else NEVER for unit in range(1, 31)}
    probes = rules(1000 * MS, taught, returned, 30 + alive, 2 * HOUR)
    found = sorted(at for _, at, waited in probes if waited == 0)
    assert len(found) == 25
    assert found[0] <= HOUR + 60 * S
    assert found[-1] <= found[0] + 180 * S
    later = [waited for _, at, waited in probes if at > found[-1]]
    assert sum(later) <= 0.02 * HOUR + 1000 * MS


@pytest.mark.parametrize(("connections", "outstanding"), [(1, 1), (4, 2)])
def test_lanes_have_a_budget_each(connections: int, outstanding: int) -> None:
    """Eight requests at once: eight times the line's time."""
    meters = [meter(unit, unit, S) for unit in range(1, 102)]
    line = tcp_line(1, *meters, timeout_ns=1000 * MS, connections=connections, outstanding=outstanding)
    probes = probes_of_silent(line, {}, dict.fromkeys(range(1, 101), NEVER), 2 * HOUR)
    later = [waited for _, at, waited in probes if at > HOUR]
    lanes = connections * outstanding
    assert 0.9 * 0.02 * lanes * HOUR <= sum(later) <= 0.02 * lanes * HOUR + 1000 * MS
