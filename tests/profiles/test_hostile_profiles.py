"""Profiles that anybody may have written: told with their mistakes, or usable with whatever the registers hold."""

import contextlib
import string
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkfleet.agent.profile_text import profile_text
from parkfleet.protocols.derived import Ratios, make_derivation, needed_points
from parkfleet.protocols.document import Document, DocumentError
from parkfleet.protocols.library import BUILT_IN, profile_names, worked_out
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.readplan import WireCost, plan_requests
from parkfleet.protocols.registers import decode, encode

TEXTS = {name: (BUILT_IN / f"{name}.yaml").read_text("utf-8") for name in profile_names()}
FIELDS = [field.encode_name for struct in (Profile, Point) for field in msgspec.structs.fields(struct)]
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(FIELDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


def works(profile: Profile, words: list[int]) -> None:
    """Plans, reads, derives and shows whatever stands in the registers; nothing raises."""
    wire = profile.on_wire()
    plan_requests(wire, wire.points, 1, WireCost(0.04, 0.001))
    for example in wire.expected:
        with contextlib.suppress(KeyError):  # it lacks registers, and is refused for that when a file is read
            worked_out(wire, example)
    points = needed_points(wire, wire.delivered, Ratios(keep_raw=True))
    decoded = [decode(point, (words * point.count)[: point.count]) for point in points]
    derivation = make_derivation(wire, points, wire.delivered, Ratios(keep_raw=True))
    slots, codes = derivation.derive(
        array("q", [slot for slot, _, _ in decoded]), bytes(quality for _, quality, _ in decoded)
    )
    for column, slot, code in zip(derivation.columns, slots, codes, strict=True):
        if code == 0:
            column.value(slot, "text")
    for point, (slot, _, text) in zip(points, decoded, strict=True):
        assert len(encode(point, slot, text)) == point.count


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plain)
def test_any_document_is_a_profile_or_told(data: Any) -> None:
    """Whatever the YAML holds: a profile, or sentences with places."""
    try:
        Document("x.yaml", msgspec.json.encode(_finite(data)).decode()).convert(Profile)
    except DocumentError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(TEXTS)),
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.text(string.printable, max_size=4)), min_size=1, max_size=4
    ),
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=4),
)
def test_damaged_profile_is_told_or_works(name: str, damages: list[tuple[float, int, str]], words: list[int]) -> None:
    """Files of the library with letters lost, doubled and put in: refused in sentences, or usable to the end."""
    text = TEXTS[name]
    for place, length, put in damages:
        at = int(place * len(text))
        text = text[:at] + put + text[at + length :]
    try:
        profile = Document("x.yaml", text).convert(Profile)
    except DocumentError as error:
        assert error.problems
        return
    works(profile, words)
    again = Document("x.yaml", profile_text(profile)).convert(Profile)
    assert again == profile


@pytest.mark.parametrize("name", profile_names())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=5))
def test_library_survives_any_registers(name: str, words: list[int]) -> None:
    """Every model with whatever a broken meter may answer."""
    works(Document(name, TEXTS[name]).convert(Profile), words)


@pytest.mark.parametrize("name", profile_names())
def test_library_file_is_what_it_says(name: str, tmp_path: Path) -> None:
    """Written by us and read again, every model is the same."""
    profile = Document(name, TEXTS[name]).convert(Profile)
    assert Document(name, profile_text(profile)).convert(Profile) == profile


def _finite(data: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(data, float):
        return data if data == data and abs(data) < 1e300 else 0.5
    if isinstance(data, int) and abs(data) >= 2**63:
        return str(data)
    if isinstance(data, list):
        return [_finite(item) for item in data]
    return {str(key): _finite(value) for key, value in data.items()} if isinstance(data, dict) else data
