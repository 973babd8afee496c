"""Rollout order: which gateway comes when. Pure.

The order is that of a stable hash, dealt in turn over parks and hardware models, so that each stage is a fair sample:
the same gateways and the same salt give the same order on every machine, and anybody can compute it again.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from parkfleet.controller.rollout_model import Place, Size


class Candidate(NamedTuple):
    """A gateway that takes part."""

    key: str  # PARK/GATEWAY
    model: str  # hardware

    @property
    def stratum(self) -> tuple[str, str]:
        """What a stage is spread over."""
        return self.key.partition("/")[0], self.model


def ordered(candidates: Iterable[Candidate], salt: str) -> list[str]:
    """All keys, dealt over the models first and each model's parks in turn, by SHA-256 of salt and name."""
    models: dict[str, dict[tuple[str, str], list[str]]] = {}
    for candidate in candidates:
        models.setdefault(candidate.model, {}).setdefault(candidate.stratum, []).append(candidate.key)
    return _dealt([(model, _dealt_strata(strata, salt)) for model, strata in models.items()], salt)


def places(keys: list[str], stages: tuple[Size, ...]) -> tuple[Place, ...]:
    """Each key with its stage. Sizes are cumulative; the last stage takes whoever is left."""
    bounds = [size.of(len(keys)) for size in stages[:-1]]
    return tuple(Place(key, sum(index >= bound for bound in bounds)) for index, key in enumerate(keys))


def _dealt_strata(strata: dict[tuple[str, str], list[str]], salt: str) -> list[str]:
    return _dealt(
        [("/".join(name), sorted(keys, key=lambda key: _rank(salt, key))) for name, keys in strata.items()], salt
    )


def _dealt(piles: list[tuple[str, list[str]]], salt: str) -> list[str]:
    """One of each pile in turn, the piles by their hash."""
    waiting = deque(deque(keys) for _, keys in sorted(piles, key=lambda pile: _rank(salt, pile[0])))
    dealt = []
    while waiting:
        pile = waiting.popleft()
        dealt.append(pile.popleft())
        if pile:
            waiting.append(pile)
    return dealt


def _rank(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{name}".encode()).digest()
