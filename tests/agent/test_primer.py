"""Primer and live schema: what a gateway's batches teach goes with its schema, and makes its key batches small."""

import random
from array import array
from collections.abc import Iterator

import pytest

from parkfleet.agent.live_schema import LiveSchema
from parkfleet.agent.primer import MOST_BYTES, PrimerBuilder
from parkfleet.protocols.payload.chain.coding import MAX_PRIMER_READINGS
from parkfleet.protocols.payload.codecs import CODEC, decode, encode
from parkfleet.protocols.payload.schema import MAX_BYTES, MAX_PRIMER, Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows

T0 = 1_795_438_548_000
MINUTE, HOUR = 60_000, 3_600_000
COLUMNS = (Column("power", "W", "int", "gauge"), Column("energy", "Wh", "int", "counter"))
SCHEMA = Schema(tuple(Entry(f"m{n}", "p", "power", COLUMNS) for n in range(4)))


def minutes(count: int, first: int = 0, rows: int = 1) -> Iterator[list[Rows]]:
    """Batches of a minute, each meter at a level of its own."""
    chance = random.Random(first)
    for minute in range(first, first + count):
        blocks = []
        for entry in range(len(SCHEMA.entries)):
            block = Rows(entry)
            for row in range(rows):
                block.ts.append(T0 + MINUTE * minute + 1000 * row)
                block.slots.extend([20_000 * entry + chance.randint(-300, 300), 10_000_000 * entry + 333 * minute])
                block.quality.extend(b"\0\0")
            blocks.append(block)
        yield blocks


def taught(schema: LiveSchema, batches: Iterator[list[Rows]]) -> list[int]:
    """The schemas' ids that these batches would be sent with."""
    ids = []
    for rows in batches:
        ids.append(schema.schema.id)
        schema.took(rows)
    return list(dict.fromkeys(ids))


def test_live_schema_gets_a_primer_after_an_hour_a_day_and_a_week() -> None:
    """Four schemas in nine days; with each primer a key batch is smaller than without, and decodes."""
    schema = LiveSchema(SCHEMA)
    assert len(taught(schema, minutes(9 * 24 * 60))) == 4
    (rows,) = minutes(1, first=10 * 24 * 60)
    body = encode(schema.schema, rows)
    assert len(body) < 0.75 * len(encode(SCHEMA, rows))
    assert decode(CODEC, Schema.unpack(schema.packed), body) == rows


def test_live_schema_goes_on_where_the_buffer_left_it() -> None:
    """A restarted agent has its primer at once, and gathers for the next step, not for the first again."""
    before = LiveSchema(SCHEMA)
    taught(before, minutes(70))
    assert before.schema.primer
    again = LiveSchema(SCHEMA)
    again.resume(before.packed)
    assert again.schema == before.schema
    assert len(taught(again, minutes(23 * 60, first=100))) == 1
    assert len(taught(again, minutes(90, first=24 * 60 + 30))) == 2


@pytest.mark.parametrize("packed", [b"", b"\xff", Schema(SCHEMA.entries[:2]).pack()])
def test_live_schema_of_another_configuration_begins_anew(packed: bytes) -> None:
    """Nothing stored, damage, or other meters: no primer."""
    schema = LiveSchema(SCHEMA)
    schema.resume(packed)
    assert schema.schema == SCHEMA


def test_primer_that_the_broker_would_not_take_is_none() -> None:
    """The schema with its primer is one message: for a broker that takes small ones the primer is smaller, or none."""
    schema = LiveSchema(SCHEMA)
    for rows in minutes(70):
        schema.took(rows, len(SCHEMA.pack()) + 400)
    assert len(SCHEMA.pack()) + 300 < len(schema.packed) <= len(SCHEMA.pack()) + 400
    schema = LiveSchema(SCHEMA)
    for rows in minutes(70):
        schema.took(rows, len(SCHEMA.pack()))
    assert schema.schema == SCHEMA


def test_clock_that_goes_back_is_no_end_of_primers() -> None:
    """After a day backwards gathering begins anew; a day forwards ends it early."""
    schema = LiveSchema(SCHEMA)
    assert len(taught(schema, minutes(30, first=24 * 60))) == 1
    assert len(taught(schema, minutes(30))) == 1
    assert len(taught(schema, minutes(2, first=48 * 60))) == 2


@pytest.mark.parametrize("meters", [1, 300, 3000, 20_000])
@pytest.mark.parametrize("rows", [1, 60, 3600])
def test_primer_is_bounded(meters: int, rows: int) -> None:
    """Whatever the gateway's size and its batches': a bounded number of readings and of batches."""
    schema = Schema(tuple(Entry(f"m{n}", "p", "power", COLUMNS) for n in range(meters)))
    chance = random.Random(1)
    rows = min(rows, 400_000 // meters)
    builder = PrimerBuilder(schema, T0, T0 + HOUR)
    for minute in range(0, 60, 10):
        ts = array("q", range(T0 + MINUTE * minute, T0 + MINUTE * minute + rows))
        slots = array("q", [chance.randrange(2**30) for _ in range(2 * rows)])
        blocks = [Rows(entry, ts, slots, bytearray(2 * rows)) for entry in range(meters)]
        builder.add(blocks)
    made, primed = builder.batches(), builder.build(MAX_BYTES)
    assert primed is None or sum(map(len, primed.primer)) <= MOST_BYTES
    assert 0 < len(made) <= MAX_PRIMER
    assert sum(len(block.quality) for batch in made for block in batch) <= MAX_PRIMER_READINGS
