"""Parts: which rows of a joined batch are of which seq.

A joined batch covers several seqs, and a consumer may have some of them already. For each block of the body, in its
order, parts say how many rows each seq gave to it, as runs (seqs, rows): docs/payload.md, Joined batches.
"""

from collections.abc import Iterable, Iterator, Sequence

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.payload.varint import Reader, put

#: Of one block: each is (how many seqs in a row, rows that each of them gave).
Runs = list[tuple[int, int]]


def pack_parts(blocks: Sequence[Runs]) -> bytes:
    """Varints: for each block 0 where its runs are those of the block before, else how many runs, and the runs."""
    out = bytearray()
    before: Runs | None = None
    for runs in blocks:
        if runs == before:
            out.append(0)
            continue
        put(out, len(runs))
        for length, rows in runs:
            put(out, length)
            put(out, rows)
        before = runs
    return bytes(out)


def unpack_parts(data: bytes, count: int, blocks: Sequence[Rows]) -> list[Runs]:
    """The runs of each block of a batch that covers `count` seqs. Raises PayloadError where they do not fit it."""
    found: list[Runs] = []
    reader = Reader(data)
    for block in blocks:
        number = reader.varint()
        if number == 0 and not found:
            raise PayloadError("the parts of the first block refer to one before")
        if number > count:
            raise PayloadError(f"a block with {number} runs of parts, in a batch of {count}")
        runs: Runs = [] if number else found[-1]
        for _ in range(number):
            length, rows = reader.varint(), reader.varint()
            if not length:
                raise PayloadError("a run of parts without a seq")
            runs.append((length, rows))
        if sum(length for length, _ in runs) != count or sum(length * n for length, n in runs) != len(block.ts):
            raise PayloadError("the parts of a block are not its rows")
        found.append(runs)
    if reader.rest:
        raise PayloadError("bytes behind the parts")
    return found


def runs_of(counts: Iterable[tuple[int, int]]) -> Runs:
    """Runs with equal neighbours joined; counts: (seqs, rows that each gave)."""
    runs: Runs = []
    for length, rows in counts:
        if runs and runs[-1][1] == rows:
            runs[-1] = (runs[-1][0] + length, rows)
        else:
            runs.append((length, rows))
    return runs


def seq_of_rows(runs: Runs) -> Iterator[int]:
    """For each row of a block, in its order, the seq that gave it, counted from 0."""
    seq = 0
    for length, rows in runs:
        for _ in range(length):
            for _ in range(rows):
                yield seq
            seq += 1


def sliced(runs: Runs, first: int, last: int) -> Runs:
    """The runs of the seqs first to last, counted from 0."""
    found, at = [], 0
    for length, rows in runs:
        low, high = max(first, at), min(last + 1, at + length)
        if low < high:
            found.append((high - low, rows))
        at += length
    return found


def rows_of(block: Rows, runs: Runs, ranges: Iterable[tuple[int, int]]) -> Rows:
    """The rows that the seqs of some ranges gave to a block; seqs counted from 0, ranges (first, last) ascending."""
    kept = Rows(block.entry)
    for first, last in ranges:
        start = sum(length * rows for length, rows in sliced(runs, 0, first - 1))
        extend(kept, block, start, start + sum(length * rows for length, rows in sliced(runs, first, last)))
    return kept


def extend(target: Rows, source: Rows, start: int = 0, end: int | None = None) -> None:
    """Appends the rows start to end (not included) of one block to another of the same entry."""
    total = len(source.ts)
    end = total if end is None else end
    width, texts = len(source.quality) // total, len(source.texts) // total
    target.ts.extend(source.ts[start:end])
    target.slots.extend(source.slots[start * width : end * width])
    target.quality.extend(source.quality[start * width : end * width])
    target.texts.extend(source.texts[start * texts : end * texts])
