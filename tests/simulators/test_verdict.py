"""The verdict: it must find every deviation, or the demo's "ok" says nothing."""

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.simulators.verdict import Sample, Series, Verdict, judge

SERIES = Series("m01", "voltage_l1")
ANSWERS = [Sample(1000 * n + 20, 230.0 + n) for n in range(10)]
ARRIVED = [Sample(1000 * n, 230.0 + n) for n in range(10)]


def account(answered: list[Sample], delivered: list[Sample]) -> Verdict:
    return judge([(SERIES, s) for s in answered], [(SERIES, s) for s in delivered], {"m01": 500})


def test_everything_arrived() -> None:
    """Answers and readings agree: ok."""
    verdict = account(ANSWERS, ARRIVED)
    assert verdict.ok
    assert (verdict.readings_answered, verdict.readings_delivered) == (10, 10)


def test_nothing_answered_is_not_ok() -> None:
    """A run in which no meter answered proves nothing."""
    assert not account([], []).ok


@given(st.integers(0, 9))
def test_one_lost(gone: int) -> None:
    """A missing reading is one lost, wherever it was."""
    verdict = account(ANSWERS, ARRIVED[:gone] + ARRIVED[gone + 1 :])
    assert (verdict.lost, verdict.duplicates, verdict.mismatched) == (1, 0, 0)
    assert f"answered at {ANSWERS[gone].ts} was not delivered" in verdict.examples[0]


@given(st.integers(0, 9))
def test_one_twice(twice: int) -> None:
    """A reading that came twice is one duplicate."""
    verdict = account(ANSWERS, [*ARRIVED, ARRIVED[twice]])
    assert (verdict.lost, verdict.duplicates, verdict.mismatched) == (0, 1, 0)


@given(st.integers(0, 9), st.sampled_from([0.1, None, 230, "230.0"]))
def test_one_changed(which: int, value: float | str | None) -> None:
    """Another value, no value, and a value of another type are mismatches."""
    delivered = [*ARRIVED]
    delivered[which] = Sample(delivered[which].ts, value)
    verdict = account(ANSWERS, delivered)
    assert (verdict.lost, verdict.duplicates, verdict.mismatched) == (0, 0, 1)


@given(st.integers(0, 9))
def test_one_invented(which: int) -> None:
    """A reading that nobody answered is a mismatch."""
    verdict = account(ANSWERS[:which] + ANSWERS[which + 1 :], ARRIVED)
    assert (verdict.lost, verdict.duplicates, verdict.mismatched) == (0, 0, 1)


def test_wrong_time() -> None:
    """A reading with a time far from its answer's is not that answer's."""
    verdict = account(ANSWERS[:1], [Sample(ANSWERS[0].ts + 501, 230.0)])
    assert (verdict.lost, verdict.mismatched) == (1, 1)
