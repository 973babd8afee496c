"""Check: whether a gateway could run its effective document, by the agent's own models. Pure.

A mistake is told where somebody can mend it: in the layer that said the value, at the line of the file it came from
when that layer is the one being changed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from parkfleet.controller.config_layers import Effective, Revision, without_belonging
from parkfleet.controller.config_merge import BY_ID, Path, merge, path_text
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.config import GatewayConfig
from parkfleet.protocols.crosscheck import check_gateway, profile_finder
from parkfleet.protocols.document import Document, Problem
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.secret import references

#: Only the built-in library: the folders a configuration names are on the gateway.
_FIND: Final = profile_finder([])


@lru_cache(maxsize=1024)
def built_in(name: str) -> Profile:
    """A profile of the library. Raises UnknownProfileError, DocumentError."""
    return _FIND(name)


@dataclass(frozen=True)
class Verdict:
    """What a check of one gateway's effective document found."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)  # what only the gateway itself can know

    @property
    def good(self) -> bool:
        """Whether the document may be sent to the gateway."""
        return not self.problems


def check(effective: Effective, secrets: Collection[str], changed: Document | None = None) -> Verdict:
    """Checks one gateway's document. secrets: names of those that are there.

    changed: the file of the layer that is being changed, whose revision number is 0 then.
    """
    document = EffectiveDocument(effective)
    checked = check_gateway(document, built_in)
    problems, warnings = [], []
    folders = bool(effective.document.get("profiles"))
    unknown = set(checked.unknown)
    for problem in checked.problems:
        if folders and problem in unknown:
            told = "is not built in: whether the gateway has it in its own folders, only the gateway can tell"
            warnings.append(problem._replace(message=told))
        else:
            problems.append(problem)
    problems += (
        document.problem(found.where, f"there is no secret {found.name!r}: `parkfleet fleet secret set {found.name}`")
        for found in references(document.data)
        if found.name not in secrets
    )
    if "controller" not in effective.merged.tree:
        told = "is missing: without it the gateway could not be reached again. Add `controller: {url: HOST:PORT}`"
        problems.append(document.problem("controller", told))
    place = Placing(effective, document, changed)
    return Verdict([place(found) for found in problems], [place(found) for found in warnings])


def check_layer(draft: Revision, changed: Document) -> list[Problem]:
    """Checks a layer that is part of no gateway yet, by itself: what it says, not what it leaves to others."""
    alone = Effective(GatewayKey("park", "gateway"), (draft,), merge([(draft, without_belonging(draft.tree))]), {})
    document = EffectiveDocument(alone)
    place = Placing(alone, document, changed)
    said = (found for found in document.check(GatewayConfig) if " is missing: add `" not in found.message)
    return [place(found, of="") for found in said]


class EffectiveDocument(Document):
    """An effective document, in the place of a file."""

    def __init__(self, effective: Effective) -> None:
        """Plain data has no lines."""
        self.name = f"effective configuration of {effective.key}"
        self.data = effective.document
        self.problems = []

    def problem(self, where: str, message: str) -> Problem:
        """A problem at a path of the document."""
        return Problem(self.name, 0, 0, where, message)


class Placing:
    """Says of a problem in an effective document which layer said it, and where."""

    def __init__(self, effective: Effective, document: EffectiveDocument, changed: Document | None) -> None:
        self._effective = effective
        self._document = document
        self._changed = changed

    def __call__(self, problem: Problem, of: str | None = None) -> Problem:
        """The same problem, at its layer. of: what it was found with, default the gateway."""
        if problem.file != self._document.name:
            return problem  # in a profile's own file
        path = _path(self._document.data, problem.where)
        revision = self._responsible(path)
        about = problem.message + (f" (effective for {self._effective.key})" if of is None else of)
        if revision is not None and revision.number == 0 and self._changed is not None:
            return self._changed.problem(_where_in(self._changed.data, path), about)
        file = self._document.name if revision is None else revision.name
        return Problem(file, 0, 0, path_text(path), about)

    def _responsible(self, path: Path) -> Revision | None:
        """Who said the value, or the last word within it; else within what it stands in."""
        origins = self._effective.merged.origins
        for end in range(len(path), 0, -1):
            within = [revision for leaf, revision in origins.items() if leaf[:end] == path[:end]]
            if within:
                return max(within, key=lambda revision: (revision.number == 0, revision.number))
        return None


def _path(data: object, where: str) -> Path:
    """meters[3].unit of a document as a path of the tree: ("meters", "m04", "unit")."""
    path: list[str] = []
    for step in _steps(where):
        if isinstance(step, int):
            item = data[step] if isinstance(data, list) and step < len(data) else None
            by_id = tuple(path) in BY_ID and isinstance(item, dict)
            path.append(str(item["id"]) if by_id and isinstance(item, dict) else f"{step}")
            data = item
        else:
            path.append(step)
            data = data.get(step) if isinstance(data, dict) else None
    return tuple(path)


def _where_in(data: object, path: Path) -> str:
    """A path of the tree in a layer's own file, which may have a list as a list or as a map."""
    where = ""
    for part in path:
        if isinstance(data, list):
            index = next((at for at, item in enumerate(data) if isinstance(item, dict) and item.get("id") == part), -1)
            if index < 0:
                return where
            where, data = f"{where}[{index}]", data[index]
        else:
            where = f"{where}.{part}" if where else part
            data = data.get(part) if isinstance(data, dict) else None
    return where


def _steps(where: str) -> Iterator[str | int]:
    """The steps of a path as Document has it; keys of our models have neither dots nor brackets."""
    for piece in where.replace("[", ".[").split("."):
        if piece.startswith("[") and piece[1:-1].isdigit():
            yield int(piece[1:-1])
        elif piece:
            yield piece
