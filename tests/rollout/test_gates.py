"""What the readings say of updated gateways."""

from parkfleet.controller.rollout_gates import Record, Tally, judge_data
from parkfleet.controller.rollout_model import Verdict

FULL, HALF, NONE = Tally(600, 600), Tally(300, 600), Tally(0, 600)
SAME = (Tally(6000, 6000), Tally(6000, 6000))


def test_as_before_is_good() -> None:
    """Meters that were silent before and are silent now are no fault of the release."""
    gate = judge_data({"p/a": Record({"m1": FULL, "m2": NONE})}, {"p/a": Record({"m1": FULL, "m2": NONE})}, SAME)
    assert gate.verdict is Verdict.GOOD


def test_meter_that_is_lost_is_named() -> None:
    """One meter of many that is no longer read is enough, and its gateway is told."""
    meters = {f"m{number:02}": FULL for number in range(50)}
    gate = judge_data({"p/a": Record(meters)}, {"p/a": Record({**meters, "m07": NONE})}, SAME)
    assert gate.verdict is Verdict.BAD
    assert "m07 of p/a" in gate.told


def test_meter_that_says_nothing_at_all_is_lost() -> None:
    """A release that forgot a meter does not even say that it is bad."""
    gate = judge_data({"p/a": Record({"m1": FULL, "m2": FULL})}, {"p/a": Record({"m1": FULL})}, SAME)
    assert "m2 of p/a" in gate.told


def test_a_little_worse_everywhere_is_bad() -> None:
    """A share of the readings of every meter is lost, of no meter enough to be named."""
    worse = Tally(570, 600)
    gate = judge_data({"p/a": Record({"m1": FULL})}, {"p/a": Record({"m1": worse})}, SAME)
    assert gate.verdict is Verdict.BAD
    assert "95.0%" in gate.told


def test_what_the_others_lose_too_is_not_the_release() -> None:
    """The same minutes were bad for the gateways that have not switched."""
    worse = Tally(570, 600)
    others = (Tally(6000, 6000), Tally(5700, 6000))
    gate = judge_data({"p/a": Record({"m1": FULL})}, {"p/a": Record({"m1": worse})}, others)
    assert gate.verdict is Verdict.GOOD


def test_later_than_before_is_bad() -> None:
    """Readings come, but minutes late."""
    before, after = {"p/a": Record({"m1": FULL}, 2_000)}, {"p/a": Record({"m1": FULL}, 300_000)}
    assert judge_data(before, after, SAME).verdict is Verdict.BAD


def test_too_few_readings_are_unknown() -> None:
    """A gateway that has just switched says nothing yet; nor does one without a past."""
    assert (
        judge_data({"p/a": Record({"m1": FULL})}, {"p/a": Record({"m1": Tally(3, 3)})}, SAME).verdict is Verdict.UNKNOWN
    )
    assert judge_data({}, {"p/a": Record({"m1": FULL})}, SAME).verdict is Verdict.UNKNOWN
    assert judge_data({}, {}, SAME).verdict is Verdict.UNKNOWN
