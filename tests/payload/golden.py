"""Golden batches in tests/testdata/payload: what every decoder must read, for ever.

Written by `python -m tests.payload.golden`.

A case is a folder: schema.msgpack, rows.json (rows, slots and all), envelopes of these rows: batch.msgpack (codec 1),
key.msgpack (codec 2), chained.msgpack (codec 3: the same rows once more, continuing the key); and in JSON: series.json,
scans.json (batch.msgpack), joined.json (the same rows, replayed, of three batches, the last without a row).
"""

import json
import random
from array import array
from pathlib import Path

from parkfleet.protocols.payload import delta
from parkfleet.protocols.payload.chain import Encoder, pure
from parkfleet.protocols.payload.chain.coding import make_primer
from parkfleet.protocols.payload.chain.prior import built_in
from parkfleet.protocols.payload.envelope import REPLAYED, Envelope
from parkfleet.protocols.payload.parts import pack_parts
from parkfleet.protocols.payload.scans import pack_scans, pack_series
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.payload import vectors
from tests.payload.strategies import float32_bits, float64_bits

FOLDER = Path(__file__).resolve().parents[1] / "testdata/payload"
Case = tuple[Schema, list[Rows]]


def equal_meters() -> Case:
    """Twelve equal meters for five seconds: float32 with decimals, float32 without, and counters."""
    columns = (
        *[Column(f"voltage_l{n}", "V", "float32", "gauge", digits=1) for n in (1, 2, 3)],
        Column("power_active", "W", "float32", "gauge"),
        Column("energy_import", "kWh", "int", "counter"),
    )
    chance = random.Random(1)
    blocks = []
    for entry in range(12):
        energy, slots = chance.randint(10**5, 10**7), array("q")
        for _ in range(5):
            energy += chance.randint(0, 2)
            voltages = [float32_bits(chance.randint(2290, 2310) / 10) for _ in range(3)]
            slots.extend([*voltages, float32_bits(chance.random() * 5000), energy])
        ts = array("q", [vectors.T0 + 1000 * row for row in range(5)])
        blocks.append(Rows(entry, ts, slots, bytearray(25)))
    return Schema(tuple(Entry(f"m{n:02}", "p", "power", columns) for n in range(12))), blocks


def silent_meters() -> Case:
    """A meter that falls silent, one that refuses a point, one that never answered, at times of their own."""
    columns = tuple(Column(f"p{n}", "", "int", "gauge") for n in range(4))
    falls = bytearray([0] * 12 + [1] * 12)
    refuses = bytearray([0, 0x82, 0, 5] * 6)
    never = bytearray([3] * 24)
    blocks = []
    for entry, quality in enumerate((falls, refuses, never)):
        slots = array("q", [entry * 100 + n if code in (0, 5) else 0 for n, code in enumerate(quality)])
        ts = array("q", [vectors.T0 + 10_000 * row + 7 * entry * (row % 2) for row in range(6)])
        blocks.append(Rows(entry, ts, slots, quality))
    return Schema(tuple(Entry(f"m{n}", "p", "water", columns) for n in range(3))), blocks


def extremes() -> Case:
    """Every type at its ends, NaN payloads, texts of several bytes a character, a meter without points."""
    columns = (
        Column("int", "", "int", "gauge"),
        Column("uint64", "", "uint64", "counter"),
        Column("float32", "", "float32", "gauge"),
        Column("float64", "", "float64", "gauge", digits=3),
        Column("text", "", "string", "state"),
        Column("decimal", "", "float64", "gauge", digits=3),
    )
    low, high = -(2**63), 2**63 - 1
    lines = [
        (0, 0, 0, float64_bits(0.001), "", float64_bits(-1.5)),
        (low, -1, float32_bits(-0.0), float64_bits(-0.0), "Zähler", float64_bits(2**43 + 0.125)),
        (high, low, 0x7FC0_0001, 0x7FF0_0000_0000_0001, "Zähler", float64_bits(0.0)),
        (low, low, 0xFF80_0000, low, "电表", float64_bits(0.0)),
        (low, high, 0x7F7F_FFFF, high, "", float64_bits(0.0)),
    ]
    slots = array("q", [slot for *three, f64, _, last in lines for slot in (*three, f64, 0, last)])
    ts = array("q", [0, high, low, -1, vectors.T0])
    wide = Rows(1, ts, slots, bytearray(30), [line[4] for line in lines])
    schema = Schema((Entry("none", "p", "other", ()), Entry("wide", "p", "other", columns)))
    return schema, [Rows(0, array("q", [5, 6, 7])), wide]


