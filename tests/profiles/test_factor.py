"""Factor: scale and offset without a rounding error, held against decimal arithmetic."""

from decimal import Decimal, localcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.profile import Factor, Point

usual = [Decimal(text) for text in ("0.1", "0.001", "1E-9", "10", "1E+3", "3600", "2.50")]
scales = st.decimals(Decimal("-100000"), Decimal("100000"), places=4).filter(bool) | st.sampled_from(usual)
offsets = st.decimals(Decimal("-100000"), Decimal("100000"), places=3)


def exactly(raw: int, scale: Decimal, offset: Decimal) -> Decimal:
    with localcontext(prec=100):
        return raw * scale + offset


@given(st.integers(-(2**63), 2**64 - 1), scales, offsets)
def test_value_of_an_integer_is_the_decimal_one(raw: int, scale: Decimal, offset: Decimal) -> None:
    """The float nearest to raw × scale + offset, for every 64-bit number: rounded once, at the end."""
    assert float(Factor.of(scale, offset).apply(raw)) == float(exactly(raw, scale, offset))


@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 10**6), st.integers(-(10**6), 10**6))
def test_integers_stay_integers_where_nothing_is_divided(raw: int, scale: int, offset: int) -> None:
    """A counter of 64 bits keeps all its digits."""
    value = Factor.of(Decimal(scale), Decimal(offset)).apply(raw)
    assert isinstance(value, int) and value == raw * scale + offset


@given(scales, offsets)
def test_factor_says_the_scale_and_offset(scale: Decimal, offset: Decimal) -> None:
    """The integers are the decimals, and the smallest such."""
    factor = Factor.of(scale, offset)
    with localcontext(prec=100):
        power = Decimal(10) ** factor.decimals
        assert (Decimal(factor.multiply), Decimal(factor.add)) == (scale * power, offset * power)
    assert factor.decimals == 0 or factor.multiply % 10 or factor.add % 10


@pytest.mark.parametrize(
    ("raw", "scale", "offset", "value"),
    [
        (2305, "0.1", "0", 230.5),
        (3, "0.1", "0", 0.3),  # in floats 3 * 0.1 is 0.30000000000000004
        (4294967297, "0.01", "0", 42949672.97),
        (122856864222, "0.0001", "0", 12285686.4222),
        (650, "0.1", "-40", 25.0),
        (-234, "10", "0", -2340),
        (5, "1E+3", "0", 5000),
        (7, "1.50", "0.50", 11.0),
    ],
)
def test_value_by_example(raw: int, scale: str, offset: str, value: float) -> None:
    """What a person would work out."""
    assert Factor.of(Decimal(scale), Decimal(offset)).apply(raw) == value


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("scale", "0"),
        ("scale", "NaN"),
        ("scale", "Infinity"),
        ("scale", "1E-13"),
        ("scale", "1E+10"),
        ("scale", "1E+999999"),
        ("scale", "1E-999999"),
        ("scale", "123456789.0123456789"),
        ("scale", "1.00000000000000000000000000000001"),
        ("offset", "sNaN"),
        ("offset", "-Infinity"),
        ("offset", "1E+30"),
        ("offset", "1E+999999"),
        ("offset", "1E-999999"),
    ],
)
def test_scale_or_offset_out_of_bounds_is_refused(key: str, number: str) -> None:
    """At once and with a sentence, also where the integers would have a million digits."""
    with pytest.raises(msgspec.ValidationError, match=r"scale|offset"):
        msgspec.convert({"id": "p", "type": "uint32", "address": 0, key: number}, Point, strict=False)
