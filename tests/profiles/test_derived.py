"""Derived readings: what several registers make together, and what transformers do to it."""

import struct
from array import array
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.derived import Ratios, make_derivation, needed_points
from parkfleet.protocols.payload.series import Scan, Value, has_value
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.quality import Quality

#: A point's value before scale, or why it has none.
Read = int | float | str | Quality


def profile(points: list[dict[str, Any]], *derived: dict[str, Any], **more: Any) -> Profile:
    """A profile of these points; where nothing is said they are uint16 registers."""
    laid = [{"type": "uint16", "address": 10 * index, **point} for index, point in enumerate(points)]
    said = {"profile": "p", "title": {}, "medium": "power", "source": "this test", "points": laid}
    return msgspec.convert({**said, "derived": derived, **more}, Profile, strict=False)


def slot_of(kind: str, value: Read) -> int:
    """As the decoder leaves it."""
    if isinstance(value, Quality | str):
        return 0
    if kind == "float32":
        return int(struct.unpack("<i", struct.pack("<f", value))[0])
    return int(value)


def delivered(model: Profile, read: Mapping[str, Read], ratios: Ratios | None = None, *chosen: str) -> dict[str, Value]:
    """What is delivered of one scan, by point; for a missing value its quality's name."""
    ratios = ratios or Ratios()
    needed = needed_points(model, chosen, ratios)
    values = [read[point.id] for point in needed]
    scan = Scan(
        0,
        0,
        array("q", [slot_of(point.type, value) for point, value in zip(needed, values, strict=True)]),
        bytes(int(value) if isinstance(value, Quality) else Quality.GOOD for value in values),
        tuple(
            value if isinstance(value, str) else None
            for point, value in zip(needed, values, strict=True)
            if point.type == "string"
        ),
    )
    derivation = make_derivation(model, needed, chosen, ratios)
    found, texts = derivation.scan(scan), iter(derivation.scan(scan).texts)
    return {
        column.point: column.value(slot, next(texts) if column.type == "string" else None)
        if has_value(code)
        else Quality(code).name
        for column, slot, code in zip(derivation.columns, found.slots, found.quality, strict=True)
    }


SPLIT = profile(
    [
        {"id": "whole", "type": "int32", "hidden": True},
        {"id": "part", "type": "float32", "hidden": True},
        {"id": "flow", "scale": "0.1"},
    ],
    {"id": "volume", "parts": [{"point": "whole"}, {"point": "part"}], "decimals": 3, "kind": "counter"},
)


def test_integer_and_fraction_make_one_counter() -> None:
    """An exact number with the decimals that were asked for; the parts are not delivered."""
    assert delivered(SPLIT, {"whole": 16_777_217, "part": 0.625, "flow": 57}) == {"flow": 5.7, "volume": 16_777_217.625}


def test_part_without_a_value_takes_the_sum_along() -> None:
    """With its own cause; the other points are well."""
    for cause in (Quality.TIMEOUT, Quality.INVALID, Quality.SKIPPED):
        assert delivered(SPLIT, {"whole": 7, "part": cause, "flow": 57}) == {"flow": 5.7, "volume": cause.name}


@pytest.mark.parametrize("part", [float("nan"), float("inf"), 3e38])
def test_part_that_is_no_number_or_too_large(part: float) -> None:
    """Not available, whatever the registers hold."""
    assert delivered(SPLIT, {"whole": 7, "part": part, "flow": 0})["volume"] == "INVALID"


def test_high_and_low_counter() -> None:
    """The high half counts ten thousands."""
    model = profile(
        [{"id": "high", "hidden": True}, {"id": "low", "hidden": True, "scale": "0.01"}],
        {"id": "energy", "parts": [{"point": "high", "times": 100}, {"point": "low"}], "kind": "counter"},
    )
    assert delivered(model, {"high": 65_535, "low": 9999}) == {"energy": 6_553_599.99}


def test_difference_of_two() -> None:
    """Net energy: what went out is subtracted."""
    model = profile(
        [{"id": "import"}, {"id": "export"}],
        {"id": "net", "parts": [{"point": "import"}, {"point": "export", "minus": True}]},
    )
    assert delivered(model, {"import": 5, "export": 12}, None, "net") == {"net": -7}


