"""bench-codec: bytes a reading of key and chained batches beside other codecs, what losses do, and speed."""

import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from parkfleet.agent.primer import PrimerBuilder
from parkfleet.protocols.payload import delta_native
from parkfleet.protocols.payload.chain import native, pure
from parkfleet.protocols.payload.chain.coding import make_primer, prime
from parkfleet.protocols.payload.chain.prior import Prior, built_in
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.benchmarks.datasets import NAMES, Dataset, MissingDataError, load
from tests.benchmarks.peers.codecs import PEERS, ZSTD, zstd_sizer
from tests.benchmarks.reporting import Measure, write_report
from tests.benchmarks.train_prior import DAY, HOUR, MINUTE, QUARTER, train
from tests.payload.losses import Losses, lose_batches

HEADER = """\
Bytes a reading, times, series and quality included, bodies only (with the envelope: the last row of each length).
Data: real meters (SOURCES.md beside them): house and lab power, water, gas, heat; means over the sets named. Each set
is cut in time: its first 30 % is for learning, and everybody is measured on the rest. Learned from it: zstd's
dictionary; our primer, made by the agent's own rule, sent once with the schema, not counted (its size has its own row).
  primed            primer, and a prior that has learned from the other sets only: a gateway that knows its meters
  unprimed          the same without primer: a new gateway's first hour
  prior of its own  no primer, but a prior that has learned from the first 30 % of every set
The prior that comes with the package has learned from all of these data, and is not what is measured here.
Chained: a key at every tenth batch. A chained batch's 32-bit link stands in the envelope, in the place of the schema's
id, and costs no bytes. Every batch of ours is decoded again and compared. No meter of these data has a bad quality.
Peers: Gorilla and Chimp on float64, sizes counted bit by bit as the papers say; zstd without its magic number;
pcodec's times as varints; brotli 11 on byte-shuffled differences, the better of first and second ones."""

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
Begin = Callable[[], native.Chain]


@cache
def dataset(name: str) -> Dataset:
    return load(name)


@cache
def cut(name: str) -> int:
    """Where a set's first part ends, ms UTC."""
    first, last = span(name)
    return first + int(LEARNED * (last - first))


def span(name: str) -> tuple[int, int]:
    """A set's first time, and its last, ms UTC."""
    blocks = dataset(name).rows
    return min(block.ts[0] for block in blocks), max(block.ts[-1] for block in blocks)


@cache
def batches(name: str, seconds: int) -> tuple[list[Batch], list[Batch]]:
    """(to learn from, to be measured)."""
    first, last = span(name)
    parts = dataset(name).part(first, cut(name)), dataset(name).part(cut(name), last + 1)
    learned, measured = (list(part.batches(seconds)) for part in parts)
    return learned, measured


def prior_of(names: Sequence[str]) -> Prior:
    """What the first part of these sets teaches."""
    lengths = (MINUTE, QUARTER, HOUR, DAY)
    return train((dataset(n).schema, {seconds: batches(n, seconds)[0] for seconds in lengths}) for n in names)


def primer_of(name: str, seconds: int, prior: Prior) -> tuple[bytes, ...]:
    """What the agent would have made of the first part, in batches of that length."""
    builder = PrimerBuilder(dataset(name).schema, span(name)[0], cut(name))
    for rows in batches(name, seconds)[0]:
        builder.add(rows)
    return make_primer(native.Chain(dataset(name).schema, prior), builder.batches())


def beginning(name: str, prior: Prior, primer: Sequence[bytes] = ()) -> Begin:
    """Makes the memory before a key batch."""
    schema = dataset(name).schema
    if not primer:
        return lambda: native.Chain(schema, prior)
    chain = native.Chain(schema, prior)
    prime(chain, primer)
    return chain.copy


def readings(rows: Batch) -> int:
    return sum(len(block.quality) for block in rows)


def per_reading(name: str, seconds: int, size: Callable[[Schema, Batch], float]) -> float:
    """Bytes a reading over the measured batches of a set."""
    measured = batches(name, seconds)[1]
    return sum(size(dataset(name).schema, rows) for rows in measured) / sum(map(readings, measured))


