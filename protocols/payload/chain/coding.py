"""Coding: codec 2 (key batches, which decode alone) and codec 3 (chained ones, which continue the batch before).

A chained body begins with the 32-bit link of the batch it continues. A batch's link is the CRC-32 of its coded bytes,
begun with the link of the batch before it; a key's begins with the CRC-32 of its schema's id, four bytes big-endian.
What both sides know after a batch follows from just these bytes, so equal links are equal memories.
"""

import contextlib
import os
import zlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final, Protocol, TypeVar

from parkfleet.protocols.payload.chain.prior import Prior, built_in
from parkfleet.protocols.payload.envelope import CHAINED, LINK_BYTES
from parkfleet.protocols.payload.errors import ChainError, PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows

_T = TypeVar("_T")

KEY: Final = 2
#: Of a primer: what pure Python decodes in 3 s. One of its batches more is decoded before it shows.
MAX_PRIMER_READINGS: Final = 65_536
#: Schemas whose primer is kept decoded: 2 MB each, and a kilobyte for each of their columns.
_PRIMED_KEPT: Final = 32
#: Chains and keys that a decoder keeps: the live one, and one that is being replayed.
_KEPT: Final = 2


class Chain(Protocol):
    """One side's memory: pure.Chain or native.Chain."""

    def encode(self, rows: Sequence[Rows], last: bool = False) -> bytes: ...
    def decode(self, body: bytes, last: bool = False) -> list[Rows]: ...
    def pause(self) -> None: ...
    def copy(self) -> "Chain": ...


def begin_chain(schema: Schema) -> Chain:
    """The memory before a key batch; compiled where it can be. Raises PayloadError for a primer that is none."""
    begin = _implementation()
    return primed(begin, schema).copy() if schema.primer else begin(schema, built_in())


class Begin(Protocol):
    def __call__(self, schema: Schema, prior: Prior) -> Chain: ...
    def __hash__(self) -> int: ...


@lru_cache(maxsize=_PRIMED_KEPT)
def primed(begin: Begin, schema: Schema) -> Chain:
    """What the schema's primer teaches; to be copied. Raises PayloadError."""
    chain = prime(begin(schema, built_in()), schema.primer)
    built_in.cache_clear()  # 2 MB that a gateway with a primer has no more use for; others read it again
    return chain


def prime(chain: Chain, primer: Sequence[bytes]) -> Chain:
    """The chain, with what a primer teaches. Raises PayloadError."""
    readings = 0
    for body in primer:
        readings += sum(max(len(block.quality), len(block.ts)) for block in chain.decode(body))
        if readings > MAX_PRIMER_READINGS:
            raise PayloadError(f"the schema's primer has more than {MAX_PRIMER_READINGS} readings")
        chain.pause()
    return chain


def make_primer(chain: Chain, batches: Sequence[Sequence[Rows]]) -> tuple[bytes, ...]:
    """A primer of these batches; the chain knows it then. Raises ValueError for rows that have no sense."""
    primer = []
    for rows in batches:
        primer.append(chain.encode(rows))
        chain.pause()
    return tuple(primer)


@cache
def _implementation() -> Begin:
    if os.environ.get("PARKFLEET_PURE") != "1":
        with contextlib.suppress(ImportError):  # not compiled: a consumer needs no compiler
            from parkfleet.protocols.payload.chain import native

            return native.Chain
    from parkfleet.protocols.payload.chain import pure

    return pure.Chain


def first_link(schema: Schema, coded: bytes) -> int:
    """The link of a key batch."""
    return zlib.crc32(coded, zlib.crc32(schema.id.to_bytes(4, "big")))


class Encoder:
    """Batches of one schema, in the order in which a consumer shall decode them."""

    def __init__(self, schema: Schema, key_every: int = 1) -> None:
        """key_every: 1, every batch is a key; n, every n-th one, the others are chained."""
        if key_every < 1:
            raise ValueError("key_every is 1 or more")
        self._schema = schema
        self._key_every = key_every
        self._chain: Chain | None = None
        self._link = 0
        self._length = 0  # batches since the key, with it

    def break_chain(self) -> None:
        """The next batch is a key: after a reconnect, or when a batch was lost, dropped or not stored."""
        self._chain = None

    def encode(self, rows: Sequence[Rows]) -> tuple[int, bytes]:
        """(KEY or CHAINED, body). Raises ValueError for rows that have no sense; the next batch is a key then."""
        chain, self._chain = self._chain, None  # until it is coded: half a batch is no memory
        if chain is None or self._length >= self._key_every:
            chain = begin_chain(self._schema)
            body = chain.encode(rows)
            codec, self._link, self._length = KEY, first_link(self._schema, body), 1
        else:
            coded = chain.encode(rows)
            codec, body = CHAINED, self._link.to_bytes(LINK_BYTES, "big") + coded
            self._link, self._length = zlib.crc32(coded, self._link), self._length + 1
        if self._key_every > 1:
            self._chain = chain
        return codec, body


class Decoder:
    """Batches of one gateway's epoch. Keys cost no memory but their bytes until a chained batch continues them."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[Schema, bytes]] = {}  # by link
        self._chains: dict[int, tuple[Schema, Chain]] = {}

    def decode_key(self, schema: Schema, body: bytes) -> list[Rows]:
        """The rows of a key batch. Raises PayloadError."""
        rows = begin_chain(schema).decode(body, last=True)
        _keep(self._keys, first_link(schema, body), (schema, body))
        return rows

    def decode_chained(self, body: bytes) -> tuple[Schema, list[Rows]]:
        """The schema and the rows of a chained batch.

        Raises ChainError when the batch that it continues has not come, or another has since: it may be tried again
        after that one; otherwise the next key begins anew. Raises PayloadError for a body that is none.
        """
        if len(body) < LINK_BYTES:
            raise PayloadError("a chained batch begins with the link of the batch before")
        link, coded = int.from_bytes(body[:LINK_BYTES], "big"), body[LINK_BYTES:]
        schema, chain = self._chains.pop(link) if link in self._chains else self._from_key(link)
        rows = chain.decode(coded)  # if it raises the chain is gone: it knows half a batch
        _keep(self._chains, zlib.crc32(coded, link), (schema, chain))
        return schema, rows

    def _from_key(self, link: int) -> tuple[Schema, Chain]:
        if link not in self._keys:
            raise ChainError(f"continues batch state {link:08x}, which is not known here: one before it is missing")
        schema, body = self._keys[link]
        chain = begin_chain(schema)
        chain.decode(body)
        return schema, chain


def _keep(known: dict[int, _T], key: int, value: _T) -> None:
    """Adds, and forgets the oldest of too many."""
    known.pop(key, None)
    known[key] = value
    while len(known) > _KEPT:
        del known[next(iter(known))]
