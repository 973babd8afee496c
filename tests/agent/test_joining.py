"""Joining and splitting: the same readings, each still known by its seq."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.joining import join, split
from parkfleet.agent.store import Recoded, StoredBatch
from parkfleet.protocols.payload.codecs import CODEC, decode, encode
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.parts import pack_parts, rows_of, unpack_parts
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows

COLUMNS = (Column("v", "V", "int", "gauge"), Column("s", "", "string", "state"))
SCHEMA = Schema(tuple(Entry(f"m{n}", "p", "power", COLUMNS) for n in range(3)))

Reading = tuple[int, int, int]  # entry, ts, value

#: For each batch: for each entry how many rows it has.
shapes = st.lists(
    st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
    min_size=2,
    max_size=8,
)


def batches_of(shape: list[list[int]], first_seq: int = 1) -> list[StoredBatch]:
    """Batches whose values are their seq, their times ascending."""
    made = []
    for seq, counts in enumerate(shape, first_seq):
        rows = []
        for entry, count in enumerate(counts):
            if count:
                stamps = array("q", [1000 * seq + n for n in range(count)])
                slots = array("q", [x for n in range(count) for x in (10 * seq + n, 0)])
                rows.append(Rows(entry, stamps, slots, bytearray(2 * count), [f"{seq}"] * count))
        body = encode(SCHEMA, rows)
        readings = 2 * sum(counts)
        made.append(StoredBatch(7, seq, 1, SCHEMA.id, CODEC, body, b"", readings, 1000 * seq, 1000 * seq + 2))
    return made


def readings(body: bytes) -> list[Reading]:
    return sorted((b.entry, ts, b.slots[2 * n]) for b in decode(CODEC, SCHEMA, body) for n, ts in enumerate(b.ts))


def of_seqs(recoded: Recoded, ranges: list[tuple[int, int]]) -> list[Reading]:
    """What a consumer keeps of a joined batch, when only the seqs of some ranges (from 0) are new to it."""
    rows = decode(recoded.codec, SCHEMA, recoded.body)
    runs = unpack_parts(recoded.parts, recoded.count, rows)
    kept = [rows_of(block, own, ranges) for block, own in zip(rows, runs, strict=True)]
    return sorted((b.entry, ts, b.slots[2 * n]) for b in kept for n, ts in enumerate(b.ts))


def stored(recoded: Recoded, seq: int) -> StoredBatch:
    return StoredBatch(
        7, seq, recoded.count, SCHEMA.id, CODEC, recoded.body, recoded.parts,
        recoded.readings, recoded.first_ts, recoded.last_ts,
    )  # fmt: skip


def joined(batches: list[StoredBatch]) -> Recoded:
    found = join(SCHEMA, batches)
    assert found is not None
    return found


@given(shapes, st.data())
def test_joined_rows_are_known_by_their_seq(shape: list[list[int]], data: st.DataObject) -> None:
    """A joined batch has every reading of its batches, and a consumer can take out any range of seqs."""
    batches = batches_of(shape)
    whole = joined(batches)
    assert readings(whole.body) == sorted(r for batch in batches for r in readings(batch.body))
    assert whole.readings == sum(batch.readings for batch in batches)
    assert (whole.first_ts, whole.last_ts // 1000) == (batches[0].first_ts, len(batches))
    first = data.draw(st.integers(0, len(batches) - 1))
    last = data.draw(st.integers(first, len(batches) - 1))
    expected = sorted(r for batch in batches[first : last + 1] for r in readings(batch.body))
    assert of_seqs(whole, [(first, last)]) == expected


@given(shapes, st.integers(1, 7))
def test_joining_joined_batches(shape: list[list[int]], at: int) -> None:
    """Joining in steps is joining at once."""
    batches = batches_of(shape)
    at = min(at, len(batches) - 1)
    early = stored(joined(batches[:at]), 1)
    assert joined([early, *batches[at:]]) == joined(batches)


@given(shapes)
def test_split_joined_parts_between_seqs(shape: list[list[int]]) -> None:
    """The halves of a joined batch are what joining the halves of its batches gives."""
    batches = batches_of(shape)
    halves = split(SCHEMA, stored(joined(batches), 1))
    assert halves is not None
    middle = len(batches) // 2
    for half, expected in zip(halves, (batches[:middle], batches[middle:]), strict=True):
        assert half == (joined(expected) if len(expected) > 1 else half)
        assert readings(half.body) == sorted(r for batch in expected for r in readings(batch.body))
        assert half.count == len(expected)


def test_split_single_batch_until_one_row_is_left() -> None:
    """One batch is parted by meter, then by time, without loss; a single row of one meter cannot be."""
    (batch,) = batches_of([[2, 3, 0]])
    left, found = [batch], []
    while left:
        halves = split(SCHEMA, left.pop())
        if halves is None:
            continue
        for half in halves:
            assert half.parts == b""
            left.append(stored(half, 1))
            if len(readings(half.body)) == 1:
                found += readings(half.body)
    assert sorted(found) == readings(batch.body)


def test_times_that_run_back_are_not_joined() -> None:
    """After a clock was set back batches stay apart: within one, a meter's rows are in time order."""
    later, earlier = reversed(batches_of([[1, 1, 1], [1, 1, 1]]))
    assert join(SCHEMA, [later, earlier]) is None


@pytest.mark.parametrize("parts", [b"\x00", b"\x01\x02\x01\xff", b"\x01\x03\x01", b"\x01\x02\x01\x00", b"\x05"])
def test_parts_that_do_not_fit(parts: bytes) -> None:
    """Parts that are not those of the rows are refused."""
    rows = [Rows(0, array("q", [1, 2]), array("q", [0] * 4), bytearray(4), [None] * 2)]
    assert unpack_parts(pack_parts([[(2, 1)]]), 2, rows) == [[(2, 1)]]
    with pytest.raises(PayloadError):
        unpack_parts(parts, 2, rows)


@given(st.binary(max_size=30))
def test_hostile_parts(parts: bytes) -> None:
    """Whatever the bytes are, they are runs of the rows, or refused."""
    rows = [Rows(0, array("q", [1, 2]), array("q", [0] * 4), bytearray(4), [None] * 2)]
    try:
        (runs,) = unpack_parts(parts, 3, rows)
    except PayloadError:
        return
    assert sum(length for length, _ in runs) == 3
