"""Layers: what is said of the fleet's configuration, and what of it holds for a gateway. Pure.

Region, park, labels, gateway: the later wins. Which region a park is in stands in the park's layer (`region: north`),
which labels hold in the park's or the gateway's (`labels: [heat, lte]`, in the order of precedence): so that belonging
has revisions like everything else. A gateway is managed from the first revision of its own layer on; before, it runs
the file that the installer left.

Invariants: a revision never changes; numbers grow over all layers and secrets, so that one number names one state of
the whole fleet; the effective document of a gateway is a function of its layers' revisions alone.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from parkfleet.controller.config_merge import BY_ID, Merged, Path, ShapeError, Tree, leaves, merge, said, to_tree
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.secret import references

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")

#: Labels of one gateway; more cannot be kept in a head.
MAX_LABELS: Final = 16
#: Keys that a layer says of itself and that no gateway sees.
BELONGING: Final = ("region", "labels")


class Kind(Enum):
    """What a layer is for."""

    REGION = "region"  # all gateways of all parks of a region
    PARK = "park"  # all gateways of a park
    LABEL = "label"  # all gateways with a label
    GATEWAY = "gateway"  # one

    # In the order of precedence.


class LayerName(NamedTuple):
    """A layer: region/NAME, park/NAME, label/NAME, gateway/PARK/NAME."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "LayerName":
        """Raises ValueError with a sentence for the user."""
        kind, _, name = text.partition("/")
        parts = name.split("/")
        wanted = 2 if kind == Kind.GATEWAY.value else 1
        known = kind in {kind.value for kind in Kind}
        if not known or len(parts) != wanted or not all(_ID.fullmatch(part) for part in parts):
            raise ValueError(f"expected region/NAME, park/NAME, label/NAME or gateway/PARK/NAME, got {text!r}")
        return cls(Kind(kind), name)

    @classmethod
    def gateway(cls, key: GatewayKey) -> "LayerName":
        """The layer of one gateway."""
        return cls(Kind.GATEWAY, str(key))

    @property
    def key(self) -> GatewayKey:
        """The gateway of a gateway's layer."""
        park, _, gateway = self.name.partition("/")
        return GatewayKey(park, gateway)


@dataclass(frozen=True, slots=True)
class Revision:
    """A layer as somebody left it."""

    number: int  # from 1, over all layers
    layer: LayerName
    tree: Tree  # never changed; empty: the layer says nothing any more
    author: str
    reason: str
    at_ms: int  # ms UTC

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.layer} revision {self.number}"


#: The revision of a layer that holds, at the moment that is meant.
Lookup: TypeAlias = Callable[[LayerName], Revision | None]


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for one gateway."""

    key: GatewayKey
    layers: tuple[Revision, ...]  # the lowest first
    merged: Merged[Revision]
    secrets: Mapping[str, int]  # number of each secret's last change, by name, of those that are meant and are there

    @property
    def revision(self) -> int:
        """The number of the last change to anything it is made of."""
        return max([*(layer.number for layer in self.layers), *self.secrets.values()], default=0)

    @property
    def document(self) -> Tree:
        """As the agent reads it."""
        return {"park": self.key.park, "gateway": self.key.gateway, **self.merged.document()}

    def packed(self) -> bytes:
        """The document as it goes to the gateway: JSON, which is YAML too, indented for people."""
        return msgspec.json.format(msgspec.json.encode(self.document), indent=1)

    def hash(self) -> str:
        """Names the document and the secrets it means; SHA-256, hexadecimal. Tells nothing of a secret's value."""
        digest = hashlib.sha256(self.packed())
        digest.update(msgspec.json.encode(dict(sorted(self.secrets.items()))))
        return digest.hexdigest()

    def origin(self, path: Path) -> Revision | None:
        """Whose the value at a path is; None where no layer says it."""
        return self.merged.origins.get(path)


def effective(key: GatewayKey, lookup: Lookup, secrets: Mapping[str, int] | None = None) -> Effective | None:
    """What holds for a gateway; None when it is not managed. secrets: number of the last change of each, by name."""
    layers = layers_of(key, lookup)
    if layers is None:
        return None
    merged = merge((revision, without_belonging(revision.tree)) for revision in layers)
    meant = {reference.name for reference in references(merged.tree)}
    return Effective(key, layers, merged, {name: number for name, number in (secrets or {}).items() if name in meant})


def layers_of(key: GatewayKey, lookup: Lookup) -> tuple[Revision, ...] | None:
    """The revisions that make up a gateway's document, the lowest first; None when it is not managed."""
    own = lookup(LayerName.gateway(key))
    if own is None or not own.tree:
        return None
    park = lookup(LayerName(Kind.PARK, key.park))
    parks = park.tree if park else {}
    labels = own.tree["labels"] if "labels" in own.tree else parks.get("labels")
    names = [LayerName(Kind.LABEL, label) for label in labels or ()]
    region = [LayerName(Kind.REGION, parks["region"])] if parks.get("region") else []
    found = [*map(lookup, region), park, *map(lookup, names), own]
    return tuple(revision for revision in found if revision is not None)


