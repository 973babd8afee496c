"""Merge: documents laid over each other, each value with the layer it came from. Pure.

Rules, the same at every depth:
- maps are merged key by key;
- lists whose items have an `id` in the agent's models (lines, meters) are merged item by item; a layer may write such a
  list as a map from id to item as well;
- everything else, other lists too, is replaced as a whole by the later layer;
- null removes what the layers below said, an item of a list by id too; a later layer may say it anew.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar, get_args, get_origin

import msgspec

from parkfleet.protocols.config import GatewayConfig

#: Where a value stands: keys of maps, and ids of items.
Path: TypeAlias = tuple[str, ...]
#: Plain data of a document: what YAML and JSON know. Lists by id are maps here, from id to the item without its id.
Tree: TypeAlias = dict[str, Any]

L = TypeVar("L")


class ShapeError(ValueError):
    """A document that cannot be merged; where is a path as Document has it."""

    def __init__(self, where: str, told: str) -> None:
        super().__init__(told)
        self.where = where
        self.told = told


def lists_by_id(model: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of a model's lists whose items have an id."""
    for option in (model, *(get_args(model) if get_origin(model) is not list else ())):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            for field in msgspec.structs.fields(option):
                yield from lists_by_id(field.type, (*path, field.encode_name))
        elif get_origin(option) is list:
            item = get_args(option)[0]
            if isinstance(item, type) and issubclass(item, msgspec.Struct) and "id" in item.__struct_fields__:
                yield path


BY_ID: Final = frozenset(lists_by_id(GatewayConfig))


def to_tree(data: object) -> Tree:
    """A document as a tree. Raises ShapeError."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ShapeError("", "expected keys and values, such as `broker: {url: mqtts://host:8883}`")
    return _map_to_tree(data, (), "")


def to_document(tree: Tree) -> Tree:
    """A tree as the agent reads it: lists by id are lists again, in order of first mention."""
    document = _plain(tree, ())
    assert isinstance(document, dict)
    return document


@dataclass(frozen=True, slots=True)
class Said(Generic[L]):
    """A value that one layer said of a path; None: it removed it."""

    layer: L
    value: object


@dataclass(frozen=True, slots=True)
class Merged(Generic[L]):
    """What came of layers."""

    tree: Tree
    origins: dict[Path, L]  # of every leaf of the tree

    def document(self) -> Tree:
        """As the agent reads it."""
        return to_document(self.tree)


def merge(layers: Iterable[tuple[L, Tree]]) -> Merged[L]:
    """Trees laid over each other, the first lowest."""
    tree: Tree = {}
    origins: dict[Path, L] = {}
    for layer, over in layers:
        _lay(tree, over, (), layer, origins)
    return Merged(tree, origins)


def said(layers: Iterable[tuple[L, Tree]], path: Path) -> list[Said[L]]:
    """What each layer says of a path, of a part of it, or of what it stands in, the lowest first."""
    found = []
    for layer, tree in layers:
        value: Any = tree
        for part in path:
            if not isinstance(value, dict):
                break  # a value laid over, or a null that removes, all of what the path stands in
            if part not in value:
                break
            value = value[part]
        else:
            found.append(Said(layer, value))
            continue
        if not isinstance(value, dict):
            found.append(Said(layer, value))
    return found


def leaves(tree: Mapping[str, object], path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value that is no map with something in it, with its path."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def path_text(path: Path) -> str:
    """A path as people write it: meters[m01].interval."""
    text = ""
    for depth, part in enumerate(path):
        if path[:depth] in BY_ID:
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def parse_path(text: str) -> Path:
    """A path as people write it. Raises ValueError with a sentence."""
    parts: list[str] = []
    rest = text
    while rest:
        if rest.startswith("["):
            inside, bracket, after = rest[1:].partition("]")
            if not bracket or not inside or tuple(parts) not in BY_ID:
                break
            parts.append(inside)
            rest = after
        else:
            end = min((at for mark in ".[" if (at := rest.find(mark)) >= 0), default=len(rest))
            if end == 0 or tuple(parts) in BY_ID:
                break
            parts.append(rest[:end])
            rest = rest[end:]
        if rest.startswith("."):
            rest = rest[1:] or "."  # a dot at the end is a mistake
    if rest or not parts:
        raise ValueError(f"expected a key such as buffer.flush or meters[m01].interval, got {text!r}")
    return tuple(parts)


def _map_to_tree(data: dict[Any, Any], path: Path, where: str) -> Tree:
    tree: Tree = {}
    for key, value in data.items():
        name = str(key)
        tree[name] = _to_tree(value, (*path, name), f"{where}.{name}" if where else name)
    return tree


def _to_tree(value: object, path: Path, where: str) -> object:
    if path in BY_ID and isinstance(value, list):
        return _items_to_tree(value, path, where)
    if path[:-1] in BY_ID and isinstance(value, dict) and "id" in value:
        if value["id"] != path[-1]:
            raise ShapeError(f"{where}.id", f"this item is called {path[-1]!r} already by its key: leave the id away")
        value = {key: inner for key, inner in value.items() if key != "id"}
    if (path in BY_ID or path[:-1] in BY_ID) and value is not None and not isinstance(value, dict):
        what = "a list of items, or a map from id to item" if path in BY_ID else "an item (keys and values), or null"
        raise ShapeError(where, f"expected {what}")
    return _map_to_tree(value, path, where) if isinstance(value, dict) else value


def _items_to_tree(items: list[object], path: Path, where: str) -> Tree:
    tree: Tree = {}
    for index, item in enumerate(items):
        place = f"{where}[{index}]"
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str):
            raise ShapeError(place, "an item of this list needs an id: add `id: …`")
        if name in tree:
            raise ShapeError(f"{place}.id", f"id {name!r} is used twice in this list")
        rest = {key: value for key, value in item.items() if key != "id"}
        tree[name] = _map_to_tree(rest, (*path, name), place)
    return tree


def _lay(tree: Tree, over: Tree, path: Path, layer: L, origins: dict[Path, L]) -> None:
    """Lays one map over another, in place."""
    for key, value in over.items():
        child = (*path, key)
        below = tree.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            if not below and value:
                origins.pop(child, None)  # an empty map was a leaf
            _lay(below, value, child, layer, origins)
            if not below:
                origins[child] = layer  # emptied, or said to be empty, by this layer
        elif isinstance(value, dict):
            _forget(tree, key, child, origins)
            tree[key] = {}
            _lay(tree[key], value, child, layer, origins)
            if not tree[key]:
                origins[child] = layer
        else:
            _forget(tree, key, child, origins)
            if value is not None:
                tree[key] = value
                origins[child] = layer


def _forget(tree: Tree, key: str, path: Path, origins: dict[Path, L]) -> None:
    """Removes what stands at a key, and where it came from."""
    below = tree.pop(key, None)
    origins.pop(path, None)
    if isinstance(below, dict):
        for inner, _ in leaves(below, path):
            origins.pop(inner, None)


def _plain(value: object, path: Path) -> object:
    if not isinstance(value, dict):
        return value
    if path in BY_ID:
        return [{"id": key, **_plain_map(item, (*path, key))} for key, item in value.items()]
    return _plain_map(value, path)


def _plain_map(value: Tree, path: Path) -> Tree:
    return {key: _plain(inner, (*path, key)) for key, inner in value.items()}
