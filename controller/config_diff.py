"""Diff: what changes from one document to another, and which meters gain or lose by it. Pure."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from parkfleet.controller.config_merge import Path, Tree, leaves, path_text


class ChangeKind(Enum):
    """What becomes of a value."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is not the same."""

    path: Path
    kind: ChangeKind
    before: object = None
    after: object = None

    def __str__(self) -> str:
        where = f"{self.kind.value} {path_text(self.path)}"
        match self.kind:
            case ChangeKind.ADDED:
                return f"{where}: {value_text(self.after)}"
            case ChangeKind.REMOVED:
                return f"{where}: {value_text(self.before)}"
            case _:
                return f"{where}: {value_text(self.before)} -> {value_text(self.after)}"

    def as_json(self) -> dict[str, Any]:
        """As it stands in --json."""
        found: dict[str, Any] = {"key": path_text(self.path), "change": self.kind.name.lower()}
        if self.kind is not ChangeKind.ADDED:
            found["before"] = self.before
        if self.kind is not ChangeKind.REMOVED:
            found["after"] = self.after
        return found


@dataclass(frozen=True, slots=True)
class MeterImpact:
    """Which meters a gateway gains, loses, or reads in another way."""

    gains: tuple[str, ...]
    loses: tuple[str, ...]
    changes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.gains or self.loses or self.changes)

    def __str__(self) -> str:
        parts = (("gains", self.gains), ("loses", self.loses), ("changes", self.changes))
        return "; ".join(f"{verb} {_counted(ids)}" for verb, ids in parts if ids) or "no meter changes"


def diff(before: Tree, after: Tree) -> list[Change]:
    """Every value that differs: removed and changed ones in their order, then what is added."""
    old, new = dict(leaves(before)), dict(leaves(after))
    changes = []
    for path, value in old.items():
        if path not in new:
            changes.append(Change(path, ChangeKind.REMOVED, value))
        # Most values are the very same object, of a layer that is in both. As text: for Python true equals 1.
        elif value is not new[path] and json.dumps(value) != json.dumps(new[path]):
            changes.append(Change(path, ChangeKind.CHANGED, value, new[path]))
    added = (Change(path, ChangeKind.ADDED, after=value) for path, value in new.items() if path not in old)
    return [*changes, *added]


def meter_impact(before: Tree, after: Tree) -> MeterImpact:
    """Between two effective trees. A meter changes with its own entry, its line's, and with the profile folders."""
    old, new = _meters(before), _meters(after)
    lines = {path[1] for path in (c.path for c in diff(_part(before, "lines"), _part(after, "lines"))) if len(path) > 1}
    folders = before.get("profiles") != after.get("profiles")
    return MeterImpact(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(
            sorted(
                name
                for name in new.keys() & old.keys()
                if folders or old[name] != new[name] or _line_of(new[name]) in lines
            )
        ),
    )


def value_text(value: object) -> str:
    """A value in a diff: as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _part(tree: Tree, key: str) -> Tree:
    part = tree.get(key)
    return {key: part} if isinstance(part, dict) else {}


def _meters(tree: Tree) -> Tree:
    part = tree.get("meters")
    return part if isinstance(part, dict) else {}


def _line_of(meter: object) -> object:
    return meter.get("line") if isinstance(meter, dict) else None


def _counted(ids: tuple[str, ...], most: int = 5) -> str:
    shown = ", ".join(ids[:most]) + (", …" if len(ids) > most else "")
    return f"{len(ids)} meter{'s' if len(ids) > 1 else ''} ({shown})"
