"""The manual's test vectors: one small batch that has everything. Written by `python -m tests.payload.vectors`."""

import json
import re
from array import array
from pathlib import Path

from parkfleet.protocols.payload import delta
from parkfleet.protocols.payload.chain import KEY, Encoder
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.scans import pack_scans, pack_series
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from parkfleet.protocols.payload.topics import GatewayTopics
from parkfleet.protocols.profile import Factor
from tests.payload.strategies import float32_bits, float64_bits

MANUAL = Path(__file__).resolve().parents[2] / "docs/payload.md"
TOPICS = GatewayTopics("demo", "gw-01")
POWER = (
    Column("voltage_l1", "V", "float32", "gauge", digits=1),
    Column("power_active", "W", "float32", "gauge"),
    Column("energy_import", "kWh", "int", "counter", Factor(1, 2, 0)),
)
HEAT = (
    Column("temperature_supply", "°C", "int", "gauge", Factor(1, 1, -400)),
    Column("energy", "Wh", "uint64", "counter"),
    Column("volume", "m³", "float64", "counter"),
    Column("serial_number", "", "string", "state"),
)
SCHEMA = Schema((Entry("m01", "p", "power", POWER), Entry("m02", "p", "power", POWER), Entry("m03", "h", "heat", HEAT)))
T0 = 1_795_438_548_000


def rows() -> list[Rows]:
    """Three rows of a well meter, two of a silent one, one with a text and a missing value."""
    voltage = [float32_bits(value) for value in (230.1, 230.1, 229.9)]
    power = [float32_bits(value) for value in (1234.5678, 1300.25, -0.0)]
    well = [slot for row in zip(voltage, power, (1234567, 1234568, 1234568), strict=True) for slot in row]
    heat = [1050, -1, float64_bits(1234.5), 0]
    return [
        Rows(0, array("q", [T0, T0 + 1000, T0 + 2000]), array("q", well), bytearray(9)),
        Rows(1, array("q", [T0, T0 + 1007]), array("q", [0] * 6), bytearray([1] * 6)),
        Rows(2, array("q", [T0 + 500]), array("q", heat), bytearray([0, 0, 5, 0]), ["SN-12"]),
    ]


def envelope() -> Envelope:
    """The batch."""
    return Envelope(1, SCHEMA.id, 3735928559, 42, 1, 0, delta.encode(SCHEMA, rows()))


def chained() -> list[Envelope]:
    """The same rows as a key batch, and once more as the chained one behind it."""
    encoder = Encoder(SCHEMA, key_every=2)
    made = (encoder.encode(rows()) for _ in range(2))
    return [Envelope(codec, SCHEMA.id, 3735928559, seq, 1, 0, body) for seq, (codec, body) in enumerate(made, 43)]


def readings(schema: bytes, batch: bytes, schema_id: int) -> list[str]:
    """What a consumer makes of the two messages, one JSON list a reading."""
    consumer = Consumer()
    consumer.feed(TOPICS.schema(schema_id), schema)
    (decoded,) = consumer.feed(TOPICS.batch, batch)
    assert isinstance(decoded, BatchDecoded)
    return told(decoded)


def told(decoded: BatchDecoded) -> list[str]:
    """Its readings, one JSON list each."""
    return [json.dumps([r.meter, r.point, r.ts, r.value, r.quality], ensure_ascii=False) for r in decoded.readings()]


def in_json() -> tuple[str, str]:
    """The series of the schema, and the same rows in JSON, seq 45: one meter, one scan a line."""
    series = json.loads(pack_series(SCHEMA))
    scans = json.loads(pack_scans(SCHEMA, Envelope(KEY, SCHEMA.id, 3735928559, 45, 1, 0, b""), rows()))
    return _lines(series, "meters"), _lines(scans, "scans")


def _lines(message: dict[str, object], key: str) -> str:
    """A message with the items of one list a line each."""
    items = message[key]
    assert isinstance(items, list)
    head = json.dumps({**message, key: []}, separators=(",", ":"))[:-2]
    told = ",\n".join(json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in items)
    return f"{head}\n{told}\n]}}"


def vectors(text: str) -> dict[str, str]:
    """The blocks of the manual by name."""
    return dict(re.findall(r"```vector (\w+)\n(.*?)\n```", text, re.S))


def in_lines(data: bytes) -> str:
    """Hexadecimal, thirty-two bytes a line."""
    return "\n".join(data[at : at + 32].hex(" ") for at in range(0, len(data), 32))


if __name__ == "__main__":
    manual = MANUAL.read_text("utf-8")
    schema, batch = SCHEMA.pack(), envelope().pack()
    key, continued = (in_lines(each.pack()) for each in chained())
    blocks = {"schema": in_lines(schema), "batch": in_lines(batch), "key": key, "chained": continued}
    blocks["series"], blocks["json"] = in_json()
    blocks["readings"] = "\n".join(readings(schema, batch, SCHEMA.id))
    for name, block in blocks.items():
        manual = re.sub(rf"```vector {name}\n.*?```", f"```vector {name}\n{block}\n```", manual, flags=re.S)
    manual = re.sub(r"its id `\w+`", f"its id `{SCHEMA.id:08x}`", manual)
    MANUAL.write_text(manual, "utf-8")
