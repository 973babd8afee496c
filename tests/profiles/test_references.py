"""What is wrong between the parts of a profile: each told in a sentence, none let through."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from parkfleet.protocols.library import load_profile
from parkfleet.protocols.profile import Profile

PLAIN: list[dict[str, Any]] = [
    {"id": "a", "type": "uint16", "address": 40001},
    {"id": "b", "type": "float32", "address": 40002},
    {"id": "text", "type": "string", "registers": 4, "address": 40004},
    {"id": "coded", "type": "uint16", "address": 40010, "scale_from": {"point": "a", "power": 1}},
]


def profile(*points: dict[str, Any], **more: Any) -> Profile:
    """A profile of the plain points and these, its addresses as a manual has them. Raises ValidationError."""
    said = {"profile": "p", "title": {}, "medium": "power", "source": "this test", "base": 40001}
    return msgspec.convert({**said, "points": [*PLAIN, *points], **more}, Profile, strict=False)


def point(**more: Any) -> dict[str, Any]:
    return {"id": "x", "type": "uint16", "address": 40020, **more}


def test_addresses_go_over_the_wire_without_the_base() -> None:
    """Of points, holes and what is never written."""
    wire = profile(holes=[{"address": 40050, "count": 2}], never_write=[{"address": 40001, "count": 1}]).on_wire()
    assert [point.address for point in wire.points] == [0, 1, 3, 9]
    assert wire.holes[0].address == 49
    assert wire.never_write[0].address == 0
    assert wire.base == 0
    assert not wire.may_write("holding", 0)
    assert wire.may_write("holding", 1, 8)


def test_base_by_table() -> None:
    """30053 beside 40007; tables that are not named count from 0."""
    found = profile(
        point(address=30053, table="input"),
        point(id="y", type="bool", address=7, table="coil"),
        base={"holding": 40001, "input": 30001},
    ).on_wire()
    assert {own.id: own.address for own in found.points if own.id in "xy"} == {"x": 52, "y": 7}


@pytest.mark.parametrize(
    ("address", "count", "free"),
    [(9, 1, True), (9, 2, False), (10, 1, False), (12, 1, False), (8, 30, False), (13, 5, True)],
)
def test_registers_never_written(address: int, count: int, free: bool) -> None:
    """A write that touches one of them, at either end or over all; other tables are free."""
    found = profile(base=0, never_write=[{"address": 10, "count": 3}], points=[point(address=0)])
    assert found.may_write("holding", address, count) is free
    assert found.may_write("coil", address, count)


@pytest.mark.parametrize(
    ("point_", "more", "told"),
    [
        (point(address=40000), {}, "x lies outside of the addresses"),
        (point(address=52), {}, "x lies outside of the addresses"),
        (point(address=105537), {}, "x lies outside of the addresses"),
        (point(type="uint32", address=105536), {}, "x lies outside of the addresses"),
        (point(id="a"), {}, "point ids must be unique, twice here: a"),
        (point(), {"derived": [{"id": "x", "parts": [{"point": "a"}]}]}, "point ids must be unique, twice here: x"),
        (point(), {"holes": [{"address": 40020, "count": 1}]}, "x lies in a hole"),
        (point(), {"holes": [{"address": 1, "count": 1}]}, "the range from 1 lies outside"),
        (point(), {"never_write": [{"address": 105530, "count": 10}]}, "the range from 105530 lies outside"),
        (point(scale_from={"point": "nobody", "power": 1}), {}, "scale_from of x needs a plain integer point, nobody"),
        (point(scale_from={"point": "b", "power": 1}), {}, "scale_from of x needs a plain integer point, b"),
        (point(unit_from={"point": "text", "table": {1: 1}}), {}, "unit_from of x needs a plain integer point, text"),
        (point(unit_from={"point": "coded", "table": {1: 1}}), {}, "unit_from of x needs a plain integer point, coded"),
        (point(), {"signature": [{"point": "nobody", "one_of": [1]}]}, "signature needs a string or a plain integer"),
        (
            point(scale=0.1),
            {"signature": [{"point": "x", "one_of": [1]}]},
            "signature needs a string or a plain integer",
        ),
        (
            point(),
            {"signature": [{"point": "x", "one_of": ["SOCO"]}]},
            "signature: x is a uint16, one_of must be the same",
        ),
        (
            point(),
            {"signature": [{"point": "text", "one_of": [7]}]},
            "signature: text is a string, one_of must be the same",
        ),
        (point(scale_from={"point": "a"}), {}, "give either table (code: factor) or power"),
        (point(scale_from={"point": "a", "power": 1, "table": {1: 2}}), {}, "give either table"),
        (point(scale_from={"point": "a", "power": 2}), {}, "Invalid enum value 2"),
        (point(unit_from={"point": "a", "table": {1: 0}}), {}, "the factor of code 1 must be above 0"),
        (point(unit_from={"point": "a", "table": {1: "1/0"}}), {}, "got '1/0'"),
        (point(ratio=["vt"]), {}, "Invalid enum value 'vt'"),
        (point(type="string", ratio=["ct"]), {}, "a string has no factor, ratio, quadrant or priority"),
        (point(), {"derived": [{"id": "d", "parts": [{"point": "nobody"}]}]}, "d needs a plain number as its part"),
        (point(), {"derived": [{"id": "d", "parts": [{"point": "text"}]}]}, "d needs a plain number as its part"),
        (point(), {"derived": [{"id": "d", "parts": [{"point": "coded"}]}]}, "d needs a plain number as its part"),
        (point(), {"derived": [{"id": "d", "parts": []}]}, "length >= 1"),
        (point(), {"derived": [{"id": "d", "parts": [{"point": "a", "times": 0}]}]}, "times must be above 0"),
        (point(), {"ratio_from": {"ct": "nobody"}}, "ratio_from: ct needs a plain number, nobody"),
        (point(), {"ratio_from": {"pt": "text"}}, "ratio_from: pt needs a plain number, text"),
        (point(), {"ratio_from": {"pt": "coded"}}, "ratio_from: pt needs a plain number, coded"),
        (point(ratio=["ct"]), {"primary": True}, "a meter that reports primary values"),
        (point(), {"primary": True, "ratio_from": {"ct": "a"}}, "a meter that reports primary values"),
        (point(id="a_raw"), {"points": [point(id="a", ratio=["ct"])]}, "a_raw is the name of what a meter with raw"),
        (point(), {"min_gap": -1}, "min_gap"),
        (point(), {"min_gap": 10_001}, "min_gap"),
    ],
)
def test_mistake_between_the_parts(point_: dict[str, Any], more: dict[str, Any], told: str) -> None:
    """Named, before a meter is asked anything."""
    with pytest.raises(msgspec.ValidationError) as refused:
        profile(**{**more, "points": [*more.get("points", PLAIN), point_]})
    assert told in str(refused.value)


def test_unusable_ratio_is_told_as_one(tmp_path: Path) -> None:
    """Not as a wrong id, which is the other text with a pattern."""
    (tmp_path / "odd.yaml").write_text(
        "profile: odd\ntitle: {en: Odd}\nmedium: power\nsource: this test\npoints:\n"
        "  - {id: a, type: uint16, address: 0}\nderived: [{id: d, parts: [{point: a, times: ten}]}]\n"
    )
    with pytest.raises(Exception, match="expected a number such as 40, or two such as 200/5"):
        load_profile("odd", [tmp_path])
