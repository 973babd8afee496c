"""bench-codec: bytes a reading of key and chained batches beside other codecs, and the codec's speed."""

import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from functools import cache

from parkfleet.protocols.payload import delta_native
from parkfleet.protocols.payload.chain import native, pure
from parkfleet.protocols.payload.chain.prior import Prior, built_in
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.benchmarks.datasets import NAMES, Dataset, MissingDataError, load
from tests.benchmarks.peers.codecs import PEERS, ZSTD, zstd_sizer
from tests.benchmarks.reporting import Measure, write_report
from tests.benchmarks.train_prior import DAY, HOUR, MINUTE, QUARTER, train

HEADER = """\
Bytes a reading, times, series and quality included, bodies only (for a whole message see the last row of each length).
Data: real meters (SOURCES.md beside them): house and lab power, water, gas, heat; means over the sets named. Each set
is parted in time: the prior, and zstd's dictionary, learn from the first 30 % of the batches; everybody is measured
on the rest. "same meters": the prior has seen the earlier part of every set. "other meters": of every set but the
measured one. Chained: a key at every tenth batch. A chained batch's 32-bit link stands in the
envelope, in the schema id's place, and costs no bytes. Every batch of ours is decoded again and compared.
The prior that comes with the package has learned from all of these data: it is not what is measured here.
Gorilla and Chimp: float64, sizes counted bit by bit as the papers say. No meter of these data has a bad quality."""

LEARNED = 0.3
KEY_EVERY = 10
NAMES_OF = {MINUTE: "1 min", QUARTER: "15 min", HOUR: "1 h", DAY: "1 day"}
SETS = {
    MINUTE: ("uci", "lab3", "campus", "gas"),
    QUARTER: ("uci", "lab3", "campus", "gas"),
    HOUR: ("uci", "campus", "gas"),
    DAY: ("uci", "gas", "heat"),
}
TARGETS = {MINUTE: (1.20, 0.58), QUARTER: (0.39, 0.33), HOUR: (0.33, 0.31), DAY: (0.37, 0.33)}  # key, chained
Batch = list[Rows]


@cache
def dataset(name: str) -> Dataset:
    return load(name)


@cache
def batches(name: str, seconds: int) -> tuple[list[Batch], list[Batch]]:
    """(to learn from, to be measured); lab3 has one quarter only to measure where it is cut in quarters."""
    every = list(dataset(name).batches(seconds))
    cut = max(1, int(LEARNED * len(every)))
    return every[:cut], every[cut:] or every


def prior_of(names: Sequence[str]) -> Prior:
    """What the first part of these sets teaches."""
    lengths = (MINUTE, QUARTER, HOUR, DAY)
    return train((dataset(n).schema, {seconds: batches(n, seconds)[0] for seconds in lengths}) for n in names)


def readings(rows: Batch) -> int:
    return sum(len(block.quality) for block in rows)


def per_reading(name: str, seconds: int, size: Callable[[Schema, Batch], float]) -> float:
    """Bytes a reading over the measured batches of a set."""
    measured = batches(name, seconds)[1]
    return sum(size(dataset(name).schema, rows) for rows in measured) / sum(map(readings, measured))


def ours(name: str, seconds: int, prior: Prior, every: int) -> float:
    """Of our batches, each decoded again. Raises AssertionError where it differs."""
    schema, measured = dataset(name).schema, batches(name, seconds)[1]
    size = 0
    for at, rows in enumerate(measured):
        if at % every == 0:
            writer, reader = native.Chain(schema, prior), native.Chain(schema, prior)
        body = writer.encode(rows)
        assert reader.decode(body) == rows, f"{name} differs"
        size += len(body)
    return size / sum(map(readings, measured))


def mean(seconds: int, of: Callable[[str], float]) -> float:
    return statistics.mean(of(name) for name in SETS[seconds])


def _mean_of(seconds: int, size: Callable[[Schema, Batch], float]) -> float:
    return mean(seconds, lambda name: per_reading(name, seconds, size))