def says(effective: Effective, path: Path) -> list[tuple[Revision, object]]:
    """What each layer says of a path, the lowest first: the last one holds. None: it removes what is below."""
    layers = [(revision, without_belonging(revision.tree)) for revision in effective.layers]
    return [(found.layer, found.value) for found in said(layers, path)]


def touched(layer: LayerName, gateways: Iterable[GatewayKey], lookup: Lookup) -> Iterator[GatewayKey]:
    """Those managed gateways whose document the layer is part of."""
    for key in gateways:
        if layer.kind is Kind.GATEWAY and layer.key != key:
            continue
        if layer.kind is Kind.PARK and layer.name != key.park:
            continue
        if any(revision.layer == layer for revision in layers_of(key, lookup) or ()):
            yield key


def with_draft(lookup: Lookup, draft: Revision) -> Lookup:
    """The fleet as it would be with one more revision."""
    return lambda name: draft if name == draft.layer else lookup(name)


def read_layer(layer: LayerName, document: Document) -> Tree:
    """A layer's document as a tree. Raises DocumentError with all that is wrong with it as a layer."""
    if document.problems:
        raise DocumentError(document.problems)
    try:
        tree = to_tree(document.data)
    except ShapeError as error:
        raise DocumentError([document.problem(error.where, error.told)]) from None
    problems = [*_belonging_problems(layer, tree, document), *_secret_problems(document)]
    problems += [document.problem(_first(key), _no_item_id(key)) for key in _bad_items(tree)]
    problems += [document.problem(_first(path), told) for path, value in leaves(tree) if (told := _odd(value))]
    if problems:
        raise DocumentError(sorted(set(problems)))
    if layer.kind is Kind.GATEWAY:  # an existing gateway.yaml may be taken as it is: it says its own name
        tree = {key: value for key, value in tree.items() if key not in ("park", "gateway")}
    return tree


def without_belonging(tree: Tree) -> Tree:
    """What a layer says to gateways."""
    return {key: value for key, value in tree.items() if key not in BELONGING}


def _belonging_problems(layer: LayerName, tree: Tree, document: Document) -> Iterator[Problem]:
    """What is wrong with a layer's words about who belongs where."""
    names = layer.key._asdict() if layer.kind is Kind.GATEWAY else {}
    for key in ("park", "gateway"):
        if key in tree and tree[key] != names.get(key):
            remedy = (
                f"this layer is {names[key]!r}" if names else "leave it away: the controller says it of each gateway"
            )
            yield document.problem(key, f"a layer does not name a {key}: {remedy}")
    if "region" in tree and layer.kind is not Kind.PARK:
        yield document.problem("region", f"stands in a park's layer alone, this is {layer}")
    elif tree.get("region") is not None and not _is_id(tree["region"]):
        yield document.problem("region", "expected the name of a region, an id")
    if (labels := tree.get("labels")) is not None:
        if layer.kind not in (Kind.PARK, Kind.GATEWAY):
            yield document.problem("labels", f"stands in a park's or a gateway's layer, this is {layer}")
        elif not isinstance(labels, list) or not all(map(_is_id, labels)) or len(labels) > MAX_LABELS:
            yield document.problem("labels", f"expected a list of at most {MAX_LABELS} ids, such as [heat, lte]")
        elif len(set(labels)) < len(labels):
            yield document.problem("labels", "a label stands here twice")


def _secret_problems(document: Document) -> Iterator[Problem]:
    return (document.problem(found.where, found.told) for found in references(document.data) if found.told)


def _bad_items(tree: Tree) -> Iterator[Path]:
    """Items of lists by id whose id is none: a path with it could not be written."""
    for path, _ in leaves(tree):
        for end in range(1, len(path)):
            if path[:end] in BY_ID and not _is_id(path[end]):
                yield path[: end + 1]


def _odd(value: object) -> str:
    """Why a value is none of JSON's, as which the document travels; empty when it is."""
    if isinstance(value, list):
        return next((told for item in value if (told := _odd(item))), "")
    if isinstance(value, dict):
        return next((told for item in value.values() if (told := _odd(item))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "expected a number below 2^63"
    if value is None or isinstance(value, str | bool | int | float):
        return ""
    return f"YAML takes this for a {type(value).__name__}: write it in quotes"


def _first(path: Path) -> str:
    return ".".join(path)


def _no_item_id(path: Path) -> str:
    return f"expected an id: 1 to 64 letters, digits, '.', '_' or '-', got {path[-1][:80]!r}"


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
