"""Curves: the integral must be that of the rate, or no counter agrees with its gauge."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.simulators.curves import WEEK, Curve, ripples

hours = st.lists(st.floats(0, 1000), min_size=168, max_size=168)
moments = st.floats(1.5e9, 2.0e9)


def curve_of(seed: int) -> Curve:
    random_ = random.Random(seed)
    return Curve([random_.uniform(0, 50) for _ in range(168)], ripples(random_, 0.6), utc_offset=28800)


@given(st.integers(0, 1000), moments, st.floats(0.1, 4000))
def test_integral_agrees_with_summed_rates(seed: int, since: float, seconds: float) -> None:
    """Adding up the rate in small steps (Simpson's rule) gives the integral."""
    curve = curve_of(seed)
    steps = max(2, int(seconds) & ~1)
    width = seconds / steps
    weights = [1, *([4, 2] * (steps // 2 - 1)), 4, 1]
    rates = [curve.rate(since + width * step) for step in range(steps + 1)]
    summed = sum(w * rate for w, rate in zip(weights, rates, strict=True)) * width / 3 / 3600
    assert curve.integral(since, since + seconds) == pytest.approx(summed, rel=1e-3, abs=1e-6)


@given(st.integers(0, 1000), moments, moments, moments)
def test_integrals_of_parts_add_up(seed: int, first: float, second: float, third: float) -> None:
    """From a to b and from b to c is from a to c."""
    curve = curve_of(seed)
    parts = curve.integral(first, second) + curve.integral(second, third)
    assert curve.integral(first, third) == pytest.approx(parts, abs=1e-6)


@given(st.integers(0, 1000), moments)
def test_rate_is_never_negative_and_returns_after_a_week(seed: int, time: float) -> None:
    """So a counter only grows."""
    curve = curve_of(seed)
    assert curve.rate(time) >= 0
    assert curve.rate(time + WEEK) == pytest.approx(curve.rate(time), abs=1e-3)


def test_rates_that_could_be_negative_are_refused() -> None:
    """A curve is built right or not at all."""
    with pytest.raises(ValueError, match="168"):
        Curve([1.0] * 24)
    with pytest.raises(ValueError, match="168"):
        Curve([-1.0] * 168)
    with pytest.raises(ValueError, match="negative"):
        Curve([1.0] * 168, ripples(random.Random(1), 1.5))
