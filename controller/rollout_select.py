"""Selection: which gateways an expression means: `park=hohhot and label!=critical`. Pure.

Grammar: terms joined by `and`, `or` and `not`, with brackets; `not` binds closest, then `and`. A term is KEY=VALUE or
KEY!=VALUE; VALUE may hold `*` for any characters, and several values parted by commas mean any of them. `all` means
every gateway.
"""

import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

#: What a term can ask for.
KEYS: Final = ("region", "park", "gateway", "label", "release", "hardware")
#: Characters of an expression, and brackets within brackets: what a person writes, not what exhausts a parser.
MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 32

_TOKEN: Final = re.compile(r"\s*(?:(\()|(\))|([a-z]+)\s*(!=|=)\s*([^\s()=!]+)|([a-z]+)(?=[\s()]|$))")


@dataclass(frozen=True)
class Traits:
    """What is known of a gateway, to select it by."""

    park: str
    gateway: str
    region: str = ""
    labels: Set[str] = field(default_factory=frozenset)
    release: str = ""
    hardware: str = ""

    def values(self, key: str) -> Set[str]:
        """Its values of a key; none where nothing is known."""
        if key == "label":
            return self.labels
        value: str = getattr(self, key)
        return {value} if value else frozenset()


Selection = Callable[[Traits], bool]


class SelectionError(ValueError):
    """An expression cannot be understood; the message says where and what was expected."""


def selection(expression: str) -> Selection:
    """What an expression means. Raises SelectionError."""
    if len(expression) > MAX_LENGTH:
        raise SelectionError(f"a selection has at most {MAX_LENGTH} characters, this one {len(expression)}")
    parser = _Parser(expression)
    found = parser.either(0)
    parser.end()
    return found


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def either(self, depth: int) -> Selection:
        """Terms joined by or."""
        if depth > MAX_DEPTH:
            raise SelectionError(f"more than {MAX_DEPTH} brackets within brackets")
        parts = [self._both(depth)]
        while self._word("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else lambda traits: any(part(traits) for part in parts)

    def end(self) -> None:
        """Nothing may be left."""
        if self._text[self._at :].strip():
            raise self._error("expected `and`, `or` or the end")

    def _both(self, depth: int) -> Selection:
        parts = [self._one(depth)]
        while self._word("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else lambda traits: all(part(traits) for part in parts)

    def _one(self, depth: int) -> Selection:
        negated = False
        while self._word("not"):
            negated = not negated
        found = self._bracket(depth) or self._term()
        return (lambda traits: not found(traits)) if negated else found

    def _bracket(self, depth: int) -> Selection | None:
        match = _TOKEN.match(self._text, self._at)
        if match is None or not match[1]:
            return None
        self._at = match.end()
        found = self.either(depth + 1)
        match = _TOKEN.match(self._text, self._at)
        if match is None or not match[2]:
            raise self._error("expected `)`")
        self._at = match.end()
        return found

    def _term(self) -> Selection:
        if self._word("all"):
            return lambda _: True
        match = _TOKEN.match(self._text, self._at)
        if match is None or not match[3]:
            raise self._error("expected KEY=VALUE, KEY!=VALUE, `all`, `not` or `(`")
        key, sign, values = match[3], match[4], tuple(match[5].split(","))
        if key not in KEYS:
            raise self._error(f"{key!r} is not known, expected one of {', '.join(KEYS)}")
        if not all(values):
            raise self._error(f"an empty value of {key}")
        self._at = match.end()
        wanted = sign == "="
        return lambda traits: _any(traits.values(key), values) is wanted

    def _word(self, word: str) -> bool:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[6] != word:
            return False
        self._at = match.end()
        return True

    def _error(self, told: str) -> SelectionError:
        rest = self._text[self._at :].strip()
        where = f"at {rest[:20]!r}" if rest else "at the end"
        return SelectionError(f"selection, character {self._at + 1}, {where}: {told}")


def _any(values: Set[str], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for value in values for pattern in patterns)


def selected(expression: str, fleet: Iterator[Traits]) -> list[Traits]:
    """Those of a fleet that an expression means, by name. Raises SelectionError."""
    meant = selection(expression)
    return sorted((traits for traits in fleet if meant(traits)), key=lambda traits: (traits.park, traits.gateway))
