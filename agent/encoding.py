"""Encoding: how what waits in the buffer is said to the broker. What is stored is the same for all of them.

A new one is a class here (or beside) and a name in `of`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from parkfleet.agent.live_chain import LiveChain
from parkfleet.agent.room import READINGS_AT_ONCE
from parkfleet.agent.store import StoredBatch
from parkfleet.protocols.config import EncodingName
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.envelope import REPLAYED, THINNED, Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.scans import pack_scans, pack_series
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.topics import (
    BATCH_CONTENT_TYPE,
    SCANS_CONTENT_TYPE,
    SCHEMA_CONTENT_TYPE,
    SERIES_CONTENT_TYPE,
    GatewayTopics,
)

log = logging.getLogger(__name__)

#: Gets a packed schema by its id; empty when it is not known.
FindSchema = Callable[[int], Awaitable[bytes]]
#: Schemas that are kept unpacked: one is in use, and a thinned one or an older one beside it.
MOST_SCHEMAS: Final = 4
#: A batch of more readings is put into JSON beside the event loop: it takes some microseconds a reading.
BESIDE: Final = 2000
#: Readings of what is joined while it waits, at most: a message in JSON has some thirty bytes for each, and on a slow
#: link (64 kbit/s) a fresh batch is not to wait for it longer than 4 s.
JOINED_READINGS: Final = {"compact": READINGS_AT_ONCE, "json": 1000}


class Publication(NamedTuple):
    """A message that is ready to go."""

    topic: str
    payload: bytes
    content_type: str


class Encoding(Protocol):
    """One connection's: made anew with each."""

    def schema_topic(self, schema_id: int) -> str:
        """Where the schema's message is retained."""

    def schema(self, schema_id: int, packed: bytes) -> Publication:
        """The retained message that a batch of this schema needs."""

    async def batch(self, batch: StoredBatch, *, live: bool, replayed: bool) -> Publication:
        """The message of a batch. live: the next one of those that are sent as they come. Raises PayloadError."""

    def broken(self) -> None:
        """Something that was sent has not arrived, or will not be sent."""


class CompactEncoding:
    """Envelopes as they are stored, live ones chained where that is wanted."""

    def __init__(self, topics: GatewayTopics, find: FindSchema, key_every: int) -> None:
        self._topics = topics
        self._find = find
        self._chain = LiveChain(key_every)

    def schema_topic(self, schema_id: int) -> str:
        return self._topics.schema(schema_id)

    def schema(self, schema_id: int, packed: bytes) -> Publication:
        return Publication(self.schema_topic(schema_id), packed, SCHEMA_CONTENT_TYPE)

    async def batch(self, batch: StoredBatch, *, live: bool, replayed: bool) -> Publication:
        codec, body = await self._chained(batch) if live else (batch.codec, batch.body)
        envelope = _envelope(batch, replayed, codec, body)
        return Publication(self._topics.batch, envelope.pack(), BATCH_CONTENT_TYPE)

    def broken(self) -> None:
        self._chain.broken()

    async def _chained(self, batch: StoredBatch) -> tuple[int, bytes]:
        """(codec, body)."""
        if not self._chain.wants(batch):
            return batch.codec, batch.body
        try:
            if not self._chain.knows(batch.schema_id):
                self._chain.learn(batch.schema_id, await self._find(batch.schema_id))
            return self._chain.coded(batch)
        except PayloadError as error:  # damaged on the disk: the consumer is to see it as it is
            log.error("batch %d of epoch %d cannot be coded anew: %s", batch.seq, batch.epoch, error)
            self._chain.broken()
            return batch.codec, batch.body


class JsonEncoding:
    """One object a meter scan."""

    def __init__(self, topics: GatewayTopics, find: FindSchema) -> None:
        self._topics = topics
        self._find = find
        self._schemas: dict[int, Schema] = {}

    def schema_topic(self, schema_id: int) -> str:
        return self._topics.series(schema_id)

    def schema(self, schema_id: int, packed: bytes) -> Publication:
        return Publication(self.schema_topic(schema_id), pack_series(Schema.unpack(packed)), SERIES_CONTENT_TYPE)

    async def batch(self, batch: StoredBatch, *, live: bool, replayed: bool) -> Publication:
        schema = await self._schema(batch.schema_id)
        envelope = _envelope(batch, replayed, batch.codec, batch.body)

        def packed() -> bytes:
            return pack_scans(schema, envelope, decode(batch.codec, schema, batch.body))

        payload = await asyncio.to_thread(packed) if batch.readings > BESIDE else packed()
        return Publication(self._topics.json, payload, SCANS_CONTENT_TYPE)

    def broken(self) -> None:
        """Each message stands alone."""

    async def _schema(self, schema_id: int) -> Schema:
        if schema_id not in self._schemas:
            self._schemas[schema_id] = Schema.unpack(await self._find(schema_id))
            while len(self._schemas) > MOST_SCHEMAS:
                del self._schemas[next(iter(self._schemas))]
        return self._schemas[schema_id]


def encoding_of(name: EncodingName, topics: GatewayTopics, find: FindSchema, key_every: int) -> Encoding:
    """The encoding that a gateway is configured for."""
    return JsonEncoding(topics, find) if name == "json" else CompactEncoding(topics, find, key_every)


def _envelope(batch: StoredBatch, replayed: bool, codec: int, body: bytes) -> Envelope:
    flags = (REPLAYED if replayed else 0) | (THINNED if batch.level else 0)
    return Envelope(codec, batch.schema_id, batch.epoch, batch.seq, batch.count, flags, body, batch.parts)