def ours(name: str, seconds: int, begin: Begin, every: int) -> float:
    """Of our batches, each decoded again. Raises AssertionError where it differs."""
    measured = batches(name, seconds)[1]
    size = 0
    for at, rows in enumerate(measured):
        if at % every == 0:
            writer, reader = begin(), begin()
        body = writer.encode(rows)
        assert reader.decode(body) == rows, f"{name} differs"
        size += len(body)
    return size / sum(map(readings, measured))


def mean(seconds: int, of: Callable[[str], float]) -> float:
    return statistics.mean(of(name) for name in SETS[seconds])


def peers_of(seconds: int) -> dict[str, float]:
    """Bytes a reading of everybody else, and of our own plain codec."""

    def mean_of(size: Callable[[Schema, Batch], float]) -> float:
        return mean(seconds, lambda name: per_reading(name, seconds, size))

    found = {peer: mean_of(size) for peer, size in PEERS.items()}
    found[ZSTD] = mean(
        seconds, lambda n: per_reading(n, seconds, zstd_sizer(dataset(n).schema, batches(n, seconds)[0]))
    )
    return found


def sizes(seconds: int, own: Prior, others: dict[str, Prior]) -> Iterator[Measure]:
    """The rows of one length of batch."""
    peers = peers_of(seconds)
    best = min(peers.values())
    primers = {name: primer_of(name, seconds, others[name]) for name in SETS[seconds]}
    kinds: dict[str, Callable[[str], Begin]] = {
        "primed": lambda name: beginning(name, others[name], primers[name]),
        "unprimed": lambda name: beginning(name, others[name]),
        "prior of its own": lambda name: beginning(name, own),
    }
    where = ", ".join(SETS[seconds])
    for every, kind, target in zip((1, KEY_EVERY), ("key", "chained"), TARGETS[seconds], strict=True):
        for how, begin_of in kinds.items():
            begins = {name: begin_of(name) for name in SETS[seconds]}
            size = mean(seconds, lambda name: ours(name, seconds, begins[name], every))  # noqa: B023 (called at once)
            shown = peers if every == 1 and how == "primed" else {}
            what = f"{NAMES_OF[seconds]}, {kind}, {how} ({where})"
            yield Measure(what, "bytes/reading", size, shown, size / best, f"≤ {target}", size <= target)
    plain = mean(
        seconds, lambda n: per_reading(n, seconds, lambda schema, rows: len(delta_native.encode(schema, rows)))
    )
    yield Measure(f"{NAMES_OF[seconds]}, codec 1", "bytes/reading", plain, ratio=plain / best)
    largest = max(sum(map(len, primer)) for primer in primers.values())
    yield Measure(f"{NAMES_OF[seconds]}, largest primer, once a schema", "bytes", largest)
    yield envelope_row(seconds, {name: kinds["primed"](name) for name in SETS[seconds]})


def envelope_row(seconds: int, begins: dict[str, Begin]) -> Measure:
    """What a key batch costs as the message's payload."""

    def whole(name: str) -> float:
        def size(schema: Schema, rows: Batch) -> float:
            return len(Envelope(2, schema.id, 2**31, 1000, 1, 0, begins[name]().encode(rows)).pack())

        return per_reading(name, seconds, size)

    return Measure(f"{NAMES_OF[seconds]}, key, primed, with its envelope", "bytes/reading", mean(seconds, whole))


def losses() -> list[Measure]:
    """Minute batches of every set through a link that loses, repeats and swaps them."""
    total = Losses()
    for name in NAMES:
        schema = dataset(name).schema
        total += lose_batches(schema, batches(name, MINUTE)[1][:400], KEY_EVERY)
    return [
        Measure(
            f"chained batches, {total.lost} of {total.sent} lost, others repeated or swapped: values wrong",
            "",
            total.wrong,
            target="0",
            met=total.wrong == 0,
        ),
        Measure("   batches that could not be read, not told", "", total.untold, target="0", met=total.untold == 0),
        Measure("   batches missing after the replay", "", total.missing, target="0", met=total.missing == 0),
        Measure("   batches refused until the next key or the replay", "", total.refused),
    ]


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
    own = prior_of(NAMES)
    others = {name: prior_of([other for other in NAMES if other != name]) for name in NAMES}
    measures = [row for seconds in SETS for row in sizes(seconds, own, others)]
    write_report("codec", HEADER, [*measures, *losses(), *speeds(built_in())])


if __name__ == "__main__":
    try:
        main()
    except MissingDataError as error:
        raise SystemExit(str(error)) from None
