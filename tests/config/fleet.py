"""A little fleet of layers for tests: region north, parks p1 and p2, gateways in them."""

from parkfleet.controller.config_layers import LayerName, Lookup, Revision, read_layer
from parkfleet.protocols.document import Document

REGION = """\
broker: {url: mqtt://10.0.0.1:1883}
controller: {url: 10.0.0.2:7443}
buffer: {flush: 5s}
"""
PARK = """\
region: north
labels: [heat]
buffer: {retain: 3d}
"""
HEAT = "buffer: {flush: 60s}\n"
GATEWAY = """\
lines:
  - {id: bus1, url: "serial:///dev/ttyUSB0?baud=9600"}
  - {id: hall, url: "tcp://10.0.0.5"}
meters:
  - {id: m01, line: bus1, unit: 1, profile: eastron-sdm630}
  - {id: m02, line: hall, unit: 1, profile: schneider-iem3155}
"""

LAYERS = {"region/north": REGION, "park/p1": PARK, "label/heat": HEAT, "gateway/p1/gw-01": GATEWAY}


def revision(number: int, layer: str, text: str) -> Revision:
    """A revision of a layer by alice, as many seconds after 1970 as its number."""
    name = LayerName.parse(layer)
    tree = read_layer(name, Document(f"{layer}.yaml", text))
    return Revision(number, name, tree, "alice", f"reason {number}", 1000 * number)


def fleet(**changed: str) -> dict[LayerName, Revision]:
    """The layers above, numbered from 1; changed: other texts, by the layer's kind."""
    texts = {layer: changed.get(layer.split("/", maxsplit=1)[0], text) for layer, text in LAYERS.items()}
    found = [revision(number, layer, text) for number, (layer, text) in enumerate(texts.items(), 1)]
    return {one.layer: one for one in found}


def lookup(layers: dict[LayerName, Revision]) -> Lookup:
    """What holds."""
    return layers.get