def test_decimals_in_another_register() -> None:
    """10 to the power of minus the register's number; a number beyond all sense makes it not available."""
    model = profile(
        [
            {"id": "volume", "type": "int32", "scale_from": {"point": "places", "power": -1}},
            {"id": "places", "type": "int16", "hidden": True},
        ]
    )
    assert delivered(model, {"volume": 123_456, "places": 3}) == {"volume": 123.456}
    assert delivered(model, {"volume": 123_456, "places": -2}) == {"volume": 12_345_600}
    assert delivered(model, {"volume": 123_456, "places": 32_767}) == {"volume": "INVALID"}
    assert delivered(model, {"volume": 123_456, "places": Quality.TIMEOUT}) == {"volume": "TIMEOUT"}


def test_unit_set_in_the_meter() -> None:
    """The factor by its code; a code that the profile does not know says nothing of the value."""
    model = profile(
        [
            {
                "id": "flow",
                "type": "float32",
                "unit": "m³/h",
                "unit_from": {"point": "unit", "table": {19: 1, 24: 3.6}},
            },
            {"id": "unit", "hidden": True},
        ]
    )
    assert delivered(model, {"flow": 2.5, "unit": 24}) == {"flow": 9.0}
    assert delivered(model, {"flow": 2.5, "unit": 19}) == {"flow": 2.5}
    assert delivered(model, {"flow": 2.5, "unit": 20}) == {"flow": "INVALID"}


@pytest.mark.parametrize(
    ("coded", "factor"), [(0.95, 0.95), (1.05, 0.95), (-0.9, -0.9), (-1.1, -0.9), (1, 1), (2.0, 0), (2.1, "INVALID")]
)
def test_power_factor_of_four_quadrants(coded: float, factor: Value) -> None:
    """Beyond 1 it comes back."""
    model = profile([{"id": "power_factor", "type": "int16", "scale": "0.01", "four_quadrant": True}])
    assert delivered(model, {"power_factor": round(100 * coded)}) == {"power_factor": factor}


BEHIND = profile(
    [
        {"id": "current", "scale": "0.001", "unit": "A", "ratio": ["ct"]},
        {"id": "voltage", "scale": "0.1", "unit": "V", "ratio": ["pt"]},
        {"id": "power", "type": "int32", "unit": "W", "ratio": ["ct", "pt"]},
        {"id": "frequency", "scale": "0.01"},
        {"id": "meter_ct", "hidden": True},
    ],
    ratio_from={"ct": "meter_ct"},
)
READ = {"current": 4200, "voltage": 1000, "power": 420, "frequency": 5000, "meter_ct": 40}


def test_ratio_out_of_the_meters_register() -> None:
    """Each value by what lies before it."""
    assert delivered(BEHIND, READ) == {"current": 168.0, "voltage": 100.0, "power": 16_800, "frequency": 50.0}


def test_ratio_out_of_the_configuration_wins() -> None:
    """Fractions as the plate has them; the meter's own register is not even read."""
    ratios = Ratios(Fraction(1000, 5), Fraction(10_000, 100))
    assert "meter_ct" not in [point.id for point in needed_points(BEHIND, (), ratios)]
    assert delivered(BEHIND, READ, ratios) == {
        "current": 840.0,
        "voltage": 10_000,
        "power": 8_400_000,
        "frequency": 50.0,
    }


def test_secondary_values_beside_the_primary_ones() -> None:
    """Only of what a transformer lies before."""
    found = delivered(BEHIND, READ, Ratios(keep_raw=True))
    assert found["current"] == 168.0
    assert found["current_raw"] == 4.2
    assert found["power_raw"] == 420
    assert "frequency_raw" not in found
    assert "voltage_raw" not in found


def test_ratio_of_zero_in_the_meter() -> None:
    """A meter that was never set up says nothing about the primary side."""
    assert delivered(BEHIND, {**READ, "meter_ct": 0})["current"] == "INVALID"


def test_ratio_that_does_not_end_in_decimals() -> None:
    """A third is carried as a float64, rounded once."""
    found = delivered(BEHIND, {**READ, "current": 1000}, Ratios(Fraction(1, 3)), "current")
    assert found == {"current": pytest.approx(1 / 3, rel=1e-15)}


def test_constant_factors_cost_nothing_at_run_time() -> None:
    """Where a ratio is constant, a column's own factor says it: the slots stay as they were read."""
    ratios = Ratios(Fraction(200), Fraction(1))
    derivation = make_derivation(BEHIND, needed_points(BEHIND, (), ratios), (), ratios)
    assert derivation.is_identity


