"""The built-in profiles: each one sound, by the names and units of the manual, and confirmed by worked examples."""

from collections import Counter
from functools import cache

import pytest

from parkfleet.protocols.derived import needed_points
from parkfleet.protocols.library import BUILT_IN, load_profile, profile_names, worked_out
from parkfleet.protocols.profile import Derived, Expected, Point, Profile
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode, encode
from tests.profiles.manual import known_names, known_units, without_phase

NAMES = profile_names()
COUNTERS = ("energy", "volume")
STATES = frozenset({"battery_low", "pipe_status", "status", "error_code", "error_bits", "flow_direction"})

built_in = pytest.mark.parametrize("name", NAMES)
profile_of = cache(load_profile)


def points_of(name: str) -> dict[str, Point]:
    return {point.id: point for point in profile_of(name).points}


def delivered(name: str) -> list[Point | Derived]:
    """What a meter of the model gives."""
    return [own for own in profile_of(name).quantities if own.id in profile_of(name).delivered]


def registers_of(example: Expected) -> list[tuple[str, list[int]]]:
    """The points whose registers an example gives."""
    own = [(example.point, example.registers)] if example.registers else []
    return own + list(example.given.items())


def kind_by_name(point: str) -> str:
    """The kind that a point's name promises."""
    base = without_phase(point)
    if base in STATES or base.startswith("valve_"):
        return "state"
    return "counter" if base.split("_")[0] in COUNTERS or base == "mass" else "gauge"


def test_library_has_models_of_every_medium() -> None:
    """At least 25 models, at least four of each kind."""
    count = Counter(profile_of(name).medium for name in NAMES)
    assert sum(count.values()) >= 25
    assert all(count[medium] >= 4 for medium in ("power", "water", "heat", "gas")), count


@built_in
def test_profile_is_called_like_its_file(name: str) -> None:
    """A meter's `profile:` finds the file by its name."""
    assert profile_of(name).profile == name
    assert (BUILT_IN / f"{name}.yaml").is_file()


@built_in
def test_profile_has_titles_and_a_source(name: str) -> None:
    """People read it in English and Chinese, and can look up where it comes from."""
    profile = profile_of(name)
    assert set(profile.title) >= {"en", "zh"} and all(profile.title.values())
    assert any("一" <= character <= "鿿" for character in profile.title["zh"])
    assert len(profile.source) > 10


@built_in
def test_points_do_not_overlap(name: str) -> None:
    """No two points share a register, except fields of bits."""
    taken: dict[tuple[str, int], Point] = {}
    for point in profile_of(name).points:
        for address in range(point.address, point.end):
            other = taken.setdefault((point.table, address), point)
            assert other is point or other.type == point.type == "bits", f"{point.id} lies over {other.id}"


@built_in
def test_bit_fields_do_not_overlap(name: str) -> None:
    """Fields in one register are apart."""
    taken: set[tuple[str, int, int]] = set()
    for point in profile_of(name).points:
        if point.type == "bits":
            bits = {(point.table, point.address, point.bit + i) for i in range(point.width)}
            assert not bits & taken, point.id
            taken |= bits


IDENTIFIED = (
    "abb-b23",
    "eastron-sdm120",
    "eastron-sdm630",
    "eastron-sdm72-v2",
    "schneider-iem3155",
    "schneider-pm5110",
)


@pytest.mark.parametrize("name", IDENTIFIED)
def test_serial_numbers_tell_one_device_from_another(name: str) -> None:
    """Where a public source has the register, a replaced meter is noticed without anything being configured."""
    assert profile_of(name).identity == ["serial_number"]


@built_in
def test_signatures_and_identities_are_not_delivered(name: str) -> None:
    """They are read to know the meter, not polled with its values."""
    profile = profile_of(name)
    apart = {*profile.identity, *(signature.point for signature in profile.signature)}
    assert not apart & set(profile.delivered)
    assert not apart & {point.id for point in needed_points(profile)}


@built_in
def test_names_and_units_are_those_of_the_manual(name: str) -> None:
    """One name for one quantity over all meters, in a unit that fits it."""
    names, units = known_names(), known_units()
    for point in delivered(name):
        base = without_phase(point.id)
        assert base in names, f"{point.id} is no name of docs/profiles.md"
        assert point.unit in names[base], f"{point.id} in {point.unit!r}"
        assert point.unit in units


@built_in
def test_kinds_follow_the_names(name: str) -> None:
    """Energies, volumes and masses count, codes and bits are states."""
    for point in delivered(name):
        assert point.kind == kind_by_name(point.id), point.id


@built_in
def test_integers_hold_their_own_resolution(name: str) -> None:
    """A scale below 1 has at most six decimals: it is a resolution, not a conversion of units."""
    for point in profile_of(name).points:
        assert point.factor.decimals <= 6, point.id
        assert point.factor.multiply > 0, point.id


@built_in
def test_examples_are_worked_out(name: str) -> None:
    """At least two examples a profile, each with its source, each giving the expected value."""
    profile = profile_of(name)
    assert len(profile.expected) >= 2
    for example in profile.expected:
        assert example.source, example.point
        assert worked_out(profile, example) == example.value, example.point


@built_in
def test_examples_are_encoded_back(name: str) -> None:
    """A simulated meter would say the same registers."""
    points = points_of(name)
    said = [pair for example in profile_of(name).expected for pair in registers_of(example)]
    for id_, registers in said:
        point = points[id_]
        slot, quality, text = decode(point, registers)
        if quality == Quality.GOOD and point.type not in ("bits", "string"):  # a text may be filled up with spaces
            assert encode(point, slot, text) == registers, id_
        elif quality == Quality.GOOD:
            assert decode(point, encode(point, slot, text)) == (slot, quality, text), id_


@built_in
def test_every_type_scale_and_order_has_an_example(name: str) -> None:
    """An example covers each way in which the profile's scaled or swapped values are held."""
    profile: Profile = profile_of(name)

    def way(point: Point) -> tuple[str, str]:
        return point.type, point.order

    covered = {way(points_of(name)[id_]) for example in profile.expected for id_, _ in registers_of(example)}
    for point in profile.points:
        if point.order != "ABCD":
            assert way(point) in covered, f"no example for {point.type} {point.order} such as {point.id}"
