"""ConfigFleet: the fleet's configuration while the controller lives: the store's newest revisions, ready in memory.

A change is proposed first: what it would do to each gateway. It is stored only when no gateway that it touches would
get a document with mistakes in it that it had not before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from parkfleet.controller.config_check import Verdict, check, check_layer
from parkfleet.controller.config_diff import Change, MeterImpact, diff, meter_impact
from parkfleet.controller.config_layers import (
    Effective,
    Kind,
    LayerName,
    Lookup,
    Revision,
    effective,
    touched,
    with_draft,
)
from parkfleet.controller.config_merge import Tree
from parkfleet.controller.config_store import ConfigStore, Moment, SecretChange
from parkfleet.controller.registry import GatewayKey
from parkfleet.proto import limits
from parkfleet.protocols.document import Document, Problem

#: So many gateways are looked at before others have their turn: some milliseconds. Gateways.
AT_ONCE: Final = 4

#: Told of gateways whose desired configuration may have changed.
OnChange = Callable[[list[GatewayKey]], None]


@dataclass(frozen=True)
class Impact:
    """What a change does to one gateway."""

    key: GatewayKey
    changes: list[Change]
    meters: MeterImpact
    verdict: Verdict


@dataclass
class Proposal:
    """A change that is not stored yet."""

    draft: Revision  # number 0
    base: int  # the revision it was made from
    document: Document  # as its author wrote it
    changes: list[Change]  # of the layer
    touched: list[GatewayKey]
    problems: list[Problem] = field(default_factory=list)  # found so far, by ConfigFleet.impacts()


class ConfigFleet:
    """One controller's configuration. on_change must not block."""

    def __init__(self, store: ConfigStore, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self._clock = clock
        self._heads = {revision.layer: revision for revision in store.heads()}
        self._secrets = store.secrets()
        self._names: dict[
            GatewayKey, tuple[int, str] | None
        ] = {}  # of desired documents, as far as they were asked for
        self.on_change: OnChange = lambda _: None

    def gateways(self) -> Iterator[GatewayKey]:
        """All that are managed, in no order."""
        return (head.layer.key for head in self._heads.values() if head.layer.kind is Kind.GATEWAY and head.tree)

    def heads(self) -> list[Revision]:
        """The newest revision of every layer, by name."""
        return sorted(self._heads.values(), key=lambda head: str(head.layer))

    def head(self, layer: LayerName) -> Revision | None:
        """The revision of a layer that holds."""
        return self._heads.get(layer)

    @property
    def secrets(self) -> dict[str, SecretChange]:
        """The secrets that are there."""
        return self._secrets

    def lookup(self, moment: Moment | None) -> Lookup:
        """The layers now (None), or as they were at a moment."""
        return self._heads.get if moment is None else lambda layer: self.store.head(layer, moment)

    def desired(self, key: GatewayKey, moment: Moment | None = None) -> Effective | None:
        """What a gateway should run, or should have run; None when it is not managed."""
        secrets = self._secrets if moment is None else self.store.secrets(moment)
        return effective(key, self.lookup(moment), _numbers(secrets))

    def desired_name(self, key: GatewayKey) -> tuple[int, str] | None:
        """Revision and hash of what a gateway should run."""
        if key not in self._names:
            found = self.desired(key)
            self._names[key] = None if found is None else (found.revision, found.hash())
        return self._names[key]

    def secret_values(self, desired: Effective) -> dict[str, bytes]:
        """The values of the secrets a document means. Raises SecretError."""
        found = {name: self.store.secret(name) for name in desired.secrets}
        return {name: value for name, value in found.items() if value is not None}

    def propose(self, layer: LayerName, tree: Tree, document: Document, base: int | None = None) -> Proposal:
        """A change of a layer to another tree. base: the revision it was made from, None: the one that holds."""
        head = self._heads.get(layer)
        before = head.tree if head else {}
        draft = Revision(0, layer, tree, "", "", self._now())
        managed = set(self.gateways())
        if layer.kind is Kind.GATEWAY:
            managed.add(layer.key)
        both = {*touched(layer, managed, self._heads.get), *touched(layer, managed, self.drafted(draft))}
        number = (head.number if head else 0) if base is None else base
        proposal = Proposal(draft, number, document, diff(before, tree), sorted(both))
        if not both:
            proposal.problems += check_layer(draft, document)
        return proposal

    async def impacts(self, proposal: Proposal) -> AsyncIterator[Impact]:
        """What a proposal would do to each gateway that it touches; others have their turn in between."""
        for count, key in enumerate(proposal.touched, 1):
            impact = self._impact(proposal, key)
            proposal.problems += impact.verdict.problems
            yield impact
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)

    def store_proposal(self, proposal: Proposal, author: str, reason: str) -> Revision:
        """Stores it, and tells whoever is to deliver it. Raises ConflictError."""
        draft = proposal.draft
        stored = self.store.append(draft.layer, draft.tree, author, reason, self._now(), proposal.base)
        self._heads[draft.layer] = stored
        self._tell(proposal.touched)
        return stored

    def set_secret(self, name: str, value: bytes | None, author: str, reason: str) -> SecretChange:
        """Keeps a secret, or forgets it (None)."""
        change = self.store.set_secret(name, value, author, reason, self._now())
        self._secrets = self.store.secrets()
        self._tell([key for key in self.gateways() if self._means(key, name)])
        return change

    def check(self, key: GatewayKey) -> Verdict | None:
        """Whether a gateway's document is good; None when it is not managed."""
        found = self.desired(key)
        return None if found is None else check(found, self._secrets.keys())

    def drafted(self, draft: Revision) -> Lookup:
        """The layers as they would be with a draft."""
        return with_draft(self._heads.get, draft)

    def held(self, layer: LayerName) -> Revision | None:
        """The revision of a layer that holds, as memory has it."""
        return self._heads.get(layer)

    def _impact(self, proposal: Proposal, key: GatewayKey) -> Impact:
        secrets = _numbers(self._secrets)
        before = effective(key, self._heads.get, secrets)
        after = effective(key, self.drafted(proposal.draft), secrets)
        old, new = (found.merged.tree if found else {} for found in (before, after))
        verdict = check(after, self._secrets.keys(), proposal.document) if after else Verdict()
        if after and (size := len(after.packed())) > limits.MAX_DOCUMENT_BYTES:
            told = f"the document of {key} has {size} bytes, at most {limits.MAX_DOCUMENT_BYTES}: split the gateway"
            verdict.problems.append(proposal.document.problem("", told))
        return Impact(key, diff(old, new), meter_impact(old, new), verdict)

    def _means(self, key: GatewayKey, secret: str) -> bool:
        found = effective(key, self._heads.get, {secret: 1})
        return found is not None and secret in found.secrets

    def _tell(self, keys: list[GatewayKey]) -> None:
        for key in keys:
            self._names.pop(key, None)
        self.on_change(keys)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _numbers(secrets: dict[str, SecretChange]) -> dict[str, int]:
    return {name: change.number for name, change in secrets.items()}
