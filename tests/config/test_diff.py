"""Diffs: what changes, as people read it, and which meters gain or lose by it."""

from typing import Any

from hypothesis import given

from parkfleet.controller.config_diff import ChangeKind, diff, meter_impact
from parkfleet.controller.config_merge import Tree, leaves, to_tree
from tests.config.test_merge import TREES


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """As people read it."""
    return [str(change) for change in diff(to_tree(before), to_tree(after))]


def test_each_kind_of_change() -> None:
    """Added, removed, changed, by key and id."""
    before = {"buffer": {"flush": "5s", "retain": "7d"}, "meters": [{"id": "a", "unit": 1}], "profiles": ["x"]}
    after = {"buffer": {"flush": "1s"}, "meters": [{"id": "b", "unit": 2}], "profiles": ["x", "y"]}
    assert told(before, after) == [
        '~ buffer.flush: "5s" -> "1s"',
        '- buffer.retain: "7d"',
        "- meters[a].unit: 1",
        '~ profiles: ["x"] -> ["x", "y"]',
        "+ meters[b].unit: 2",
    ]


def test_true_is_not_one() -> None:
    """Though Python takes them for equal."""
    assert told({"a": True}, {"a": 1}) == ["~ a: true -> 1"]


def test_meter_impact() -> None:
    """A meter changes with its own entry and with its line's; a gateway's other keys do not touch it."""
    lines = [{"id": "l1", "url": "tcp://a"}, {"id": "l2", "url": "tcp://b"}]
    meters = [{"id": f"m{n}", "line": f"l{n}", "unit": 1} for n in (1, 2)]
    before = {"lines": lines, "meters": meters}
    after = {
        "lines": [lines[0], {"id": "l2", "url": "tcp://c"}],
        "meters": [*meters, {"id": "m3", "line": "l1", "unit": 3}],
        "buffer": {"flush": "1s"},
    }
    assert str(meter_impact(to_tree(before), to_tree(after))) == "gains 1 meter (m3); changes 1 meter (m2)"
    assert str(meter_impact(to_tree(after), to_tree(before))) == "loses 1 meter (m3); changes 1 meter (m2)"
    assert not meter_impact(to_tree(before), to_tree({**before, "buffer": {}}))
    assert len(meter_impact(to_tree(before), to_tree({**before, "profiles": ["x"]})).changes) == 2


@given(TREES, TREES)
def test_a_diff_leads_from_one_to_the_other(before: Tree, after: Tree) -> None:
    """Nothing is left out, nothing is told that did not change."""
    rest = dict(leaves(before))
    for change in diff(before, after):
        if change.kind is not ChangeKind.ADDED:
            assert rest.pop(change.path) == change.before
        if change.kind is not ChangeKind.REMOVED:
            rest[change.path] = change.after
    assert rest == dict(leaves(after))
    assert not diff(after, after)
