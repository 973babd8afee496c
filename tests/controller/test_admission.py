"""Admission: a fleet that comes back at once is let in at the rate that can be borne, and nobody is sent away twice."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller import admission
from parkfleet.controller.admission import BUDGET, BURST, FIRST_RATE, HOLD_S, KEPT_S, OWN_BURST, OWN_S, RATES, Admission
from parkfleet.controller.registry import GatewayKey


@dataclass
class Machine:
    """A clock and a CPU that a test moves."""

    now: float = 1000.0
    cpu: float = 5.0

    def waits(self, door: Admission, number: int) -> tuple[float, float]:
        """What a gateway is told: how long to wait here, or to stay away."""
        turn = door.ask(key(number))
        return (0.0, turn.away_s) if turn.away_s else (door.left(turn.place), 0.0)

    def door(self) -> Admission:
        """A door that reads them."""
        return Admission(lambda: self.now, lambda: self.cpu)


def key(number: int) -> GatewayKey:
    """A gateway."""
    return GatewayKey("p1", f"gw-{number}")


def test_ask_of_a_few_gateways_is_answered_at_once() -> None:
    """Nobody waits who comes alone."""
    machine = Machine()
    door = machine.door()
    machine.now += 60
    assert all(machine.waits(door, number) == (0.0, 0.0) for number in range(BURST))


def test_ask_of_a_whole_fleet_spreads_it() -> None:
    """Who has a place soon waits for it, the others are sent away until theirs; places are as far apart as the rate."""
    machine = Machine()
    door = machine.door()
    told = [machine.waits(door, number) for number in range(10_000)]
    assert [away > 0 for _, away in told] == sorted(away > 0 for _, away in told)
    assert sum(not away for _, away in told) == pytest.approx(HOLD_S * FIRST_RATE, abs=2)
    assert max(wait for wait, _ in told) <= HOLD_S
    assert told[-1][1] == pytest.approx(10_000 / FIRST_RATE, rel=0.01)


def test_ask_of_who_was_sent_away_and_is_back() -> None:
    """It has its place, though thousands have come meanwhile; a little early it waits, else it is told again."""
    machine = Machine()
    door = machine.door()
    told = [machine.waits(door, number) for number in range(6000)]
    last = told[-1][1]
    machine.now += 5
    assert machine.waits(door, 5999)[1] == pytest.approx(last - 5)
    machine.now += last - 6
    assert machine.waits(door, 5999)[0] == pytest.approx(1)
    machine.now += 5
    assert all(machine.waits(door, number) == (0.0, 0.0) for number in range(5000, 5999))


def test_the_queue_moves_as_fast_as_the_rate() -> None:
    """Also for those who are in it already, here or away."""
    machine = Machine()
    door = machine.door()
    turns = [door.ask(key(number)) for number in range(6000)]
    waiting, away_s = turns[1000].place, turns[5999].away_s
    left = door.left(waiting)
    door.rate *= 2
    assert door.left(waiting) == pytest.approx(left / 2)
    assert machine.waits(door, 5999)[1] == pytest.approx(away_s / 2)
    door.rate /= 4
    assert door.left(waiting) == pytest.approx(left * 2)


def test_rate_follows_from_what_a_session_costs() -> None:
    """Cheap ones come faster, dear ones slower, within bounds; what the machine does anyway is not blamed on them."""
    machine = Machine()
    door = machine.door()

    def seconds(number: int, sessions: int, cpu: float, sent_away: int = 0, late_s: float = 0.0) -> None:
        for _ in range(number):
            door.counts.asked += sessions + sent_away
            door.counts.begun += sessions
            machine.now += 1
            machine.cpu += cpu
            door.measure(late_s)

    seconds(30, 0, 0.2)
    seconds(30, 100, 0.2 + 0.4)
    assert door.rate == pytest.approx(BUDGET / 0.004, rel=0.05)
    seconds(30, 100, 0.2 + 1.0)
    assert door.rate == pytest.approx(BUDGET / 0.010, rel=0.05)
    seconds(30, 1, 1.0)  # too few to tell anything
    assert door.rate == pytest.approx(BUDGET / 0.010, rel=0.05)
    seconds(30, 50, 0.2 + 0.010 * (50 + 0.6 * 400), sent_away=400)  # theirs are handshakes too
    assert door.rate == pytest.approx(BUDGET / 0.010, rel=0.05)
    seconds(1, 50, 0.7, late_s=2.0)
    assert door.rate == pytest.approx(0.8 * BUDGET / 0.010, rel=0.05)
    seconds(3, 50, 0.7)
    assert door.rate == pytest.approx(BUDGET / 0.010, rel=0.05)
    seconds(60, 5, 2.0)
    assert door.rate == RATES[0]
    seconds(60, 500, 0.1)
    assert door.rate == RATES[1]


def test_ask_of_one_gateway_without_end_harms_itself_alone() -> None:
    """It is told to stay away, and others find the door as free as before."""
    machine = Machine()
    door = machine.door()
    turns = []
    for _ in range(OWN_BURST + 10):
        machine.now += 0.02
        turns.append(door.ask(key(1)))
    assert [turn.away_s > 0 for turn in turns] == [False] * OWN_BURST + [True] * 10
    machine.now += 60
    assert machine.waits(door, 2) == (0.0, 0.0)
    machine.now += OWN_S * OWN_BURST
    assert machine.waits(door, 1) == (0.0, 0.0)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places and shares of who never comes back are forgotten."""
    monkeypatch.setattr(admission, "MAX_GATEWAYS", 1000)
    machine = Machine()
    door = machine.door()
    for number in range(10_000):
        door.ask(key(number))
    assert len(door._places) <= 1000 and len(door._own) <= 1001
    machine.now += 10_000 / FIRST_RATE + KEPT_S + 1
    for number in range(20_000, 25_000):
        door.ask(key(number))
    assert min(door._places.values()) > door._turn - KEPT_S * FIRST_RATE


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 3)), max_size=600))
def test_nobody_is_sent_away_twice_who_comes_when_told(comings: list[tuple[int, float]]) -> None:
    """Whatever others do; and of each second no more places are given than the rate and the burst."""
    machine = Machine()
    door = machine.door()
    told: dict[GatewayKey, float] = {}
    for number, pause in comings:
        machine.now += pause / 100
        turn = door.ask(key(number))
        if key(number) in told and told[key(number)] <= machine.now <= told[key(number)] + KEPT_S:
            assert not turn.away_s
        if turn.away_s:
            told[key(number)] = machine.now + turn.away_s
        else:
            told.pop(key(number), None)
