"""The clock gate: readings from before the time is known are given the right one, and none is lost."""

from array import array
from dataclasses import dataclass, field

import pytest

from parkfleet.agent import clock
from parkfleet.agent.clock import EARLIEST_S, PATIENCE_S, ClockGate, SystemTime
from parkfleet.protocols.payload.series import Scan

NOW = 1_795_000_000.0


@dataclass
class FakeTime:
    """A box just started, that believes a time."""

    believed: float
    boot: float = 20.0
    ntp: bool = False

    def wall(self) -> float:
        return self.believed

    def since_boot(self) -> float:
        return self.boot

    def synchronised(self) -> bool:
        return self.ntp

    def passes(self, seconds: float) -> None:
        self.believed += seconds
        self.boot += seconds

    def set(self, right: float) -> None:
        self.believed, self.ntp = right, True


@dataclass
class Gate:
    """A gate, and what came out of it."""

    source: FakeTime
    newest_ts: int = 0
    out: list[int] = field(default_factory=list)
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = ClockGate(
            self.source,
            lambda scan: self.out.append(scan.ts),
            lambda kind, _, data: self.events.append((kind, data)),
            self.newest_ts,
        )

    def scan(self) -> None:
        """A scan at the time that the box believes."""
        self.gate.on_scan(Scan(0, round(1000 * self.source.believed), array("q", [1]), bytes(1), ()))


def test_box_that_knows_the_time_holds_nothing() -> None:
    """Also without NTP, when the time can be right: islands without internet work."""
    for source in (FakeTime(NOW, ntp=True), FakeTime(NOW), FakeTime(0.0, ntp=True)):
        gate = Gate(source)
        gate.scan()
        assert gate.out == [round(1000 * source.believed)]
        assert gate.events == []


@pytest.mark.parametrize(("believed", "newest"), [(0.0, 0), (NOW - 86_400, round(NOW * 1000))])
def test_readings_before_the_clock_is_set_are_stamped_anew(believed: float, newest: int) -> None:
    """At 1970, or at the time of the last power cut: by the step, in their order, with their distances."""
    source = FakeTime(believed)
    gate = Gate(source, newest)
    for _ in range(3):
        gate.scan()
        source.passes(10)
        gate.gate.look()
    assert gate.out == []
    source.set(NOW)
    gate.gate.look()
    gate.scan()
    assert gate.out == [round(1000 * (NOW - ago)) for ago in (30, 20, 10, 0)]
    ((kind, data),) = gate.events
    assert (kind, data["scans"]) == ("clock-set", 3)


def test_reading_between_the_clock_being_set_and_the_next_look_is_moved_once() -> None:
    """It bears the right time already; those before it do not."""
    source = FakeTime(0.0)
    gate = Gate(source)
    gate.scan()
    source.passes(10)
    source.set(NOW)
    gate.scan()
    gate.gate.look()
    assert gate.out == [round(1000 * (NOW - 10)), round(1000 * NOW)]


@pytest.mark.parametrize("looked", [False, True])
def test_reading_that_was_under_way_when_the_clock_was_set(looked: bool) -> None:
    """Stamped by the old time, it comes after the step: whether that was seen by then or not."""
    source = FakeTime(0.0)
    gate = Gate(source)
    gate.scan()
    source.passes(10)
    under_way = Scan(0, 10_000, array("q", [1]), bytes(1), ())
    source.set(NOW)
    if looked:
        gate.gate.look()
    source.passes(1)
    gate.gate.on_scan(under_way)
    assert gate.out == [round(1000 * (NOW - 10)), round(1000 * NOW)]


def test_readings_long_after_the_step_are_left_alone() -> None:
    """One that is late for another reason keeps its time."""
    source = FakeTime(NOW - 86_400)
    gate = Gate(source, round(NOW * 1000))
    source.set(NOW)
    gate.gate.look()
    source.passes(clock.LATE_S + 1)
    gate.gate.on_scan(Scan(0, round(1000 * (NOW - 80_000)), array("q", [1]), bytes(1), ()))
    assert gate.out == [round(1000 * (NOW - 80_000))]


def test_slow_correction_adds_up() -> None:
    """Steps below a millisecond are not lost on the way."""
    source = FakeTime(0.0)
    gate = Gate(source)
    gate.scan()
    for _ in range(100):
        source.passes(1)
        source.believed += 0.0005
        gate.gate.look()
    source.ntp = True
    gate.gate.look()
    assert gate.out == [pytest.approx(50, abs=1)]


def test_refused_question_is_no_synchronised_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose seccomp filter forbids adjtimex answers -1 (EPERM): nobody vouches for the clock then."""

    class Refusing:
        def adjtimex(self, state: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Refusing())
    assert not SystemTime().synchronised()


def test_clock_that_nobody_sets() -> None:
    """After ten minutes readings go out with the time they have, and that is told."""
    source = FakeTime(0.0)
    gate = Gate(source)
    gate.scan()
    source.passes(PATIENCE_S + 1)
    gate.gate.look()
    gate.scan()
    assert gate.out == [0, round(1000 * source.believed)]
    assert [kind for kind, _ in gate.events] == ["clock-not-set"]


def test_agent_that_stops_before_the_clock_is_set_loses_nothing() -> None:
    """What is held goes into the buffer."""
    gate = Gate(FakeTime(0.0))
    gate.scan()
    gate.gate.end()
    assert gate.out == [0]


def test_held_readings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of 512 MB must live on."""
    monkeypatch.setattr(clock, "MOST_HELD", 3)
    gate = Gate(FakeTime(0.0))
    for _ in range(4):
        gate.scan()
    assert len(gate.out) == 4
    assert gate.gate.held == 0


def test_step_of_a_running_clock_is_told() -> None:
    """Slow corrections are not."""
    source = FakeTime(NOW, ntp=True)
    gate = Gate(source)
    source.believed += 0.5
    gate.gate.look()
    source.believed += 3600
    gate.gate.look()
    assert [(kind, data["step_ms"]) for kind, data in gate.events] == [("clock-stepped", 3_600_000)]


def test_wall_clock_is_told_beside_the_time_since_boot() -> None:
    """At first, and whenever somebody begins or ceases to keep it: readings can be put on a clock that is never set."""
    source = FakeTime(NOW, boot=20.0)
    gate = Gate(source)
    gate.gate.tell()
    gate.gate.tell()
    source.passes(5)
    source.ntp = True
    gate.gate.tell()
    assert [(kind, data["synchronised"], data["since_boot_ms"]) for kind, data in gate.events] == [
        ("clock", False, 20_000),
        ("clock", True, 25_000),
    ]


def test_system_time_answers() -> None:
    """The kernel's own clocks."""
    system = SystemTime()
    assert system.wall() > EARLIEST_S
    assert 0 < system.since_boot() < system.wall()
    assert system.synchronised() in (True, False)
