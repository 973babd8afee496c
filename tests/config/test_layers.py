"""Layers: what holds for a gateway, who said it, and who is touched by a change."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.config_check import check
from parkfleet.controller.config_layers import (
    Effective,
    Kind,
    LayerName,
    Revision,
    effective,
    read_layer,
    says,
    touched,
    with_draft,
)
from parkfleet.controller.config_merge import parse_path
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.document import Document, DocumentError
from tests.config.fleet import GATEWAY, REGION, fleet, revision

GW = GatewayKey("p1", "gw-01")


def holds(layers: dict[LayerName, Revision], key: GatewayKey = GW) -> Effective:
    """What holds for a managed gateway."""
    found = effective(key, layers.get)
    assert found is not None
    return found


def test_layers_come_in_order() -> None:
    """Region, park, label, gateway; the document says the gateway's own name, and not who belongs where."""
    found = holds(fleet())
    assert [str(one.layer) for one in found.layers] == ["region/north", "park/p1", "label/heat", "gateway/p1/gw-01"]
    assert found.document["buffer"] == {"flush": "60s", "retain": "3d"}
    assert list(found.document)[:2] == ["park", "gateway"]
    assert not {"region", "labels"} & found.document.keys()
    assert found.revision == 4


HIGH = "rules: [{id: high, kind: limit, points: [voltage_l1], above: 253, hysteresis: 3}]\n"


def test_rules_are_merged_by_id() -> None:
    """One rule for a region; a gateway sharpens it, adds its own, or does without; what comes of it is checked."""
    own = "rules: {high: {above: 245}, low: {kind: limit, points: [voltage_l1], below: 207}}\n"
    found = holds(fleet(region=REGION + HIGH, gateway=GATEWAY + own))
    assert found.document["rules"] == [
        {"id": "high", "kind": "limit", "points": ["voltage_l1"], "above": 245, "hysteresis": 3},
        {"id": "low", "kind": "limit", "points": ["voltage_l1"], "below": 207},
    ]
    assert check(found, ()).problems == []
    without = holds(fleet(region=REGION + HIGH, gateway=GATEWAY + "rules: {high: null}\n"))
    assert without.document["rules"] == []
    wrong = holds(fleet(region=REGION + HIGH, gateway=GATEWAY + "rules: {high: {above: 245, per: 1m}}\n"))
    (problem,) = check(wrong, ()).problems
    assert "rules[high]: per belongs to rules of kind rate" in str(problem)


def test_why_names_layer_revision_author_and_reason() -> None:
    """Of the value that holds, and of those it overrules."""
    found = holds(fleet())
    words = says(found, parse_path("buffer.flush"))
    assert [(one.name, value) for one, value in words] == [
        ("region/north revision 1", "5s"),
        ("label/heat revision 3", "60s"),
    ]
    origin = found.origin(parse_path("buffer.flush"))
    assert origin is not None and (origin.author, origin.reason, origin.at_ms) == ("alice", "reason 3", 3000)
    assert found.origin(parse_path("buffer.path")) is None


def test_a_gateway_without_a_layer_of_its_own_is_not_managed() -> None:
    """It runs the file that the installer left."""
    layers = fleet()
    assert effective(GatewayKey("p1", "gw-02"), layers.get) is None
    del layers[LayerName.gateway(GW)]
    assert effective(GW, layers.get) is None
    emptied = revision(9, "gateway/p1/gw-01", "")
    assert effective(GW, with_draft(layers.get, emptied)) is None


def test_labels_of_the_gateway_replace_those_of_its_park() -> None:
    """In the order of precedence; a label without a layer says nothing."""
    layers = fleet(gateway=GATEWAY + "labels: [lte, none]\n")
    lte = revision(7, "label/lte", "buffer: {flush: 9s}")
    layers[lte.layer] = lte
    assert holds(layers).document["buffer"]["flush"] == "9s"


