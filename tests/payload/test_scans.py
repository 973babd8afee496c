"""Batches in JSON: the same readings, seqs and duplicates as in compact form, for a consumer that takes both."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parkfleet.protocols.payload.chain import KEY
from parkfleet.protocols.payload.codecs import encode
from parkfleet.protocols.payload.consumer import (
    BatchDecoded,
    Consumer,
    Duplicate,
    GapSeen,
    Output,
    Reading,
    Rejected,
    SchemaWanted,
)
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.parts import pack_parts
from parkfleet.protocols.payload.request import unpack_request
from parkfleet.protocols.payload.scans import pack_scans, pack_series, plain
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.payload.topics import GatewayTopics
from tests.payload import vectors
from tests.payload.strategies import batches

TOPICS = GatewayTopics("park", "gw")
SCHEMA = vectors.SCHEMA


def message(seq: int = 1, **facts: Any) -> bytes:
    """The manual's rows in JSON."""
    envelope = Envelope(KEY, SCHEMA.id, 7, seq, facts.pop("count", 1), 0, b"", facts.pop("parts", b""))
    return pack_scans(SCHEMA, replace(envelope, **facts), vectors.rows())


def informed(**settings: Any) -> Consumer:
    """A consumer that knows the series."""
    consumer = Consumer(**settings)
    assert consumer.feed(TOPICS.series(SCHEMA.id), pack_series(SCHEMA)) == []
    return consumer


def readings(outputs: list[Output]) -> list[Reading]:
    return [reading for output in outputs if isinstance(output, BatchDecoded) for reading in output.readings()]


def in_json(reading: Reading) -> Reading:
    """A reading as JSON can say it."""
    told = json.loads(json.dumps(plain(reading.value)), parse_constant=lambda _: None)
    return reading._replace(value=told)


def sorted_(found: list[Reading]) -> list[Reading]:
    return sorted(found, key=lambda reading: (*reading[2:4], reading.ts, str(reading.value), reading.quality))


def with_names(schema: Schema) -> bool:
    """Whether its series can be told from each other, as those of a gateway can."""
    names = [(entry.meter, column.point) for entry in schema.entries for column in entry.columns]
    return len(names) == len(set(names))


@given(batches())
def test_json_has_the_readings_of_the_compact_form(batch: tuple[Schema, list[Rows]]) -> None:
    """Values, qualities, units, times and seqs; what JSON has no word for is null."""
    schema, rows = batch
    assume(with_names(schema))
    envelope = Envelope(KEY, schema.id, 7, 3, 1, 0, encode(schema, rows))
    compact, plain_ = Consumer(), Consumer()
    compact.feed(TOPICS.schema(schema.id), schema.pack())
    plain_.feed(TOPICS.series(schema.id), pack_series(schema))
    wanted = readings(compact.feed(TOPICS.batch, envelope.pack()))
    outputs = plain_.feed(TOPICS.json, pack_scans(schema, envelope, rows))
    assert sorted_(readings(outputs)) == sorted_([in_json(reading) for reading in wanted])
    (decoded,) = outputs
    assert isinstance(decoded, BatchDecoded)
    assert decoded.total == sum(len(block.quality) for block in rows)


@given(batches(), st.data())
def test_joined_message_is_taken_in_part(batch: tuple[Schema, list[Rows]], data: st.DataObject) -> None:
    """Of a joined one that is known in part the scans of the other seqs come, as in compact form."""
    schema, rows = batch
    assume(with_names(schema))
    parts = [[(1, len(block.ts) - 1), (1, 1), (2, 0)] for block in rows]
    envelope = Envelope(KEY, schema.id, 7, 10, 4, 0, encode(schema, rows), pack_parts(parts))
    known = data.draw(st.integers(10, 13))
    found = []
    for is_json in (False, True):
        consumer = Consumer()
        consumer.feed(TOPICS.schema(schema.id), schema.pack())
        consumer.feed(TOPICS.series(schema.id), pack_series(schema))
        consumer.feed(TOPICS.batch, Envelope(KEY, schema.id, 7, known, 1, 0, encode(schema, [])).pack())
        payload = pack_scans(schema, envelope, rows) if is_json else envelope.pack()
        (decoded,) = consumer.feed(TOPICS.json if is_json else TOPICS.batch, payload)
        assert isinstance(decoded, BatchDecoded)
        assert decoded.seqs == tuple((a, b) for a, b in ((10, known - 1), (known + 1, 13)) if a <= b)
        found.append(sorted_([in_json(reading) for reading in decoded.readings()]))
    assert found[0] == found[1]


