"""Joining: several waiting batches into one larger, and one that is too large into two. Pure.

One body for many batches costs fewer bytes (the codec learns once) and one message instead of many. No reading is
changed by either, and the parts (payload/parts.py) tell a consumer which row is of which batch.
"""

from collections.abc import Sequence

from parkfleet.agent.store import Recoded, StoredBatch
from parkfleet.agent.thinning import own_values
from parkfleet.protocols.payload.codecs import CODEC, decode, encode
from parkfleet.protocols.payload.parts import Runs, extend, pack_parts, rows_of, runs_of, sliced, unpack_parts
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows, has_value


def join(schema: Schema, batches: Sequence[StoredBatch]) -> Recoded | None:
    """Batches of one schema and level of thinning whose seqs follow each other, as one.

    None where a meter's times would not ascend. Raises PayloadError for a body that cannot be decoded.
    """
    blocks: dict[int, Rows] = {}
    counts: dict[int, list[tuple[int, int]]] = {}
    known: dict[int, int] = {}  # entry -> seqs that its runs cover
    before = 0
    for batch in batches:
        rows = decode(batch.codec, schema, batch.body)
        for block, runs in zip(rows, _runs(batch, rows), strict=True):
            target = blocks.setdefault(block.entry, Rows(block.entry))
            if target.ts and block.ts[0] < target.ts[-1]:
                return None  # a clock was set back: each stays by itself, in the order in which it was written
            extend(target, block)
            absent = before - known.get(block.entry, 0)
            counts.setdefault(block.entry, []).extend([(absent, 0), *runs] if absent else runs)
            known[block.entry] = before + batch.count
        before += batch.count
    for entry, covered in known.items():
        if covered < before:
            counts[entry].append((before - covered, 0))
    entries = sorted(blocks)
    return _recoded(
        schema, [blocks[e] for e in entries], [runs_of(counts[e]) for e in entries], before, batches[0].level
    )


def split(schema: Schema, batch: StoredBatch) -> tuple[Recoded, Recoded] | None:
    """A batch as two; None when it is one row of one meter. Raises PayloadError.

    One that covers several seqs is parted between two of them; the second half of a single one needs a seq of its own.
    """
    rows = decode(batch.codec, schema, batch.body)
    if batch.count > 1:
        half = batch.count // 2
        runs = _runs(batch, rows)
        return (
            _of_seqs(schema, rows, runs, 0, half - 1, batch.level),
            _of_seqs(schema, rows, runs, half, batch.count - 1, batch.level),
        )
    if len(rows) > 1:
        middle = len(rows) // 2
        halves = rows[:middle], rows[middle:]
    elif len(rows[0].ts) > 1:
        middle = len(rows[0].ts) // 2
        earlier, later = Rows(rows[0].entry), Rows(rows[0].entry)
        extend(earlier, rows[0], 0, middle)
        extend(later, rows[0], middle)
        halves = [earlier], [later]
    else:
        return None
    one, two = (_recoded(schema, half, [], 1, batch.level) for half in halves)
    return one, two


def _runs(batch: StoredBatch, rows: Sequence[Rows]) -> list[Runs]:
    if batch.count == 1:
        return [[(1, len(block.ts))] for block in rows]
    return unpack_parts(batch.parts, batch.count, rows)


def _of_seqs(schema: Schema, rows: Sequence[Rows], runs: Sequence[Runs], first: int, last: int, level: int) -> Recoded:
    """What the seqs first to last gave, counted from 0."""
    kept = [(rows_of(block, own, [(first, last)]), own) for block, own in zip(rows, runs, strict=True)]
    filled = [(block, runs_of(sliced(own, first, last))) for block, own in kept if block.ts]
    return _recoded(schema, [block for block, _ in filled], [own for _, own in filled], last - first + 1, level)


def _recoded(schema: Schema, rows: Sequence[Rows], runs: Sequence[Runs], count: int, level: int) -> Recoded:
    stamps = [ts for block in rows for ts in (block.ts[0], block.ts[-1])]
    return Recoded(
        count=count,
        codec=CODEC,
        body=encode(schema, rows),
        parts=pack_parts(runs) if count > 1 else b"",
        readings=own_values(schema, rows) if level else sum(sum(map(has_value, block.quality)) for block in rows),
        first_ts=min(stamps, default=0),
        last_ts=max(stamps, default=0),
    )
