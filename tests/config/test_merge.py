"""Merging: the rules of the manual, and what must be true of all documents."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.config_merge import (
    BY_ID,
    ShapeError,
    Tree,
    leaves,
    merge,
    parse_path,
    path_text,
    said,
    to_document,
    to_tree,
)
from parkfleet.protocols.config import GatewayConfig


def laid(*documents: dict[str, Any]) -> dict[str, Any]:
    """What comes of documents."""
    return merge([(number, to_tree(document)) for number, document in enumerate(documents)]).document()


def test_maps_are_merged_deep() -> None:
    """Key by key; the later wins; what it does not name stays."""
    assert laid({"buffer": {"flush": "5s", "retain": "7d"}}, {"buffer": {"flush": "1s"}}) == {
        "buffer": {"flush": "1s", "retain": "7d"}
    }


def test_lists_by_id_are_merged_item_by_item() -> None:
    """In the order in which the items are first named."""
    below = {"meters": [{"id": "a", "unit": 1, "interval": "10s"}, {"id": "b", "unit": 2}]}
    assert laid(below, {"meters": [{"id": "c", "unit": 3}, {"id": "a", "interval": "1s"}]}) == {
        "meters": [{"id": "a", "unit": 1, "interval": "1s"}, {"id": "b", "unit": 2}, {"id": "c", "unit": 3}]
    }


def test_a_list_by_id_may_be_written_as_a_map() -> None:
    """It is the same; null removes an item."""
    below = {"meters": [{"id": "a", "unit": 1}, {"id": "b", "unit": 2}]}
    assert laid(below, {"meters": {"a": {"unit": 9}, "b": None}}) == {"meters": [{"id": "a", "unit": 9}]}


def test_other_lists_are_replaced() -> None:
    """As a whole, also inside an item."""
    below = {"profiles": ["a", "b"], "meters": [{"id": "a", "points": ["x", "y"]}]}
    assert laid(below, {"profiles": ["c"], "meters": {"a": {"points": ["z"]}}}) == {
        "profiles": ["c"],
        "meters": [{"id": "a", "points": ["z"]}],
    }


def test_null_removes_and_a_later_layer_may_say_it_anew() -> None:
    """What was below the removed value does not come back."""
    below = {"broker": {"url": "mqtts://x", "ca": "a.pem"}}
    assert laid(below, {"broker": {"ca": None}}) == {"broker": {"url": "mqtts://x"}}
    assert laid(below, {"broker": None}) == {}
    assert laid(below, {"broker": None}, {"broker": {"url": "mqtt://y"}}) == {"broker": {"url": "mqtt://y"}}


def test_said_tells_every_layer() -> None:
    """Also those that were overruled, and those that removed what the path stands in."""
    layers = [(1, to_tree({"buffer": {"flush": "5s"}})), (2, to_tree({"buffer": None})), (3, to_tree({"lines": []}))]
    assert [(one.layer, one.value) for one in said(layers, ("buffer", "flush"))] == [(1, "5s"), (2, None)]


@pytest.mark.parametrize(
    ("document", "where", "told"),
    [
        ({"meters": [{"unit": 1}]}, "meters[0]", "needs an id"),
        ({"meters": [{"id": "a"}, {"id": "a"}]}, "meters[1].id", "used twice"),
        ({"meters": 5}, "meters", "expected a list of items"),
        ({"meters": {"a": 5}}, "meters.a", "expected an item"),
        ({"meters": {"a": {"id": "b"}}}, "meters.a.id", "called 'a' already"),
        ([1], "", "expected keys and values"),
    ],
)
def test_what_cannot_be_merged_is_told(document: object, where: str, told: str) -> None:
    """With its place."""
    with pytest.raises(ShapeError, match=told) as caught:
        to_tree(document)
    assert caught.value.where == where


@pytest.mark.parametrize("text", ["buffer.flush", "meters[m.01].interval", "lines", "meters[m01]", "broker.url"])
def test_paths_read_as_they_are_written(text: str) -> None:
    """Both ways; ids may have dots."""
    assert path_text(parse_path(text)) == text


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "meters.m01", "buffer[x]", "meters[]", "meters[a", "a..b", "[a]"]
)
def test_other_paths_are_refused(text: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match="expected a key such as"):
        parse_path(text)


def test_the_models_say_which_lists_have_ids() -> None:
    """A new list of items in the agent's models is merged by id without a word here."""
    assert {("lines",), ("meters",)} <= BY_ID
    assert {path[0] for path in BY_ID} <= set(GatewayConfig.__struct_fields__)


VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-3, 3), st.sampled_from(["x", "y"]), st.just([1])),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.dictionaries(st.sampled_from(["m1", "m2"]), st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2))
TREES = st.fixed_dictionaries({}, optional={"meters": ITEMS, "a": VALUES, "b": VALUES})


@given(st.lists(TREES, max_size=5))
def test_every_leaf_has_the_layer_it_came_from(trees: list[Tree]) -> None:
    """And that layer says it; nothing else has an origin; null never shows."""
    layers = list(enumerate(map(to_tree, trees)))
    merged = merge(layers)
    found = dict(leaves(merged.tree))
    assert merged.origins.keys() == found.keys()
    for path, value in found.items():
        words = said(layers, path)
        assert value is not None
        if value != {}:  # an empty map may be what a removal left
            assert (words[-1].layer, words[-1].value) == (merged.origins[path], value)


@given(st.lists(TREES, min_size=1, max_size=4), TREES)
def test_merging_is_associative_over_what_was_merged(trees: list[Tree], last: Tree) -> None:
    """A merged document laid under a further layer is the same as all layers at once; inputs are not touched."""
    import copy

    before = copy.deepcopy([*trees, last])
    whole = merge(list(enumerate([*trees, last]))).tree
    below = merge(list(enumerate(trees))).tree
    assert merge([(0, below), (1, last)]).tree == whole
    assert [*trees, last] == before


@given(TREES)
def test_a_tree_is_the_same_after_a_way_through_a_document(tree: Tree) -> None:
    """What the agent reads is what was meant."""
    merged = merge([(0, tree)]).tree
    assert to_tree(to_document(merged)) == merged


@given(st.text("ab.[]", max_size=8) | st.text())
def test_any_path_reads_back_or_is_refused(text: str) -> None:
    """Nothing else comes out."""
    try:
        path = parse_path(text)
    except ValueError as error:
        assert "expected a key" in str(error)
    else:
        assert path_text(path) == text
