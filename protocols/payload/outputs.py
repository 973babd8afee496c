"""Outputs: what a consumer says of the messages it is fed: batches with their readings, gaps, events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.memory import Range, Source
from parkfleet.protocols.payload.scans import Scanned, plain
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows, Value, has_value
from parkfleet.protocols.payload.topics import Event, GatewayTopics, Status, Topic
from parkfleet.protocols.quality import Quality, quality_name


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
    return msgspec.json.encode(reading._replace(value=plain(reading.value))._asdict()).decode()


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

    @property
    def total(self) -> int:
        """How many readings it has, also those without a value."""
        return sum(len(block.quality) for block in self.rows)

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
class ScansDecoded(BatchDecoded):
    """The same of a gateway whose encoding is json: it has scans instead of rows."""

    scans: tuple[Scanned, ...] = ()
    units: Mapping[tuple[str, str], str] = field(default_factory=dict)  # by meter and point

    @property
    def total(self) -> int:
        return sum(len(scan.values.keys() | scan.quality.keys()) + scan.held for scan in self.scans)

    def readings(self, *, held: bool = False) -> Iterator[Reading]:
        """Its readings. Which were held back JSON does not say, only how many: `held` of each scan."""
        epoch, seq = self.envelope.epoch, self.envelope.seq_first
        park, gateway, units = self.topic.park, self.topic.gateway, self.units
        for scan in self.scans:
            meter = scan.meter
            for point, value in scan.values.items():
                unit, name = units.get((meter, point), ""), scan.quality.get(point, "good")
                yield Reading(park, gateway, meter, point, unit, scan.ts, value, name, epoch, seq)
            for point, name in scan.quality.items():
                if point not in scan.values:
                    unit = units.get((meter, point), "")
                    yield Reading(park, gateway, meter, point, unit, scan.ts, None, name, epoch, seq)


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
