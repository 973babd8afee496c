"""Consumer: what an upstream platform does with a gateway's messages, without any network.

Feeds on (topic, payload) in the order in which they arrive, and says what each one was: a batch with its rows, a
duplicate, an event. A batch counts as taken once by (gateway, epoch, seq): a memory says which, over restarts and over
several consumers (memory.py). Gaps that stay open are told, with the request that asks the gateway for a replay.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from parkfleet.protocols.payload.chain import CHAINED, KEY, Decoder
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.errors import ChainError, PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet
from parkfleet.protocols.payload.memory import MAX_DOUBLINGS, Memory, Range, Source, SqliteMemory
from parkfleet.protocols.payload.outputs import (
    BatchDecoded,
    Duplicate,
    EventSeen,
    GapLost,
    GapSeen,
    Output,
    Reading,
    Rejected,
    ScansDecoded,
    SchemaWanted,
    StatusSeen,
    reading_json,
)
from parkfleet.protocols.payload.parts import rows_of, unpack_parts
from parkfleet.protocols.payload.request import MAX_RANGES as MAX_ASKED
from parkfleet.protocols.payload.request import REPLAY_EVENT, ReplayRequest, unpack_answer
from parkfleet.protocols.payload.scans import JSON, unpack_header, unpack_scans, unpack_units
from parkfleet.protocols.payload.schema import Schema, schema_id
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.payload.topics import Event, Topic, parse_topic, unpack_event, unpack_status

__all__ = [
    "BatchDecoded",
    "Consumer",
    "Duplicate",
    "EventSeen",
    "GapLost",
    "GapSeen",
    "Output",
    "Reading",
    "Rejected",
    "ScansDecoded",
    "SchemaWanted",
    "StatusSeen",
    "reading_json",
]

#: Batches that wait for their schema, over all gateways, and their bytes: further ones are rejected, and so told.
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
#: Gateways remembered: ten regions. Who may publish as which gateway is the broker's business.
MAX_GATEWAYS: Final = 100_000
#: Epochs of a gateway of which chains are remembered: a megabyte and more where batches are chained.
MAX_DECODERS: Final = 2
#: A gap is told when nothing has come for it in so long: what waits at the gateway comes beside fresh batches. Seconds.
GAP_AGE_S: Final = 30.0
#: So often, at most, `feed` looks for old gaps by itself. Seconds.
LOOK_S: Final = 1.0
#: Schemas remembered for a gateway: it has one, and one more after each change of its configuration.
MAX_SCHEMAS: Final = 64


@dataclass
class _Queue:
    """Batches that wait for one schema."""

    since: float
    batches: list[tuple[Topic, Envelope]] = field(default_factory=list)
    asks: int = 0


@dataclass
class _Gateway:
    """What is remembered of one gateway while we run."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    units: dict[int, Mapping[tuple[str, str], str]] = field(default_factory=dict)  # by schema id, where it sends JSON
    waiting: dict[tuple[bool, int], _Queue] = field(default_factory=dict)  # by whether it is JSON, and schema id
    decoders: dict[int, Decoder] = field(default_factory=dict)  # by epoch
    held: dict[int, IntervalSet] = field(default_factory=dict)  # by epoch: given out, not yet confirmed


