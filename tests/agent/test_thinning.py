"""Thinning: what a minute leaves of its seconds."""

import struct
from array import array

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.thinning import select, thin, thinned_schema, window_for
from parkfleet.protocols.payload.codecs import CODEC, decode
from parkfleet.protocols.payload.parts import rows_of, unpack_parts
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows, Value, has_value
from parkfleet.protocols.profile import Factor
from parkfleet.protocols.quality import Quality

COLUMNS = (
    Column("power", "W", "int", "gauge", Factor(1, 1, 0)),
    Column("voltage", "V", "float32", "gauge"),
    Column("energy", "kWh", "uint64", "counter"),
    Column("serial", "", "string", "state"),
)
SCHEMA = Schema((Entry("m", "p", "power", COLUMNS),))


def rows(values: list[tuple[int, int, float, int]], quality: bytes = b"") -> Rows:
    """(ts, power, voltage, energy), and a text that says the energy."""
    slots = []
    for _, power, voltage, energy in values:
        slots += [power, struct.unpack("<I", struct.pack("<f", voltage))[0], energy, 0]
    texts: list[str | None] = [f"{energy}" for *_, energy in values]
    return Rows(0, array("q", [v[0] for v in values]), array("q", slots), bytearray(quality or 4 * len(values)), texts)


def table(schema: Schema, body: bytes) -> list[dict[str, Value]]:
    """Rows by point, with their time."""
    found = []
    for block in decode(CODEC, schema, body):
        columns = schema.entries[block.entry].columns
        texts = iter(block.texts)
        for row, ts in enumerate(block.ts):
            place = row * len(columns)
            values: dict[str, Value] = {"ts": ts}
            for i, column in enumerate(columns):
                text = next(texts) if column.type == "string" else None
                valued = has_value(block.quality[place + i])
                values[column.point] = column.value(block.slots[place + i], text) if valued else None
            found.append(values)
    return found


def test_a_minute_becomes_one_row() -> None:
    """Counters and states keep their last value, gauges become mean, min and max; times are the last reading's."""
    block = rows([(0, 10, 230.0, 5), (30_000, 20, 231.0, 6), (59_000, 25, 229.5, 7), (60_000, 1, 1.0, 8)])
    thinned = thin(SCHEMA, [block], [[(1, 4)]], 1, 60_000)
    assert table(thinned.schema, thinned.row.body) == [
        {
            "ts": 59_000, "power_mean": 1.83, "power_min": 1.0, "power_max": 2.5,
            "voltage_mean": 230.16667, "voltage_min": 229.5, "voltage_max": 231.0, "energy": 7, "serial": "7",
        },
        {
            "ts": 60_000, "power_mean": 0.1, "power_min": 0.1, "power_max": 0.1,
            "voltage_mean": 1.0, "voltage_min": 1.0, "voltage_max": 1.0, "energy": 8, "serial": "8",
        },
    ]  # fmt: skip
    assert thinned.row.readings == 4  # the meter's own: two energies, two serial numbers
    assert (thinned.row.first_ts, thinned.row.last_ts) == (59_000, 60_000)


def test_a_minute_without_values() -> None:
    """Where no reading had a value, the last one's cause stands; one value among gaps is the value."""
    bad, good = Quality.TIMEOUT, Quality.GOOD
    block = rows([(0, 10, 230.0, 5), (1000, 0, 0.0, 0)], bytes([good, bad, good, good] + [bad] * 4))
    (row,) = table((thinned := thin(SCHEMA, [block], [[(1, 2)]], 1, 60_000)).schema, thinned.row.body)
    assert (row["power_mean"], row["voltage_mean"], row["energy"], row["serial"]) == (1.0, None, 5, "5")
    (decoded,) = decode(CODEC, thinned.schema, thinned.row.body)
    assert list(decoded.quality) == [good] * 3 + [bad] * 3 + [good] * 2


def test_mean_of_large_counters_is_exact() -> None:
    """Means of 64-bit integers are rounded once, whatever their size."""
    big = Schema((Entry("m", "p", "power", (Column("x", "", "int", "gauge"),)),))
    block = Rows(0, array("q", [0, 1]), array("q", [2**53, 2**53 + 1]), bytearray(2))
    thinned = thin(big, [block], [[(1, 2)]], 1, 60_000)
    (decoded,) = decode(CODEC, thinned.schema, thinned.row.body)
    assert list(decoded.slots) == [10 * 2**53 + 5, 2**53, 2**53 + 1]


@given(st.lists(st.lists(st.integers(0, 200_000), max_size=4), min_size=1, max_size=8).filter(any))
def test_rows_belong_to_the_seq_of_their_last_reading(seqs: list[list[int]]) -> None:
    """The parts of a thinned batch fit its rows, and each row is of the seq that closed its minute."""
    stamps = sorted(ts for seq in seqs for ts in seq)
    block = rows([(ts, 1, 1.0, 1) for ts in stamps])
    runs = [(1, len(seq)) for seq in seqs]
    thinned = thin(SCHEMA, [block], [runs], len(seqs), 60_000)
    (decoded,) = decode(CODEC, thinned.schema, thinned.row.body)
    if len(seqs) == 1:
        return
    (kept,) = unpack_parts(thinned.row.parts, len(seqs), [decoded])
    at = 0
    for number, seq in enumerate(seqs):
        own = list(rows_of(decoded, kept, [(number, number)]).ts)
        assert set(own) <= set(stamps[at : at + len(seq)])
        at += len(seq)
    minutes = {ts // 60_000 for ts in stamps}
    assert [ts // 60_000 for ts in decoded.ts] == sorted(minutes)


def test_window_follows_the_meters() -> None:
    """What is read every second becomes minutes, what is read every 15 min hours, a single row nothing less."""
    for step, window in ((1000, 60_000), (60_000, 900_000), (300_000, 900_000), (900_000, 3_600_000)):
        assert window_for([rows([(n * step, 1, 1.0, 1) for n in range(100)])]) == window
    assert window_for([rows([(0, 1, 1.0, 1)])]) is None


def test_select_keeps_counters() -> None:
    """When minutes are too much, whole kinds go: counters alone are a schema of their own."""
    block = rows([(0, 10, 230.0, 5), (60_000, 11, 231.0, 6)])
    thinned = thin(SCHEMA, [block], [[(1, 2)]], 1, 60_000)
    decoded = decode(CODEC, thinned.schema, thinned.row.body)
    counters = select(thinned.schema, decoded, [[(1, 2)]], 1, {"counter"})
    assert table(counters.schema, counters.row.body) == [{"ts": 0, "energy": 5}, {"ts": 60_000, "energy": 6}]
    assert counters.row.readings == 2
    nothing = select(counters.schema, decode(CODEC, counters.schema, counters.row.body), [[(1, 2)]], 1, {"gauge"})
    assert (nothing.row.readings, nothing.schema.entries) == (0, ())


def test_thinned_schema_is_the_same_each_time() -> None:
    """It is a function of the schema: one retained message for all thinned batches."""
    assert thinned_schema(SCHEMA).id == thinned_schema(Schema(SCHEMA.entries)).id
