"""docs/profiles.md: every key, type, order and built-in model stands in it, as it is."""

from typing import Any, get_args

import pytest

from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.profile import (
    FIXED_REGISTERS,
    Derived,
    Expected,
    FactorFrom,
    Hole,
    Order,
    Part,
    Point,
    PointType,
    Profile,
    RatioFrom,
    Signature,
)
from parkfleet.protocols.registers import encode
from tests.profiles.manual import known_names, known_units, quoted, rows, table

SECTIONS: dict[str, Any] = {
    "The profile": Profile,
    "A point": Point,
    "Ranges": Hole,
    "Signature: signature": Signature,
    "Derived points": Derived,
    "Derived points: part": Part,
    "Factors in other registers: factor": FactorFrom,
    "Transformers: ratio_from": RatioFrom,
    "Expected": Expected,
}


def keys(section: str) -> list[list[str]]:
    """The rows of the table of a section that tells its keys; named by its first heading where there are several."""
    name, _, heading = section.partition(": ")
    return list(table(name, heading or "key"))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_stands_in_the_manual(section: str) -> None:
    """Each key has its row, and nothing else has one."""
    assert sorted(quoted(key)[0] for key, *_ in keys(section)) == sorted(SECTIONS[section].__struct_fields__)


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_in_the_manual_are_the_models(section: str) -> None:
    """The default a row tells is the one that applies."""
    model = SECTIONS[section]
    told = {quoted(key)[0]: default for key, _, default, _ in keys(section)}
    defaults = model.__struct_defaults__
    names = model.__struct_fields__
    required = names[: len(names) - len(defaults)]
    assert all(told[name] == "required" for name in required)
    for name, default in zip(names[len(required) :], defaults, strict=True):
        value = default.factory() if hasattr(default, "factory") else default
        shown = told[name].strip("`")
        if value is None or value == "":
            assert shown in ("none", "not known", "1"), name  # registers: 1 where the type does not know
        else:
            assert shown == str(value), name


def test_every_type_stands_in_the_manual() -> None:
    """With the registers it takes."""
    told = {name: registers for names, registers, _ in rows("Types") for name in quoted(names)}
    assert set(told) == set(get_args(PointType))
    for name, registers in FIXED_REGISTERS.items():
        assert told[name].split()[0] == str(registers), name


def test_orders_are_shown_with_their_bytes() -> None:
    """The bytes and registers in the manual are those that are read."""
    shown = {}
    for order, data, first, second, _ in rows("Orders"):
        shown[quoted(order)[0]] = [int(quoted(first)[0], 16), int(quoted(second)[0], 16)]
        assert bytes.fromhex(quoted(data)[0]).hex() == "".join(f"{word:04x}" for word in shown[quoted(order)[0]])
    assert set(shown) == set(get_args(Order))
    for name, registers in shown.items():
        assert encode(Point("p", "uint32", 0, order=name), 0x0A0B0C0D) == registers  # type: ignore[arg-type]


def test_units_of_the_names_are_listed() -> None:
    """No name promises a unit that the list of units lacks, and no unit is without a name."""
    assert frozenset().union(*known_names().values()) == known_units()


def test_list_of_models_is_complete() -> None:
    """Each built-in profile once, with its medium and title."""
    listed = [(quoted(name)[0], medium, title) for name, medium, title in rows("Built-in models")]
    profiles = [load_profile(name) for name in profile_names()]
    assert sorted(listed) == sorted((p.profile, p.medium, p.title["en"]) for p in profiles)