def test_a_change_touches_those_it_is_part_of() -> None:
    """A gateway's layer its gateway, a park's its park, a region's or label's all who belong to it."""
    layers = fleet()
    for number, layer in enumerate(["gateway/p1/gw-02", "gateway/p2/gw-01"], 10):
        other = revision(number, layer, GATEWAY)
        layers[other.layer] = other
    everyone = [GW, GatewayKey("p1", "gw-02"), GatewayKey("p2", "gw-01"), GatewayKey("p9", "unmanaged")]

    def who(layer: str) -> list[str]:
        return [str(key) for key in touched(LayerName.parse(layer), everyone, layers.get)]

    assert who("region/north") == who("park/p1") == who("label/heat") == ["p1/gw-01", "p1/gw-02"]
    assert who("gateway/p2/gw-01") == ["p2/gw-01"]
    assert who("region/south") == []


def test_the_hash_names_document_and_secrets() -> None:
    """The same for the same; another one when a secret was changed, though the document is the same."""
    layers = fleet(region=REGION.replace("1883", "1883, username: gw, password_file: '${secret:mqtt}'"))
    first, second, other = (effective(GW, layers.get, {"mqtt": n, "unused": 50}) for n in (5, 5, 6))
    assert first is not None and second is not None and other is not None
    assert first.hash() == second.hash() != other.hash()
    assert (first.revision, other.revision) == (5, 6)
    assert first.packed() == other.packed()


@pytest.mark.parametrize(
    ("layer", "text", "told"),
    [
        ("region/north", "park: p1", "x.yaml:1:1: park: a layer does not name a park: leave it away"),
        ("gateway/p1/gw-01", "gateway: gw-02", "this layer is 'gw-01'"),
        ("label/heat", "region: north", "stands in a park's layer alone, this is label/heat"),
        ("region/north", "labels: [a]", "stands in a park's or a gateway's layer"),
        ("park/p1", "labels: a", "expected a list of at most 16 ids"),
        ("park/p1", "labels: [a, a]", "a label stands here twice"),
        ("park/p1", "region: a/b", "expected the name of a region"),
        ("park/p1", "a: 1\nbroker: {url: 'mqtt://${secret:x}'}", "x.yaml:2:10: broker.url: a secret stands where"),
        ("park/p1", "broker: {ca: '${secret:../x}'}", "a secret's name is"),
        ("park/p1", "meters: {'a]b': {unit: 1}}", "expected an id"),
        ("park/p1", "a: 2026-01-01", "YAML takes this for a date: write it in quotes"),
        ("park/p1", "a: [.nan]", "expected a finite number"),
        ("park/p1", "a: 1\na: 2", "a second time"),
        ("park/p1", "[", "not YAML"),
    ],
)
def test_mistakes_in_a_layer_are_told(layer: str, text: str, told: str) -> None:
    """With file, line and remedy."""
    with pytest.raises(DocumentError) as caught:
        read_layer(LayerName.parse(layer), Document("x.yaml", text))
    assert told in str(caught.value)


def test_an_existing_gateway_yaml_is_taken_as_it_is() -> None:
    """Its own name in it is right, and left away."""
    text = "park: p1\ngateway: gw-01\n" + GATEWAY
    assert read_layer(LayerName.gateway(GW), Document("gateway.yaml", text)).keys() == {"lines", "meters"}


@pytest.mark.parametrize("text", ["park", "park/", "park/a/b", "gateway/a", "gateway/a/b/c", "site/a", "park/ä", ""])
def test_other_layer_names_are_refused(text: str) -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match="expected region/NAME"):
        LayerName.parse(text)


@given(st.text())
def test_any_text_is_a_layer_or_refused(text: str) -> None:
    """Nothing else comes out."""
    try:
        tree = read_layer(LayerName(Kind.PARK, "p1"), Document("any.yaml", text))
    except DocumentError as error:
        assert error.problems
    else:
        assert msgspec.json.decode(msgspec.json.encode(tree)) == tree