class Consumer:
    """One consumer.

    memory: which batches it has; default: one that lives no longer than the consumer. Several consumers of one shared
    subscription share a memory.
    confirm: False: a batch counts as taken when `feed` returns it. True: when `stored` is called for it, after the
    platform has stored its rows; what was not confirmed when a consumer ends is a gap, and comes again.
    gap_age: seconds; clock: seconds since 1970, as all that share a memory see them.
    """

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        confirm: bool = False,
        gap_age: float = GAP_AGE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory: Memory = memory or SqliteMemory()
        self._confirm = confirm
        self._gap_age = gap_age
        self._clock = clock
        self._looked = clock()
        self._gateways: dict[tuple[str, str], _Gateway] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    def feed(self, topic: str, payload: bytes) -> list[Output]:
        """What a message was, and what it set free. Never raises for what a peer may send."""
        parsed = parse_topic(topic)
        if parsed is None:
            return []
        try:
            outputs = self._fed(self._gateway(parsed), parsed, payload)
        except PayloadError as error:
            outputs = [Rejected(topic, str(error))]
        if self._clock() - self._looked >= LOOK_S:
            outputs += self.due()
        return outputs

    def due(self) -> list[Output]:
        """Gaps and schemas that have been missing for long enough to be asked for. Call it now and then."""
        now = self._looked = self._clock()
        outputs: list[Output] = []
        for source, gaps in self._memory.overdue(self._gap_age, now):
            held = self._gateway_of(source.park, source.gateway).held.get(source.epoch, IntervalSet())
            told = tuple(part for first, last in gaps for part in held.missing(first, last))
            if told:
                request = ReplayRequest(epoch=source.epoch, ranges=list(told[:MAX_ASKED])).pack()
                outputs.append(GapSeen(source, told, request))
        for (park, name), gateway in self._gateways.items():
            for (_, schema), queue in gateway.waiting.items():
                if now - queue.since >= self._gap_age * 2**queue.asks:
                    queue.since, queue.asks = now, min(queue.asks + 1, MAX_DOUBLINGS)
                    request = ReplayRequest(schemas=[f"{schema:08x}"]).pack()
                    outputs.append(SchemaWanted(park, name, schema, request))
        return outputs

    def stored(self, batch: BatchDecoded) -> bool:
        """The platform has stored a batch's rows (see `confirm`). False: another consumer had stored some meanwhile.

        Call it inside the platform's own transaction, after the rows and before its commit; roll back on False.
        """
        fresh = self._memory.take(batch.source, batch.seqs, self._clock())
        self.forget(batch)
        return tuple(fresh) == batch.seqs

    def forget(self, batch: BatchDecoded) -> None:
        """The platform could not store a batch: it is taken when it comes again, as a replay of its gap."""
        held = self._gateway_of(*batch.source[:2]).held
        ranges = held.get(batch.source.epoch, IntervalSet())
        for first, last in batch.seqs:
            ranges.remove(first, last)
        if not len(ranges):
            held.pop(batch.source.epoch, None)

    def _fed(self, gateway: _Gateway, topic: Topic, payload: bytes) -> list[Output]:
        match topic.channel:
            case "batch":
                return self._take(gateway, topic, Envelope.unpack(payload))
            case "json":
                return self._take(gateway, topic, unpack_header(payload))
            case "schema" | "series":
                return self._learn(gateway, topic, payload)
            case "event":
                event = unpack_event(payload)
                return [*self._lost(topic, event), EventSeen(topic, event)]
            case "status":
                return [StatusSeen(topic, unpack_status(payload))]
            case "request":
                return []

    def _lost(self, topic: Topic, event: Event) -> list[Output]:
        """A gateway's answer to a request may say that batches are gone."""
        if event.kind != REPLAY_EVENT:
            return []
        answer = unpack_answer(event.data)
        if not answer.gone or not answer.epoch:
            return []
        source = Source(topic.park, topic.gateway, answer.epoch)
        self._memory.give_up(source, answer.gone)
        return [GapLost(source, tuple(answer.gone))]

    def _gateway_of(self, park: str, name: str) -> _Gateway:
        return self._gateways.get((park, name)) or _Gateway()

    def _gateway(self, topic: Topic) -> _Gateway:
        gateway = self._gateways.get((topic.park, topic.gateway))
        if gateway is None:
            if len(self._gateways) >= MAX_GATEWAYS:
                raise PayloadError(f"more than {MAX_GATEWAYS} gateways")
            gateway = self._gateways[topic.park, topic.gateway] = _Gateway()
        return gateway

    def _learn(self, gateway: _Gateway, topic: Topic, payload: bytes) -> list[Output]:
        """A schema, or the series of one: remembered, and the batches that waited for it come out."""
        if not payload:
            return []  # a retained one was cleared
        is_json = topic.channel == "series"
        if is_json:
            gateway.units[topic.schema_id] = unpack_units(payload, topic.schema_id)
        elif schema_id(payload) != topic.schema_id:
            raise PayloadError("the schema's bytes do not have the id of its topic")
        else:
            gateway.schemas[topic.schema_id] = Schema.unpack(payload)
        for known in (gateway.schemas, gateway.units):
            while len(known) > MAX_SCHEMAS:
                del known[next(iter(known))]
        outputs: list[Output] = []
        queue = gateway.waiting.pop((is_json, topic.schema_id), _Queue(0.0))
        for waited, envelope in queue.batches:
            self._waiting -= 1
            self._waiting_bytes -= len(envelope.body)
            try:
                outputs += self._take(gateway, waited, envelope)
            except PayloadError as error:
                outputs.append(Rejected(f"{waited.park}/{waited.gateway}", str(error)))
        return outputs

    def _take(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        first, last = envelope.seq_first, envelope.seq_last
        source = Source(topic.park, topic.gateway, envelope.epoch)
        held = gateway.held.get(envelope.epoch, IntervalSet())
        fresh = [part for low, high in self._memory.missing(source, first, last) for part in held.missing(low, high)]
        if not fresh:
            return [Duplicate(topic, envelope)]
        known = gateway.units if envelope.codec == JSON else gateway.schemas
        if envelope.codec != CHAINED and envelope.schema_id not in known:
            return self._wait(gateway, topic, envelope)
        try:
            batch = _decoded(gateway, topic, envelope, fresh)  # before it counts as taken: a damaged one may come again
        except ChainError:
            self._memory.expect(source, first, last, self._clock())
            raise
        if self._confirm:
            for part in fresh:
                gateway.held.setdefault(envelope.epoch, IntervalSet()).add(*part)
        else:
            self._memory.take(source, fresh, self._clock())
        return [batch]

    def _wait(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        size = len(envelope.body)
        key = envelope.codec == JSON, envelope.schema_id
        queue = gateway.waiting.setdefault(key, _Queue(self._clock())).batches
        if any((e.epoch, e.seq_first, e.seq_count) == _name(envelope) for _, e in queue):
            return [Duplicate(topic, envelope)]
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise PayloadError(f"its schema {envelope.schema_id:08x} is not known, and too many batches wait already")
        queue.append((topic, envelope))
        self._waiting += 1
        self._waiting_bytes += size
        return []


def _decoded(gateway: _Gateway, topic: Topic, envelope: Envelope, fresh: list[Range]) -> BatchDecoded:
    """Of a batch what is fresh. Raises PayloadError."""
    if envelope.codec == JSON:
        scans = unpack_scans(envelope, fresh)
        bare = replace(envelope, body=b"")
        return ScansDecoded(topic, bare, Schema(()), [], tuple(fresh), scans, gateway.units[envelope.schema_id])
    schema, rows = _decoded_rows(gateway, envelope)
    if fresh != [(envelope.seq_first, envelope.seq_last)]:
        rows = _in_part(envelope, rows, fresh)
    return BatchDecoded(topic, envelope, schema, rows, tuple(fresh))


def _decoded_rows(gateway: _Gateway, envelope: Envelope) -> tuple[Schema, list[Rows]]:
    """Raises PayloadError; ChainError for a batch that continues one which is missing: the replay of both heals it."""
    decoder = gateway.decoders.setdefault(envelope.epoch, Decoder())
    while len(gateway.decoders) > MAX_DECODERS:
        del gateway.decoders[next(iter(gateway.decoders))]
    if envelope.codec == CHAINED:
        return decoder.decode_chained(envelope.body)
    schema = gateway.schemas[envelope.schema_id]
    if envelope.codec == KEY:
        return schema, decoder.decode_key(schema, envelope.body)
    return schema, decode(envelope.codec, schema, envelope.body)


def _name(envelope: Envelope) -> tuple[int, int, int]:
    return envelope.epoch, envelope.seq_first, envelope.seq_count


def _in_part(envelope: Envelope, rows: list[Rows], fresh: list[Range]) -> list[Rows]:
    """The rows of a joined batch that some of its seqs gave. Raises PayloadError when it does not tell which."""
    if rows and not envelope.parts:
        raise PayloadError(f"batches {envelope.seq_first} to {envelope.seq_last} are known in part, and have no parts")
    runs = unpack_parts(envelope.parts, envelope.seq_count, rows)
    ranges = [(first - envelope.seq_first, last - envelope.seq_first) for first, last in fresh]
    kept = [rows_of(block, own, ranges) for block, own in zip(rows, runs, strict=True)]
    return [block for block in kept if block.ts]