def test_message_stands_for_itself() -> None:
    """Each object has all that a consumer of objects needs; qualities that are good are not said, nor what is held."""
    rows = vectors.rows()
    rows[1].quality[0] = 7
    made = json.loads(pack_scans(SCHEMA, Envelope(KEY, SCHEMA.id, 7, 3, 1, 1, b""), rows))
    assert {key: made[key] for key in ("version", "schema", "epoch", "seq", "replayed")} == {
        "version": 1, "schema": f"{SCHEMA.id:08x}", "epoch": 7, "seq": 3, "replayed": True
    }  # fmt: skip
    assert made["scans"][0] == {
        "epoch": 7, "seq": 3, "ts": vectors.T0, "meter": "m01",
        "values": {"voltage_l1": 230.1, "power_active": 1234.5677, "energy_import": 12345.67},
    }  # fmt: skip
    assert made["scans"][3] == {
        "epoch": 7, "seq": 3, "ts": vectors.T0, "meter": "m02", "values": {},
        "quality": {"power_active": "timeout", "energy_import": "timeout"}, "held": 1,
    }  # fmt: skip
    assert made["scans"][-1]["quality"] == {"volume": "suspect"}
    assert made["scans"][-1]["values"]["volume"] == 1234.5


def test_duplicates_and_gaps_are_those_of_the_gateway() -> None:
    """Whatever the encoding: a gateway that was switched over goes on counting."""
    now = 0.0
    consumer = informed(gap_age=5.0, clock=lambda: now)
    consumer.feed(TOPICS.schema(SCHEMA.id), SCHEMA.pack())
    compact = Envelope(KEY, SCHEMA.id, 7, 1, 1, 0, encode(SCHEMA, vectors.rows())).pack()
    assert isinstance(consumer.feed(TOPICS.batch, compact)[0], BatchDecoded)
    assert isinstance(consumer.feed(TOPICS.json, message(1))[0], Duplicate)
    assert isinstance(consumer.feed(TOPICS.json, message(4))[0], BatchDecoded)
    now = 6.0
    (gap,) = (output for output in consumer.due() if isinstance(output, GapSeen))
    assert unpack_request(gap.request).ranges == [(2, 3)]
    (replayed,) = consumer.feed(TOPICS.json, message(2, flags=1))
    assert isinstance(replayed, BatchDecoded)
    assert replayed.envelope.replayed


def test_message_waits_for_its_series() -> None:
    """And they are asked for like a schema when they do not come."""
    now = 0.0
    consumer = Consumer(gap_age=5.0, clock=lambda: now)
    assert consumer.feed(TOPICS.json, message()) == []
    now = 6.0
    (wanted,) = consumer.due()
    assert isinstance(wanted, SchemaWanted)
    assert unpack_request(wanted.request).schemas == [f"{SCHEMA.id:08x}"]
    (decoded,) = consumer.feed(TOPICS.series(SCHEMA.id), pack_series(SCHEMA))
    assert {reading.unit for reading in readings([decoded])} >= {"V", "kWh", "°C"}


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), st.sampled_from(["json", "series"]))
def test_hostile_bytes(payload: bytes, channel: str) -> None:
    """Rejected, never raised."""
    topic = TOPICS.json if channel == "json" else TOPICS.series(SCHEMA.id)
    assert all(isinstance(output, Rejected) for output in informed().feed(topic, payload))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "message version 2"),
        ({"epoch": 0}, "not a message in JSON"),
        ({"count": 10**9}, "not a message in JSON"),
        ({"seq": 5}, "a scan is of none of the message's batches"),
        ({"epoch": 8}, "a scan is of none of the message's batches"),
        ({"scans": [{"epoch": 7}]}, "not a message in JSON"),
        ({"scans": [[]] * 3}, "not a message in JSON"),
        ({"schema": "../../x"}, "not a message in JSON"),
    ],
)
def test_damaged_message(change: dict[str, Any], told: str) -> None:
    """Named; and it may come again, whole."""
    consumer = informed()
    (rejected,) = consumer.feed(TOPICS.json, json.dumps(json.loads(message()) | change).encode())
    assert isinstance(rejected, Rejected)
    assert told in rejected.reason
    assert isinstance(consumer.feed(TOPICS.json, message())[0], BatchDecoded)


def test_deep_nesting_is_rejected() -> None:
    """JSON of a hundred thousand brackets ends no consumer."""
    (rejected,) = informed().feed(TOPICS.json, b"[" * 100_000)
    assert isinstance(rejected, Rejected)
