"""Scans: a batch as JSON, one object a meter scan, and the series it speaks of. For gateways whose encoding is json.

The same batches, seqs and joins as in compact form, only said otherwise: docs/payload.md, JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from parkfleet.protocols.payload.envelope import MAX_BYTES, MAX_COUNT, REPLAYED, THINNED, Envelope
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.parts import Runs, seq_of_rows, unpack_parts
from parkfleet.protocols.payload.schema import MAX_BYTES as MAX_SERIES_BYTES
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Rows, Value, has_value
from parkfleet.protocols.quality import Quality, quality_name

VERSION: Final = 1
#: The codec of an envelope whose body is a message in JSON, inside a consumer: no envelope on the wire can have it.
JSON: Final = -1

M = TypeVar("M", "Header", "Message", "SeriesMessage")

Seq = Annotated[int, Meta(ge=1, lt=2**62)]
Epoch = Annotated[int, Meta(ge=1, lt=2**32)]


class Scanned(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one meter gave at one time."""

    epoch: Epoch
    seq: Seq
    ts: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # ms UTC
    meter: str
    values: dict[str, int | float | str | None]  # by point; null for a number that JSON has no word for
    quality: dict[str, str] = {}  # of the points whose quality is not good
    held: Annotated[int, Meta(ge=0)] = 0  # points that a deadband held back


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message is, and what it counts for."""

    version: int
    schema: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    epoch: Epoch
    seq: Seq  # of the first batch
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1  # batches: it covers seq to seq + count - 1
    replayed: bool = False
    thinned: bool = False


class Message(Header, frozen=True, omit_defaults=True, kw_only=True):
    """One message."""

    scans: list[Scanned]


class PointSeries(msgspec.Struct, frozen=True):
    """One point of a meter."""

    unit: str
    kind: str
    type: str


class MeterSeries(msgspec.Struct, frozen=True):
    """One meter, or the part of its points that is read together."""

    meter: str
    profile: str
    medium: str
    points: dict[str, PointSeries]


class SeriesMessage(msgspec.Struct, frozen=True):
    """What a gateway's scans speak of, retained."""

    version: int
    schema: str
    meters: Annotated[list[MeterSeries], Meta(max_length=100_000)]


def pack_scans(schema: Schema, envelope: Envelope, rows: Sequence[Rows]) -> bytes:
    """The message of a batch whose body these rows are. Raises PayloadError for parts that do not fit them."""
    runs = (
        unpack_parts(envelope.parts, envelope.seq_count, rows)
        if envelope.seq_count > 1
        else [[(1, len(block.ts))] for block in rows]
    )
    scans = [scan for block, own in zip(rows, runs, strict=True) for scan in _of_block(schema, envelope, block, own)]
    message = Message(
        VERSION,
        f"{envelope.schema_id:08x}",
        envelope.epoch,
        envelope.seq_first,
        envelope.seq_count,
        bool(envelope.flags & REPLAYED),
        bool(envelope.flags & THINNED),
        scans=scans,
    )
    return msgspec.json.encode(message)


def unpack_header(data: bytes) -> Envelope:
    """What a message counts for; its scans are read by unpack_scans. Raises PayloadError."""
    header = _unpack(data, Header, MAX_BYTES)
    flags = REPLAYED * header.replayed | THINNED * header.thinned
    return Envelope(JSON, int(header.schema, 16), header.epoch, header.seq, header.count, flags, data)


def unpack_scans(envelope: Envelope, seqs: Sequence[tuple[int, int]]) -> tuple[Scanned, ...]:
    """Of the scans in an envelope of unpack_header those of some seqs (first and last). Raises PayloadError."""
    message = _unpack(envelope.body, Message, MAX_BYTES)
    if any(
        scan.epoch != envelope.epoch or not envelope.seq_first <= scan.seq <= envelope.seq_last
        for scan in message.scans
    ):
        raise PayloadError("a scan is of none of the message's batches")
    return tuple(scan for scan in message.scans if any(first <= scan.seq <= last for first, last in seqs))


def pack_series(schema: Schema) -> bytes:
    """The message that tells of a schema's series."""
    meters = [
        MeterSeries(entry.meter, entry.profile, entry.medium, {c.point: _series(c) for c in entry.columns})
        for entry in schema.entries
    ]
    return msgspec.json.encode(SeriesMessage(VERSION, f"{schema.id:08x}", meters))


def unpack_units(data: bytes, schema_id: int) -> Mapping[tuple[str, str], str]:
    """The units of a schema's series, by meter and point. Raises PayloadError."""
    message = _unpack(data, SeriesMessage, 4 * MAX_SERIES_BYTES)
    if message.schema != f"{schema_id:08x}":
        raise PayloadError("the series are not those of their topic")
    return {(own.meter, point): told.unit for own in message.meters for point, told in own.points.items()}


def plain(value: Value) -> Value:
    """A value that JSON readers take: a scaled 64-bit number may be more; NaN and infinity are encoded as null."""
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _series(column: Column) -> PointSeries:
    return PointSeries(column.unit, column.kind, column.type)


def _of_block(schema: Schema, envelope: Envelope, block: Rows, runs: Runs) -> Iterator[Scanned]:
    entry = schema.entries[block.entry]
    readings = zip(block.quality, block.slots, strict=True)
    texts = iter(block.texts)
    for ts, seq in zip(block.ts, seq_of_rows(runs), strict=True):
        values: dict[str, int | float | str | None] = {}
        quality: dict[str, str] = {}
        held = 0
        for column in entry.columns:
            code, slot = next(readings)
            text = next(texts) if column.type == "string" else None
            if code == Quality.HELD:
                held += 1
                continue
            if has_value(code):
                values[column.point] = plain(column.value(slot, text))
            if code != Quality.GOOD:
                quality[column.point] = quality_name(code)
        yield Scanned(envelope.epoch, envelope.seq_first + seq, ts, entry.meter, values, quality, held)


def _unpack(data: bytes, model: type[M], most: int) -> M:
    if len(data) > most:
        raise PayloadError(f"message of {len(data)} bytes: at most {most}")
    try:
        message = msgspec.json.decode(data, type=model)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a message in JSON: {error}") from None
    if message.version != VERSION:
        raise PayloadError(f"message version {message.version}: this decoder knows {VERSION}")
    return message
