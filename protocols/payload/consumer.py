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

#: Batches that wait for their schema, over all gateways, and their bytes: then the oldest are given up, and told.
MAX_WAITING: Final = 10_000
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
    """A reading as one JSON object; a value that JSON has no word for (NaN) is null."""
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
        epoch, seq = self.envelope.epoch, self.envelope.seq_first
        for block in self.rows:
            entry = self.schema.entries[block.entry]
            width = len(entry.columns)
            strings = [index for index, column in enumerate(entry.columns) if column.type == "string"]
            for row, ts in enumerate(block.ts):
                for index, column in enumerate(entry.columns):
                    code = block.quality[row * width + index]
                    text = block.texts[row * len(strings) + strings.index(index)] if index in strings else None
                    value = column.value(block.slots[row * width + index], text) if has_value(code) else None
                    names = (self.topic.park, self.topic.gateway, entry.meter, column.point, column.unit)
                    yield Reading(*names, ts, value, quality_name(code), epoch, seq)


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
class _Gateway:
    """What is remembered of one gateway."""

    taken: dict[int, IntervalSet] = field(default_factory=dict)  # by epoch
    highest: dict[int, int] = field(default_factory=dict)  # by epoch: highest seq seen
    schemas: dict[int, Schema] = field(default_factory=dict)
    waiting: dict[int, list[tuple[Topic, Envelope]]] = field(default_factory=dict)  # by schema id


class Consumer:
    """The memory of one consumer: which batches it has, and the schemas it needs."""

    def __init__(self) -> None:
        self._gateways: dict[tuple[str, str], _Gateway] = {}
        self._waiting = 0

    def feed(self, topic: str, payload: bytes) -> list[Output]:
        """What a message was, and what it set free. Never raises for what a peer may send."""
        parsed = parse_topic(topic)
        if parsed is None:
            return []
        gateway = self._gateways.setdefault((parsed.park, parsed.gateway), _Gateway())
        try:
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
            try:
                outputs += self._take(gateway, waited, envelope)
            except PayloadError as error:
                outputs.append(Rejected(f"{waited.park}/{waited.gateway}", str(error)))
        return outputs

    def _take(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        taken = gateway.taken.setdefault(envelope.epoch, IntervalSet())
        missing = taken.missing(envelope.seq_first, envelope.seq_last)
        if not missing:
            return [Duplicate(topic, envelope)]
        if missing != [(envelope.seq_first, envelope.seq_last)]:
            raise PayloadError(f"batches {envelope.seq_first} to {envelope.seq_last} are known in part")
        schema = gateway.schemas.get(envelope.schema_id)
        if schema is None:
            return self._wait(gateway, topic, envelope)
        rows = decode(envelope.codec, schema, envelope.body)  # before it counts as taken: a damaged one may come again
        taken.add(envelope.seq_first, envelope.seq_last)
        return [*self._gaps(gateway, topic, envelope), BatchDecoded(topic, envelope, schema, rows)]

    def _wait(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        if self._waiting >= MAX_WAITING:
            raise PayloadError(f"its schema {envelope.schema_id:08x} is not known, and too many batches wait already")
        queue = gateway.waiting.setdefault(envelope.schema_id, [])
        if any((e.epoch, e.seq_first) == (envelope.epoch, envelope.seq_first) for _, e in queue):
            return [Duplicate(topic, envelope)]
        queue.append((topic, envelope))
        self._waiting += 1
        return []

    def _gaps(self, gateway: _Gateway, topic: Topic, envelope: Envelope) -> list[Output]:
        """What the seq tells beside the batch. The first batch of an epoch tells nothing about earlier ones."""
        epoch, first, last = envelope.epoch, envelope.seq_first, envelope.seq_last
        highest = gateway.highest.get(epoch)
        gateway.highest[epoch] = max(last, highest or 0)
        if highest is None or first == highest + 1:
            return []
        if first > highest:
            return [GapSeen(topic, epoch, highest + 1, first - 1)]
        return [GapFilled(topic, epoch, first, last)]