def primed_meters() -> Case:
    """Meters that the schema's primer has shown, one of them dead then and one never; a text; a step that changes."""
    columns = (
        Column("flow", "m³/h", "float32", "gauge", digits=2),
        Column("volume", "m³", "int", "counter"),
        Column("valve", "", "string", "state"),
        Column("pulses", "", "uint64", "counter"),
    )
    chance = random.Random(2)

    def batch(entries: tuple[int, ...], minute: int, count: int, step: int) -> list[Rows]:
        blocks = []
        for entry in entries:
            rows = Rows(entry)
            for row in range(count):
                hour = minute / 60 + row * step / 3_600_000
                flow = float32_bits(round(max(chance.gauss(3, 1.5), 0.0), 2))
                rows.ts.append(vectors.T0 + 60_000 * minute + step * row + 250 * entry)
                rows.slots.extend([flow, int(1000 * (entry + 1) + 3 * hour), 0, 25 * int(40 * hour)])
                rows.quality.extend([1] * 4 if entry == 1 and minute < 90 else [0] * 4)
                rows.texts.append(None if rows.quality[-1] else "open" if chance.random() < 0.8 else "shut")
            blocks.append(rows)
        return blocks

    entries = tuple(Entry(f"w{n}", "p", "water", columns) for n in range(4))
    taught = [batch((0, 1, 2), 0, 20, 10_000), *[batch((0, 1, 2), minute, 2, 10_000) for minute in (30, 60, 90, 150)]]
    primer = make_primer(pure.Chain(Schema(entries), built_in()), taught)
    return Schema(entries, primer), batch((0, 1, 3), 1000, 3, 15_000)


def joined(schema: Schema, rows: list[Rows]) -> Envelope:
    """The same rows as of three batches: all but the last row of each meter, the last one, none."""
    parts = pack_parts([[(1, len(block.ts) - 1), (1, 1), (1, 0)] for block in rows])
    return Envelope(1, schema.id, 1, 5, 3, REPLAYED, delta.encode(schema, rows), parts)


CASES = {
    "everything": lambda: (vectors.SCHEMA, vectors.rows()),
    "equal-meters": equal_meters,
    "silent-meters": silent_meters,
    "extremes": extremes,
    "primed-meters": primed_meters,
}


def as_json(rows: list[Rows]) -> str:
    """The rows, one a line."""
    blocks = [[r.entry, list(r.ts), list(r.slots), list(r.quality), r.texts] for r in rows]
    return "\n".join(json.dumps(block, ensure_ascii=False) for block in blocks) + "\n"


if __name__ == "__main__":
    for name, make in CASES.items():
        schema, rows = make()
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schema.msgpack").write_bytes(schema.pack())
        batch = Envelope(1, schema.id, 1, 1, 1, 0, delta.encode(schema, rows))
        (folder / "batch.msgpack").write_bytes(batch.pack())
        encoder = Encoder(schema, key_every=2)
        for seq, kind in enumerate(("key", "chained"), 1):
            codec, body = encoder.encode(rows)
            (folder / f"{kind}.msgpack").write_bytes(Envelope(codec, schema.id, 1, seq, 1, 0, body).pack())
        (folder / "rows.json").write_text(as_json(rows), "utf-8")
        (folder / "series.json").write_bytes(pack_series(schema))
        (folder / "scans.json").write_bytes(pack_scans(schema, batch, rows))
        (folder / "joined.json").write_bytes(pack_scans(schema, joined(schema, rows), rows))
