"""Edit: single values put into a layer, and a layer as a file for people. Pure."""

import copy

import yaml

from parkfleet.controller.config_merge import Path, Tree, parse_path, to_document
from parkfleet.protocols.document import Document, DocumentError, Problem


def layer_text(tree: Tree) -> str:
    """A layer as YAML, for people: a map or item without inner parts on one line."""
    document = to_document(tree)
    if not document:
        return ""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def with_setting(tree: Tree, key: str, value: object) -> Tree:
    """A copy with one value. Raises ValueError with a sentence when the key is none."""
    path = parse_path(key)
    changed = copy.deepcopy(tree)
    inner = changed
    for part in path[:-1]:
        below = inner.get(part)
        if not isinstance(below, dict):
            below = inner[part] = {}
        inner = below
    inner[path[-1]] = value
    return changed


def without_setting(tree: Tree, key: str) -> Tree:
    """A copy in which the layer says nothing of a key; maps that are empty then go too. Raises ValueError."""
    path = parse_path(key)
    changed = copy.deepcopy(tree)
    if not _remove(changed, path):
        raise ValueError(f"the layer says nothing of {key}")
    return changed


def parse_value(key: str, text: str) -> object:
    """A value as written on a command line, YAML. Raises DocumentError."""
    document = Document(key, text)
    if document.problems:
        raise DocumentError(document.problems)
    return document.data


def refused(key: str, told: str) -> DocumentError:
    """A setting that cannot be made."""
    return DocumentError([Problem(key, 0, 0, "", told)])


def _remove(tree: Tree, path: Path) -> bool:
    key, rest = path[0], path[1:]
    if key not in tree:
        return False
    if not rest:
        del tree[key]
        return True
    below = tree[key]
    if not isinstance(below, dict) or not _remove(below, rest):
        return False
    if not below:
        del tree[key]
    return True