def test_meter_without_anything_derived_is_delivered_as_read() -> None:
    """No work at all."""
    model = profile([{"id": "a"}, {"id": "b", "type": "float32"}])
    assert make_derivation(model, model.points).is_identity


def test_strings_among_the_columns() -> None:
    """Those delivered keep their texts, hidden ones go."""
    model = profile(
        [
            {"id": "secret", "type": "string", "registers": 4, "hidden": True},
            {"id": "a", "hidden": True},
            {"id": "serial", "type": "string", "registers": 4},
        ],
        {"id": "twice", "parts": [{"point": "a", "times": 2}]},
        ratio_from={"ct": "a"},
    )
    needed = model.points
    scan = Scan(0, 0, array("q", [0, 21, 0]), bytes(3), ("x", "SN1"))
    found = make_derivation(model, needed).scan(scan)
    assert found.texts == ("SN1",)
    assert list(found.slots) == [0, 42]


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**6), 10**6),
            st.decimals(-1000, 1000, places=3).filter(bool),
            st.integers(1, 1000),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
    st.fractions(Fraction(1, 1000), 5000, max_denominator=1000),
)
def test_sums_are_those_of_exact_fractions(parts: list[tuple[int, Decimal, int, bool]], ct: Fraction) -> None:
    """Integers, decimal factors, weights and a ratio: exact, or the nearest float64 when decimals do not end."""
    model = profile(
        [
            {"id": f"p{i}", "type": "int32", "scale": str(scale), "hidden": True}
            for i, (_, scale, _, _) in enumerate(parts)
        ],
        {
            "id": "sum",
            "ratio": ["ct"],
            "parts": [{"point": f"p{i}", "times": t, "minus": m} for i, (_, _, t, m) in enumerate(parts)],
        },
    )
    exact = ct * sum((-1 if minus else 1) * raw * Fraction(scale) * times for raw, scale, times, minus in parts)
    needed = needed_points(model)
    (column,) = make_derivation(model, needed, (), Ratios(ct)).columns
    found = delivered(model, {f"p{i}": raw for i, (raw, _, _, _) in enumerate(parts)}, Ratios(ct))["sum"]
    if column.type == "int" and abs(exact * 10**column.factor.decimals) >= 2**63:
        assert found == "INVALID"
    else:
        assert found == float(exact)  # the float64 that is nearest, not one beside it


def test_sum_of_floats_is_rounded_once() -> None:
    """0.1 + 0.2 is 0.3, as on the display; each float means the decimal that it is shown as."""
    model = profile(
        [{"id": "a", "type": "float32", "hidden": True}, {"id": "b", "type": "float32", "hidden": True}],
        {"id": "sum", "parts": [{"point": "a"}, {"point": "b"}]},
        {"id": "half", "parts": [{"point": "a", "times": "1/2"}], "decimals": 1},
    )
    assert delivered(model, {"a": 0.1, "b": 0.2}) == {"sum": 0.3, "half": 0.0}  # 0.05: half to even


def test_largest_and_too_large_counter() -> None:
    """Up to 2^63 - 1 steps exactly; beyond, not available rather than another number."""
    model = profile([{"id": "a", "type": "uint64", "scale_from": {"point": "n", "power": 1}}, {"id": "n"}])
    whole = profile([{"id": "a", "type": "uint64", "hidden": True}], {"id": "d", "parts": [{"point": "a"}]})
    assert delivered(whole, {"a": 2**63 - 1}) == {"d": 2**63 - 1}
    assert delivered(whole, {"a": -1}) == {"d": "INVALID"}  # as the decoder leaves 2^64 - 1
    assert delivered(model, {"a": 5, "n": 3})["a"] == 5000


def test_secondary_value_of_a_derived_point() -> None:
    """Before the transformers, the other factors in it."""
    model = profile(
        [{"id": "high", "hidden": True}, {"id": "low", "hidden": True}, {"id": "n", "hidden": True}],
        {
            "id": "energy",
            "parts": [{"point": "high", "times": 10000}, {"point": "low"}],
            "scale_from": {"point": "n", "table": {1: 10}},
            "ratio": ["ct"],
        },
    )
    found = delivered(model, {"high": 1, "low": 5, "n": 1}, Ratios(Fraction(200, 5), keep_raw=True))
    assert found == {"energy": 4_002_000, "energy_raw": 100_050}
    assert "energy_raw" not in delivered(model, {"high": 1, "low": 5, "n": 1}, Ratios(keep_raw=True))
