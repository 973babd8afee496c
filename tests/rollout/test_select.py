"""Which gateways an expression means, and in which order they come."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.rollout_model import Size
from parkfleet.controller.rollout_order import Candidate, ordered, places
from parkfleet.controller.rollout_select import SelectionError, Traits, selected, selection

FLEET = [
    Traits("hohhot", "gw-01", "north", frozenset({"critical"}), "1.3.0", "rpi4"),
    Traits("hohhot", "gw-02", "north", frozenset({"lte"}), "1.3.0", "rpi4"),
    Traits("baotou", "gw-01", "north", frozenset(), "1.2.0", "ipc"),
    Traits("suzhou", "gw-01", "south", frozenset({"lte", "heat"}), "1.3.0", "ipc"),
]


@pytest.mark.parametrize(
    ("expression", "meant"),
    [
        ("all", "hohhot/gw-01 hohhot/gw-02 baotou/gw-01 suzhou/gw-01"),
        ("park=hohhot and label!=critical", "hohhot/gw-02"),
        ("park=hohhot,baotou", "hohhot/gw-01 hohhot/gw-02 baotou/gw-01"),
        ("region=north and not (label=critical or release=1.2.*)", "hohhot/gw-02"),
        ("label=lte or park=baotou and hardware=ipc", "hohhot/gw-02 baotou/gw-01 suzhou/gw-01"),
        ("not not gateway=*-02", "hohhot/gw-02"),
        ("( park = suzhou )", "suzhou/gw-01"),
        ("label=nothing", ""),
    ],
)
def test_selection_means(expression: str, meant: str) -> None:
    """`not` binds closest, then `and`; a value may have stars, several are any of them."""
    found = {f"{traits.park}/{traits.gateway}" for traits in selected(expression, iter(FLEET))}
    assert found == set(meant.split())


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "expected KEY=VALUE"),
        ("park", "expected KEY=VALUE"),
        ("prak=hohhot", "'prak' is not known"),
        ("park=hohhot label=lte", "expected `and`, `or` or the end"),
        ("(park=hohhot", "expected `)`"),
        ("park=hohhot and", "expected KEY=VALUE"),
        ("park=,a", "empty value"),
        ("(" * 100 + "all" + ")" * 100, "brackets within brackets"),
        ("park=x or " * 1000, "at most 4096 characters"),
    ],
)
def test_selection_refused(expression: str, told: str) -> None:
    """A mistake is told with its place and what was expected."""
    with pytest.raises(SelectionError, match=told.replace(")", r"\)")):
        selection(expression)


@given(st.text("alnotrdpk=!() ,*", max_size=60))
def test_selection_any_text(text: str) -> None:
    """Any text is a selection or a sentence."""
    try:
        meant = selection(text)
    except SelectionError as error:
        assert str(error)
    else:
        assert meant(FLEET[0]) in (True, False)


CANDIDATES = st.lists(
    st.builds(
        lambda park, number, model: Candidate(f"park{park}/gw{number}", model),
        st.integers(0, 4),
        st.integers(0, 30),
        st.sampled_from(["rpi3", "rpi4", "ipc"]),
    ),
    unique_by=lambda candidate: candidate.key,
    max_size=60,
)


@given(CANDIDATES, st.text(max_size=5))
def test_order_is_stable_and_complete(candidates: list[Candidate], salt: str) -> None:
    """The same gateways in any order of asking come in the same order, each once."""
    order = ordered(candidates, salt)
    assert order == ordered(reversed(candidates), salt)
    assert sorted(order) == sorted(candidate.key for candidate in candidates)


@given(CANDIDATES.filter(bool))
def test_order_is_spread_over_models(candidates: list[Candidate]) -> None:
    """The first so many have each model as often as any other, as long as it lasts."""
    model = {candidate.key: candidate.model for candidate in candidates}
    left = Counter(model.values())
    seen: Counter[str] = Counter(dict.fromkeys(left, 0))
    for key in ordered(candidates, "x"):
        seen[model[key]] += 1
        left[model[key]] -= 1
        lasting = [seen[name] for name in left if left[name]]
        assert not lasting or max(seen.values()) >= max(lasting)
        assert max(lasting, default=0) - min(lasting, default=0) <= 1


def test_places_sizes_are_cumulative() -> None:
    """1, 5 %, 25 %, 100 % of forty: one, then two, then ten in all, then everybody."""
    stages = (Size(1), Size(5, True), Size(25, True), Size(100, True))
    found = places([f"p/g{number}" for number in range(40)], stages)
    assert Counter(place.stage for place in found) == {0: 1, 1: 1, 2: 8, 3: 30}


def test_places_small_fleets_skip_stages() -> None:
    """Of three gateways no stage is empty that has to be there, and nobody is left out."""
    found = places(["p/a", "p/b", "p/c"], (Size(1), Size(5, True), Size(100, True)))
    assert [place.stage for place in found] == [0, 2, 2]
