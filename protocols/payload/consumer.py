"""Consumer: what an upstream platform does with a gateway's messages, without any network.

Feeds on (topic, payload) in the order in which they arrive, and says what each one was: a batch with its rows, a
duplicate, an event. A batch counts as taken once by (gateway, epoch, seq): a memory says which, over restarts and over
several consumers (memory.py). Gaps that stay open are told, with the request that asks the gateway for a replay.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from parkfleet.protocols.payload.chain import CHAINED, KEY, Decoder
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet
from parkfleet.protocols.payload.memory import MAX_DOUBLINGS, Memory, Range, Source, SqliteMemory
from parkfleet.protocols.payload.parts import rows_of, unpack_parts
from parkfleet.protocols.payload.request import MAX_RANGES as MAX_ASKED
from parkfleet.protocols.payload.request import REPLAY_EVENT, ReplayRequest, unpack_answer
from parkfleet.protocols.payload.schema import Schema, schema_id
from parkfleet.protocols.payload.series import Rows, Value, has_value
from parkfleet.protocols.payload.topics import (
    Event,
    GatewayTopics,
    Status,
    Topic,
    parse_topic,
    unpack_event,
    unpack_status,
)
from parkfleet.protocols.quality import Quality, quality_name

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


class Reading(NamedTuple):
    """One value of one series at one time."""

    park: str
    gateway: str
    meter: str
    point: str
    unit: str
    ts: int  # ms UTC
    value: Value  # None where the quality says that there is none
    quality: str
    epoch: int
    seq: int  # of the (first) batch it came in


def reading_json(reading: Reading) -> str:
    """A reading as one JSON object; a value that JSON has no word for (NaN, infinity) is null."""
    if isinstance(reading.value, int) and not -(2**63) <= reading.value < 2**64:
        reading = reading._replace(value=float(reading.value))  # a scaled 64-bit number: more than JSON readers take
    return msgspec.json.encode(reading._asdict()).decode()


@dataclass(frozen=True)
class BatchDecoded:
    """A batch taken for the first time; of a joined one that was known in part, the rows of what was not."""

    topic: Topic
    envelope: Envelope
    schema: Schema
    rows: list[Rows]
    seqs: tuple[Range, ...]  # what it counts for

    @property
    def source(self) -> Source:
        """Whose seqs these are."""
        return Source(self.topic.park, self.topic.gateway, self.envelope.epoch)

    def readings(self, *, held: bool = False) -> Iterator[Reading]:
        """Its readings, meter by meter, scan by scan. held: also those that a deadband held back."""
        for block in self.rows:
            yield from self._of_block(block, held)

    def _of_block(self, block: Rows, held: bool) -> Iterator[Reading]:
        entry = self.schema.entries[block.entry]
        epoch, seq = self.envelope.epoch, self.envelope.seq_first
        park, gateway, meter = self.topic.park, self.topic.gateway, entry.meter
        readings = zip(block.quality, block.slots, strict=True)
        texts = iter(block.texts)
        for ts in block.ts:
            for column in entry.columns:
                code, slot = next(readings)
                text = next(texts) if column.type == "string" else None
                if code == Quality.HELD and not held:
                    continue
                value = column.value(slot, text) if has_value(code) else None
                name = quality_name(code)
                yield Reading(park, gateway, meter, column.point, column.unit, ts, value, name, epoch, seq)


@dataclass(frozen=True)
class Duplicate:
    """A batch that was taken before: dropped whole."""

    topic: Topic
    envelope: Envelope


@dataclass(frozen=True)
class GapSeen:
    """Batches have not come, though later ones did and time has passed. Publish `request` to `request_topic`.

    Told again, after pauses that double, while nothing comes.
    """

    source: Source
    gaps: tuple[Range, ...]
    request: bytes

    @property
    def request_topic(self) -> str:
        return GatewayTopics(self.source.park, self.source.gateway).request


@dataclass(frozen=True)
class GapLost:
    """The gateway says that it has these batches no more."""

    source: Source
    gaps: tuple[Range, ...]


@dataclass(frozen=True)
class SchemaWanted:
    """Batches wait for a schema that does not come. Publish `request` to `request_topic`."""

    park: str
    gateway: str
    schema_id: int
    request: bytes

    @property
    def request_topic(self) -> str:
        return GatewayTopics(self.park, self.gateway).request


@dataclass(frozen=True)
class EventSeen:
    """A gateway's event."""

    topic: Topic
    event: Event


@dataclass(frozen=True)
class StatusSeen:
    """A gateway's word about itself."""

    topic: Topic
    status: Status


@dataclass(frozen=True)
class Rejected:
    """A message that cannot be used, and why."""

    topic: str
    reason: str


Output = BatchDecoded | Duplicate | GapSeen | GapLost | SchemaWanted | EventSeen | StatusSeen | Rejected


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
    waiting: dict[int, _Queue] = field(default_factory=dict)  # by schema id
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
            for schema, queue in gateway.waiting.items():
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
            case "schema":
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
        """A schema: remembered, and the batches that waited for it come out."""
        if not payload:
            return []  # a retained schema was cleared
        if schema_id(payload) != topic.schema_id:
            raise PayloadError("the schema's bytes do not have the id of its topic")
        gateway.schemas[topic.schema_id] = Schema.unpack(payload)
        while len(gateway.schemas) > MAX_SCHEMAS:
            del gateway.schemas[next(iter(gateway.schemas))]
        outputs: list[Output] = []
        queue = gateway.waiting.pop(topic.schema_id, _Queue(0.0))
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
        if envelope.codec != CHAINED and envelope.schema_id not in gateway.schemas:
            return self._wait(gateway, topic, envelope)
        schema, rows = _decoded(gateway, envelope)  # before it counts as taken: a damaged one may come again
        if fresh != [(first, last)]:
            rows = _in_part(envelope, rows, fresh)
        if self._confirm:
            for part in fresh:
                gateway.held.setdefault(envelope.epoch, IntervalSet()).add(*part)
        else:
            self._memory.take(source, fresh, self._clock())
        return [BatchDecoded(topic, envelope, schema, rows, tuple(fresh))]

    def _wait(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        size = len(envelope.body)
        queue = gateway.waiting.setdefault(envelope.schema_id, _Queue(self._clock())).batches
        if any((e.epoch, e.seq_first, e.seq_count) == _name(envelope) for _, e in queue):
            return [Duplicate(topic, envelope)]
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise PayloadError(f"its schema {envelope.schema_id:08x} is not known, and too many batches wait already")
        queue.append((topic, envelope))
        self._waiting += 1
        self._waiting_bytes += size
        return []


def _decoded(gateway: _Gateway, envelope: Envelope) -> tuple[Schema, list[Rows]]:
    """Raises PayloadError; ChainError for a batch that continues one which is missing: the gap's replay heals it."""
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
    if not envelope.parts:
        raise PayloadError(f"batches {envelope.seq_first} to {envelope.seq_last} are known in part, and have no parts")
    runs = unpack_parts(envelope.parts, envelope.seq_count, rows)
    ranges = [(first - envelope.seq_first, last - envelope.seq_first) for first, last in fresh]
    kept = [rows_of(block, own, ranges) for block, own in zip(rows, runs, strict=True)]
    return [block for block in kept if block.ts]
