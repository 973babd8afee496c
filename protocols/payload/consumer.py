"""Consumer: what an upstream platform does with a gateway's messages, without any I/O.

Feeds on (topic, payload) in the order in which they arrive, and says what each one was: a batch with its rows, a
duplicate, a gap that became visible, an event. A batch counts as taken once by (gateway, epoch, seq).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet
from parkfleet.protocols.payload.schema import Schema, schema_id
from parkfleet.protocols.payload.series import Rows, Value, has_value
from parkfleet.protocols.payload.topics import Event, Status, Topic, parse_topic, unpack_event, unpack_status
from parkfleet.protocols.quality import quality_name

#: Batches that wait for their schema, over all gateways, and their bytes: further ones are rejected, and so told.
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
#: Gateways remembered: ten regions. Who may publish as which gateway is the broker's business.
MAX_GATEWAYS: Final = 100_000
#: Epochs remembered for a gateway, each a buffer that it lost or was given: the oldest is forgotten.
MAX_EPOCHS: Final = 256
#: Gaps remembered in an epoch: with more the gateway counts in no order, and is rejected.
MAX_RANGES: Final = 65_536
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
    """A batch taken for the first time."""

    topic: Topic
    envelope: Envelope
    schema: Schema
    rows: list[Rows]

    def readings(self) -> Iterator[Reading]:
        """Its readings, meter by meter, scan by scan."""
        for block in self.rows:
            yield from self._of_block(block)

    def _of_block(self, block: Rows) -> Iterator[Reading]:
        entry = self.schema.entries[block.entry]
        epoch, seq = self.envelope.epoch, self.envelope.seq_first
        park, gateway, meter = self.topic.park, self.topic.gateway, entry.meter
        readings = zip(block.quality, block.slots, strict=True)
        texts = iter(block.texts)
        for ts in block.ts:
            for column in entry.columns:
                code, slot = next(readings)
                text = next(texts) if column.type == "string" else None
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
    """Batches first to last have not come, though a later one has: told once."""

    topic: Topic
    epoch: int
    first: int
    last: int


@dataclass(frozen=True)
class GapFilled:
    """Batches of a gap that was told have come after all."""

    topic: Topic
    epoch: int
    first: int
    last: int


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


Output = BatchDecoded | Duplicate | GapSeen | GapFilled | EventSeen | StatusSeen | Rejected


@dataclass
class _Epoch:
    """What is remembered of one epoch. Every seq from base to highest that is not taken was told as a gap."""

    base: int  # the first seq that came: what was before is not ours to miss
    highest: int
    taken: IntervalSet = field(default_factory=IntervalSet)


@dataclass
class _Gateway:
    """What is remembered of one gateway."""

    epochs: dict[int, _Epoch] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    waiting: dict[int, list[tuple[Topic, Envelope]]] = field(default_factory=dict)  # by schema id


class Consumer:
    """The memory of one consumer: which batches it has, and the schemas it needs."""

    def __init__(self) -> None:
        self._gateways: dict[tuple[str, str], _Gateway] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    def feed(self, topic: str, payload: bytes) -> list[Output]:
        """What a message was, and what it set free. Never raises for what a peer may send."""
        parsed = parse_topic(topic)
        if parsed is None:
            return []
        try:
            gateway = self._gateway(parsed)
            match parsed.channel:
                case "batch":
                    return self._take(gateway, parsed, Envelope.unpack(payload))
                case "schema":
                    return self._learn(gateway, parsed, payload)
                case "event":
                    return [EventSeen(parsed, unpack_event(payload))]
                case "status":
                    return [StatusSeen(parsed, unpack_status(payload))]
        except PayloadError as error:
            return [Rejected(topic, str(error))]

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
        for waited, envelope in gateway.waiting.pop(topic.schema_id, []):
            self._waiting -= 1
            self._waiting_bytes -= len(envelope.body)
            try:
                outputs += self._take(gateway, waited, envelope)
            except PayloadError as error:
                outputs.append(Rejected(f"{waited.park}/{waited.gateway}", str(error)))
        return outputs

    def _take(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        first, last = envelope.seq_first, envelope.seq_last
        known = gateway.epochs.get(envelope.epoch)
        if known is not None:
            missing = known.taken.missing(first, last)
            if not missing:
                return [Duplicate(topic, envelope)]
            if missing != [(first, last)]:
                raise PayloadError(f"batches {first} to {last} are known in part")
            if len(known.taken) >= MAX_RANGES:
                raise PayloadError(f"more than {MAX_RANGES} gaps in one epoch")
        schema = gateway.schemas.get(envelope.schema_id)
        if schema is None:
            return self._wait(gateway, topic, envelope)
        rows = decode(envelope.codec, schema, envelope.body)  # before it counts as taken: a damaged one may come again
        return [*_account(gateway, topic, envelope), BatchDecoded(topic, envelope, schema, rows)]

    def _wait(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        size = len(envelope.body)
        queue = gateway.waiting.setdefault(envelope.schema_id, [])
        if any((e.epoch, e.seq_first) == (envelope.epoch, envelope.seq_first) for _, e in queue):
            return [Duplicate(topic, envelope)]
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise PayloadError(f"its schema {envelope.schema_id:08x} is not known, and too many batches wait already")
        queue.append((topic, envelope))
        self._waiting += 1
        self._waiting_bytes += size
        return []


def _account(gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
    """Counts a batch as taken; the gap that it shows, or fills."""
    number, first, last = envelope.epoch, envelope.seq_first, envelope.seq_last
    epoch = gateway.epochs.get(number)
    if epoch is None:
        while len(gateway.epochs) >= MAX_EPOCHS:
            del gateway.epochs[next(iter(gateway.epochs))]
        epoch = gateway.epochs[number] = _Epoch(base=first, highest=first - 1)
    told: list[Output] = []
    if first > epoch.highest + 1:
        told.append(GapSeen(topic, number, epoch.highest + 1, first - 1))
    elif epoch.base <= last <= epoch.highest:
        told.append(GapFilled(topic, number, max(first, epoch.base), last))
    epoch.taken.add(first, last)
    epoch.highest = max(epoch.highest, last)
    return told
