"""ConfigFleet: the fleet's configuration while the controller lives: the store's newest revisions, ready in memory.

A change is proposed first: what it would do to each gateway. It is stored only when no gateway that it touches would
get a document with mistakes in it that it had not before. Changes, this replica's own too, come into memory in the
order of their numbers, by catch_up() alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from parkfleet.controller.config_check import Verdict, check, check_layer
from parkfleet.controller.config_diff import Change, MeterImpact, diff, meter_impact
from parkfleet.controller.config_layers import (
    Effective,
    Kind,
    LayerName,
    Lookup,
    Revision,
    effective,
    layers_of,
    touched,
    with_draft,
)
from parkfleet.controller.config_merge import Tree
from parkfleet.controller.config_store import AnyChange, ConfigStore, Moment, SecretChange
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
    """One controller's configuration, made by load(). on_change must not block."""

    def __init__(self, store: ConfigStore, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self._clock = clock
        self._number = 0  # of the last change that is in memory
        self._heads: dict[LayerName, Revision] = {}
        self._secrets: dict[str, SecretChange] = {}
        self._boxes: dict[str, tuple[int, bytes]] = {}  # sealed secrets, with the number of their change
        self._catching_up = asyncio.Lock()
        # Of desired documents, as far as they were asked for.
        self._names: dict[GatewayKey, tuple[int, str] | None] = {}
        self.on_change: OnChange = lambda _: None

    @classmethod
    async def load(cls, store: ConfigStore, clock: Callable[[], float] = time.time) -> Self:
        """With what the store has."""
        fleet = cls(store, clock)
        fleet._heads = {revision.layer: revision for revision in await store.heads()}
        fleet._secrets = await store.secrets()
        known: list[AnyChange] = [*fleet._heads.values(), *fleet._secrets.values()]
        fleet._number = max((change.number for change in known), default=0)
        return fleet

    async def catch_up(self) -> None:
        """Takes the changes that the store has and memory has not, whoever made them, and tells of them."""
        async with self._catching_up:
            for change in await self.store.changes_after(self._number):
                keys = self._taken(change)
                self._number = change.number
                for key in keys:
                    self._names.pop(key, None)
                self.on_change(keys)
                await asyncio.sleep(0)

    def gateways(self) -> Iterator[GatewayKey]:
        """All that are managed, in no order."""
        return (head.layer.key for head in self._heads.values() if head.layer.kind is Kind.GATEWAY and head.tree)

    def heads(self) -> list[Revision]:
        """The newest revision of every layer, by name."""
        return sorted(self._heads.values(), key=lambda head: str(head.layer))

    async def head(self, layer: LayerName, moment: Moment | None = None) -> Revision | None:
        """The revision of a layer that holds, or held at a moment."""
        return self._heads.get(layer) if moment is None else await self.store.head(layer, moment)

    @property
    def secrets(self) -> dict[str, SecretChange]:
        """The secrets that are there."""
        return self._secrets

    def desired(self, key: GatewayKey) -> Effective | None:
        """What a gateway should run; None when it is not managed."""
        return effective(key, self._heads.get, _numbers(self._secrets))

    async def desired_at(self, key: GatewayKey, moment: Moment | None) -> Effective | None:
        """What a gateway should have run at a moment (None: now)."""
        if moment is None:
            return self.desired(key)
        known: dict[LayerName, Revision | None] = {}
        while missing := _missing(key, known):
            known.update({layer: await self.store.head(layer, moment) for layer in missing})
        return effective(key, known.get, _numbers(await self.store.secrets(moment)))

    def desired_name(self, key: GatewayKey) -> tuple[int, str] | None:
        """Revision and hash of what a gateway should run."""
        if key not in self._names:
            found = self.desired(key)
            self._names[key] = None if found is None else (found.revision, found.hash())
        return self._names[key]

    async def secret_values(self, desired: Effective) -> dict[str, bytes]:
        """The values of the secrets a document means. Raises SecretError."""
        values = {}
        for name, number in desired.secrets.items():
            held, box = self._boxes.get(name, (0, None))
            if held != number:
                box = await self.store.sealed(name)
                if box is not None:
                    self._boxes[name] = (number, box)
            if box is not None:
                values[name] = self.store.unsealed(name, box)
        return values

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

    async def store_proposal(self, proposal: Proposal, author: str, reason: str) -> Revision:
        """Stores it, and tells whoever is to deliver it. Raises ConflictError."""
        draft = proposal.draft
        stored = await self.store.append(draft.layer, draft.tree, author, reason, self._now(), proposal.base)
        await self.catch_up()
        return stored

    async def set_secret(self, name: str, value: bytes | None, author: str, reason: str) -> SecretChange:
        """Keeps a secret, or forgets it (None)."""
        change = await self.store.set_secret(name, value, author, reason, self._now())
        await self.catch_up()
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

    def _taken(self, change: AnyChange) -> list[GatewayKey]:
        """Takes a change into memory; the gateways that it touches."""
        if isinstance(change, SecretChange):
            self._boxes.pop(change.name, None)
            secrets = {name: one for name, one in self._secrets.items() if name != change.name}
            self._secrets = {**secrets, change.name: change} if change.present else secrets
            return [key for key in self.gateways() if self._means(key, change.name)]
        managed = set(self.gateways())
        if change.layer.kind is Kind.GATEWAY:
            managed.add(change.layer.key)
        before = set(touched(change.layer, managed, self._heads.get))
        self._heads[change.layer] = change
        return sorted(before.union(touched(change.layer, managed, self._heads.get)))

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _missing(key: GatewayKey, known: Mapping[LayerName, Revision | None]) -> set[LayerName]:
    """The layers that have to be known to say, or to go on asking, what holds for a gateway."""
    missing = set()

    def lookup(layer: LayerName) -> Revision | None:
        if layer not in known:
            missing.add(layer)
        return known.get(layer)

    layers_of(key, lookup)
    return missing


def _numbers(secrets: dict[str, SecretChange]) -> dict[str, int]:
    return {name: change.number for name, change in secrets.items()}
