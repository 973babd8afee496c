"""Checking an effective document: the agent's own rules, told where they can be mended."""

import pytest

from parkfleet.controller.config_check import Verdict, check
from parkfleet.controller.config_layers import LayerName, effective, read_layer
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.document import Document
from tests.config.fleet import GATEWAY, PARK, REGION, fleet, revision

GW = GatewayKey("p1", "gw-01")


def verdict(*secrets: str, **texts: str) -> Verdict:
    """Of the little fleet with some layers' texts changed."""
    found = effective(GW, fleet(**texts).get)
    assert found is not None
    return check(found, secrets)


def test_a_good_document() -> None:
    """No word about it."""
    assert verdict() == Verdict([], [])


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            {"gateway": GATEWAY.replace("unit: 1, profile: eastron", "unit: 0, profile: eastron")},
            "gateway/p1/gw-01 revision 4: meters[m01].unit: a meter on a serial line has a unit id from 1 to 247",
        ),
        ({"label": "buffer: {flush: 5 parsecs}"}, "label/heat revision 3: buffer.flush: expected a duration"),
        ({"region": "broker: {url: mqtt://x}"}, "effective configuration of p1/gw-01: controller: is missing"),
        ({"region": "controller: {url: 'x:1'}"}, "p1/gw-01: broker is missing: add `broker: …`"),
        ({"park": PARK + "broker: {usrname: x}"}, "park/p1 revision 2: broker.usrname: unknown key: did you mean"),
        ({"gateway": GATEWAY.replace("sdm630", "sdm631")}, "no profile 'eastron-sdm631'"),
        (
            {"region": REGION.replace("1883", "1883, password_file: '${secret:mqtt}'")},
            "region/north revision 1: broker.password_file: there is no secret 'mqtt': `parkfleet fleet secret set",
        ),
    ],
)
def test_a_mistake_is_told_at_the_layer_that_says_it(texts: dict[str, str], told: str) -> None:
    """By its revision, with a remedy and the gateway it was found with."""
    problems = verdict(**texts).problems
    assert any(told in str(problem) for problem in problems), problems
    assert all("(effective for p1/gw-01)" in str(problem) for problem in problems)


def test_a_mistake_of_the_file_that_is_being_changed_has_its_line() -> None:
    """Where the author looks for it, in a list by id written as a map too."""
    text = "region: north\nmeters:\n  m02: {interval: 1ms}\n"
    document = Document("park.yaml", text)
    name = LayerName.parse("park/p1")
    draft = revision(0, "park/p1", text)
    layers = {**fleet(gateway=GATEWAY), name: draft}
    assert draft.tree == read_layer(name, document)
    found = effective(GW, layers.get)
    assert found is not None
    (problem,) = check(found, (), document).problems
    assert str(problem).startswith("park.yaml:3:3: meters.m02: interval must be from 100ms to 1d")


def test_a_profile_of_the_gateways_own_is_a_warning() -> None:
    """Only the gateway has its folders."""
    text = GATEWAY.replace("sdm630", "mine") + "  - {id: m03, line: bus1, unit: 2, profile: eastron-mine}\n"
    found = verdict(gateway=text + "profiles: [./profiles]\n")
    assert found.good
    assert len(found.warnings) == 2
    assert all("only the gateway can tell" in str(warning) for warning in found.warnings)


def test_a_secret_that_is_there_is_good() -> None:
    """Its value is not needed for the check."""
    assert verdict("mqtt", region=REGION.replace("1883", "1883, password_file: '${secret:mqtt}'")).good
