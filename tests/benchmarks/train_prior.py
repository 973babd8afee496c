"""Training of codec 2's prior: `make codec-prior` writes protocols/payload/chain/prior.bin from the data sets.

Runs of one to three batches, of a minute to a day, from random places of each data set, and longer ones with pauses
between the batches, each run a chain of its own that begins with what the runs before it left in cells and weights. In
two runs of five the quantities are taken as unknown, so that the general ones learn as well. At the end counts are cut,
so that a meter soon overrules its prior.
"""

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from parkfleet.native import chain as native
from parkfleet.protocols.payload.chain.layout import KINDS, Quantity, quantity_of
from parkfleet.protocols.payload.chain.native import Chain
from parkfleet.protocols.payload.chain.prior import PATH, Prior
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows
from tests.benchmarks.datasets import NAMES, MissingDataError, load

MINUTE, QUARTER, HOUR, DAY = 60, 900, 3600, 86400
#: Seconds, runs, batches a run; of a meter with one reading an hour the second.
_PLAN: Final = ((MINUTE, 100, 3), (QUARTER, 40, 3), (HOUR, 20, 2), (DAY, 10, 2))
_HOURLY_PLAN: Final = ((HOUR, 40, 3), (DAY, 60, 2))
#: The same with pauses: batches from anywhere, in the order of their times.
_APART: Final = ((MINUTE, 60, 16), (QUARTER, 30, 10), (HOUR, 15, 6), (DAY, 10, 3))
_HOURLY_APART: Final = ((HOUR, 30, 16), (DAY, 30, 12))
_SEED: Final = 7
_UNKNOWN: Final = 0.4
#: Counts that cells keep: a series' own, those of contexts, all others.
_KEPT: Final = (16, 16, 30)

Batches = Mapping[int, list[list[Rows]]]  # by their length in seconds


def train(sources: Iterable[tuple[Schema, Batches]]) -> Prior:
    """The prior that these data teach; the same data give the same."""
    known = list(sources)
    names = sorted({quantity_of(column) for schema, _ in known for entry in schema.entries for column in entry.columns})
    quantities: dict[Quantity, int] = {name: index for index, name in enumerate(names, len(KINDS))}
    prior = Prior.blank(quantities)
    chance = random.Random(_SEED)
    runs = [(schema, *run) for schema, batches in known for run in _runs(batches, chance)]
    chance.shuffle(runs)
    for schema, apart, run in runs:
        named = {} if chance.random() < _UNKNOWN else quantities
        chain = Chain(schema, Prior(prior.cells, prior.weights, named), teach=True)
        for batch in run:
            chain.encode(batch)
            if apart:
                chain.pause()
        cells, weights = chain.learned()
        prior = Prior(array("I", cells), array("i", weights), quantities)
    return Prior(_cut(prior.cells), prior.weights, quantities)


def _runs(batches: Batches, chance: random.Random) -> Iterator[tuple[bool, list[list[Rows]]]]:
    """Whether its batches stand apart, and a run."""
    hourly = all(len(block.ts) == 1 for batch in batches[HOUR] for block in batch)
    for seconds, count, length in _HOURLY_PLAN if hourly else _PLAN:
        every = batches[seconds]
        for start in [chance.randrange(len(every)) for _ in range(count)]:
            yield False, every[start : start + length]
    for seconds, count, length in _HOURLY_APART if hourly else _APART:
        every = batches[seconds]
        for _ in range(count):
            yield True, [every[at] for at in sorted(chance.sample(range(len(every)), min(length, len(every))))]


def _cut(cells: "array[int]") -> "array[int]":
    """Lower counts; and 16 bits of probability are enough for a file."""
    ends = (native.SHARED, native.FIRSTS, len(cells))
    out = array("I")
    for start, end, kept in zip((0, *ends), ends, _KEPT, strict=False):
        out.extend((cell >> 16 << 16) | min(cell & 1023, kept) for cell in cells[start:end])
    return out


def main() -> None:
    """Writes the prior; no arguments."""
    sources = []
    for name in NAMES:
        data = load(name)
        sources.append(
            (data.schema, {seconds: list(data.batches(seconds)) for seconds in (MINUTE, QUARTER, HOUR, DAY)})
        )
    packed = train(sources).pack()
    PATH.write_bytes(packed)
    print(f"{PATH}: {len(packed)} bytes")


if __name__ == "__main__":
    try:
        main()
    except MissingDataError as error:
        raise SystemExit(str(error)) from None