def sizes(seconds: int, same: Prior, others: dict[str, Prior]) -> list[Measure]:
    """The rows of one length of batch."""
    peers = {peer: _mean_of(seconds, size) for peer, size in PEERS.items()}
    peers[ZSTD] = mean(
        seconds, lambda n: per_reading(n, seconds, zstd_sizer(dataset(n).schema, batches(n, seconds)[0]))
    )
    peers["codec 1 (ours: delta, varint)"] = mean(
        seconds, lambda n: per_reading(n, seconds, lambda schema, rows: len(delta_native.encode(schema, rows)))
    )
    best = min(peers.values())
    rows = []
    where = ", ".join(SETS[seconds])
    for every, kind, target in zip((1, KEY_EVERY), ("key", "chained"), TARGETS[seconds], strict=True):
        for who, priors in (("same meters", dict.fromkeys(NAMES, same)), ("other meters", others)):
            size = statistics.mean(ours(name, seconds, priors[name], every) for name in SETS[seconds])
            shown = peers if every == 1 and who == "same meters" else {}
            what = f"{NAMES_OF[seconds]}, {kind}, prior of {who} ({where})"
            rows.append(Measure(what, "bytes/reading", size, shown, size / best, f"≤ {target}", size <= target))
    return [*rows, envelope_row(seconds, same)]


def envelope_row(seconds: int, prior: Prior) -> Measure:
    """What a key batch costs as the message's payload."""

    def size(schema: Schema, rows: Batch) -> float:
        return len(Envelope(2, schema.id, 2**31, 1000, 1, 0, native.Chain(schema, prior).encode(rows)).pack())

    whole = mean(seconds, lambda n: per_reading(n, seconds, size))
    return Measure(f"{NAMES_OF[seconds]}, key, with its envelope", "bytes/reading", whole)


def speeds(prior: Prior) -> list[Measure]:
    """Steady state over all data in quarter-hour batches of one chain a set; a key batch; pure Python."""
    encoding = decoding = 0.0
    count = 0
    for name in NAMES:
        schema, run = dataset(name).schema, list(dataset(name).batches(DAY if name == "heat" else QUARTER))
        writer, reader = native.Chain(schema, prior), native.Chain(schema, prior)
        start = time.perf_counter()
        bodies = [writer.encode(rows) for rows in run]
        middle = time.perf_counter()
        for body in bodies:
            reader.decode(body)
        encoding, decoding = encoding + middle - start, decoding + time.perf_counter() - middle
        count += sum(map(readings, run))
    schema, rows = thousand()
    body = native.Chain(schema, prior).encode(rows)
    key_encode = 1000 * timed(lambda: native.Chain(schema, prior).encode(rows), 200)
    key_decode = 1000 * timed(lambda: native.Chain(schema, prior).decode(body), 200)
    lab = next(iter(dataset("lab3").batches(MINUTE)))
    coded = native.Chain(dataset("lab3").schema, prior).encode(lab)
    slow = readings(lab) / timed(lambda: pure.Chain(dataset("lab3").schema, prior).decode(coded), 3)
    return [
        Measure(
            "encode, steady, one core",
            "M readings/s",
            count / encoding / 1e6,
            target="≥ 3",
            met=count / encoding >= 3e6,
        ),
        Measure(
            "decode, steady, one core",
            "M readings/s",
            count / decoding / 1e6,
            target="≥ 3",
            met=count / decoding >= 3e6,
        ),
        Measure("key batch of 1,000 readings, encode", "ms", key_encode, target="≤ 1", met=key_encode <= 1),
        Measure("key batch of 1,000 readings, decode", "ms", key_decode, target="≤ 1", met=key_decode <= 1),
        Measure("pure Python, decode", "readings/s", slow, target="≥ 10,000", met=slow >= 10_000),
    ]


def thousand() -> tuple[Schema, Batch]:
    """One scan each of 50 equal meters with 20 points."""
    columns = tuple(
        Column(f"p{n}", "V" if n < 15 else "kWh", "int", "gauge" if n < 15 else "counter") for n in range(20)
    )
    schema = Schema(tuple(Entry(f"m{n}", "p", "power", columns) for n in range(50)))
    slots = [array("q", [2300 + (7 * n * p) % 100 for p in range(20)]) for n in range(50)]
    return schema, [Rows(n, array("q", [1_795_438_548_000]), slots[n], bytearray(20)) for n in range(50)]


def timed(function: Callable[[], object], times: int) -> float:
    """Seconds, the median."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Prints the table; no arguments."""
    same = prior_of(NAMES)
    others = {name: prior_of([other for other in NAMES if other != name]) for name in NAMES}
    measures = [row for seconds in SETS for row in sizes(seconds, same, others)]
    write_report("codec", HEADER, [*measures, *speeds(built_in())])


if __name__ == "__main__":
    try:
        main()
    except MissingDataError as error:
        raise SystemExit(str(error)) from None
