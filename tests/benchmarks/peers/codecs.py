"""Codecs of others, for bench-codec: bytes that one batch takes with each. Packages where there are any.

Gorilla (Pelkonen et al., VLDB 2015) and Chimp (Liakos et al., VLDB 2022) have no package: their sizes are counted here
bit by bit as the papers say, on float64 values, a series at a time, times as delta of delta; no stream is built.
"""

import gzip
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import msgpack

from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Rows

# make bench-codec installs them; mypy and tests do without.
brotli: Any = import_module("brotli")
numpy: Any = import_module("numpy")
pcodec: Any = import_module("pcodec")
pyarrow: Any = import_module("pyarrow")
parquet: Any = import_module("pyarrow.parquet")
zstandard: Any = import_module("zstandard")

#: What names the format, and a fixed format could leave away. Bytes.
_ZSTD_MAGIC = 4

Sizer = Callable[[Schema, Sequence[Rows]], float]


def json_gzip(schema: Schema, rows: Sequence[Rows]) -> float:
    """As ThingsBoard's gateway sends it: for each meter a list of {ts, values}; gzip 9."""
    message = {
        schema.entries[block.entry].meter: [
            {
                "ts": ts,
                "values": {column.point: column.value(slot) for column, slot in zip(columns, slots, strict=True)},
            }
            for ts, columns, slots in _scans(schema, block)
        ]
        for block in rows
    }
    return len(gzip.compress(json.dumps(message, separators=(",", ":")).encode(), 9))


def _scans(schema: Schema, block: Rows) -> Iterator[tuple[int, tuple[Column, ...], Sequence[int]]]:
    columns = schema.entries[block.entry].columns
    width = len(columns)
    for row, ts in enumerate(block.ts):
        yield ts, columns, block.slots[row * width : (row + 1) * width]


def sparkplug_gzip(schema: Schema, rows: Sequence[Rows]) -> float:
    """Sparkplug B 3.0 NDATA: a metric a reading (alias, timestamp, float or integer value), gzip 9."""
    out = bytearray(b"\x08" + _varint(rows[0].ts[0]))
    first = 0
    starts = []
    for entry in schema.entries:
        starts.append(first)
        first += len(entry.columns)
    for block in rows:
        for ts, columns, slots in _scans(schema, block):
            for index, (column, slot) in enumerate(zip(columns, slots, strict=True)):
                metric = b"\x10" + _varint(starts[block.entry] + index) + b"\x18" + _varint(ts)
                if column.factor.decimals:
                    metric += b"\x65" + struct.pack("<f", column.value(slot))
                else:
                    metric += b"\x58" + _varint(slot)
                out += b"\x12" + _varint(len(metric)) + metric
    return len(gzip.compress(bytes(out + b"\x18\x07"), 9))


def _varint(number: int) -> bytes:
    out = bytearray()
    number &= 0xFFFF_FFFF_FFFF_FFFF
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _columns(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """msgpack: for each meter its first time, steps of time, and each column's integers."""
    message = []
    for block in rows:
        width = len(schema.entries[block.entry].columns)
        steps = [b - a for a, b in pairwise(block.ts)]
        times = [block.ts[0], steps[0] if steps else 0, len(block.ts)] if len(set(steps)) < 2 else [block.ts[0], steps]
        message.append([block.entry, times, *[block.slots[index::width].tolist() for index in range(width)]])
    return bytes(msgpack.packb(message))


def zstd_sizer(schema: Schema, training: Sequence[Sequence[Rows]]) -> Sizer:
    """msgpack columns of integers, zstd 19, a dictionary of 16 kB trained on earlier batches where they suffice."""
    samples = [_columns(schema, rows) for rows in training]
    try:
        dictionary = zstandard.train_dictionary(16 * 1024, samples)
    except zstandard.ZstdError:  # too few or too small samples
        dictionary = None
    coder = zstandard.ZstdCompressor(
        level=19, dict_data=dictionary, write_content_size=False, write_checksum=False, write_dict_id=False
    )
    return lambda schema, rows: len(coder.compress(_columns(schema, rows))) - _ZSTD_MAGIC


def pco(schema: Schema, rows: Sequence[Rows]) -> float:
    """pcodec 12: the integers of all series in one array, one after the other; times as varints."""
    config = pcodec.ChunkConfig(compression_level=12)
    series = [numbers for block in rows for numbers in _series(schema, block)]
    values = numpy.concatenate([numpy.array(numbers, dtype=numpy.int64) for numbers in series])
    return len(pcodec.standalone.simple_compress(values, config)) + len(_times(rows))


def _series(schema: Schema, block: Rows) -> list[Sequence[int]]:
    width = len(schema.entries[block.entry].columns)
    return [block.slots[index::width] for index in range(width)]


def _times(rows: Sequence[Rows]) -> bytes:
    """For each meter its first time against the meter's before, its number of rows, its step, and changes of it."""
    out, before = bytearray(), 0
    for block in rows:
        steps = [b - a for a, b in pairwise(block.ts)]
        out += _folded(block.ts[0] - before) + _varint(len(steps)) + _folded(steps[0] if steps else 0)
        for at, (a, b) in enumerate(pairwise(steps)):
            if a != b:
                out += _varint(at) + _folded(b - a)
        before = block.ts[0]
    return bytes(out)


def _folded(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else ~number << 1 | 1)


def brotli_shuffled(schema: Schema, rows: Sequence[Rows]) -> float:
    """Integers in columns, first or second differences, their bytes shuffled, brotli 11; times as varints."""
    series = [numpy.array(numbers, dtype=numpy.int64) for block in rows for numbers in _series(schema, block)]
    return min(_brotli(series, order) for order in (1, 2)) + len(_times(rows))


def _brotli(series: Sequence[Any], order: int) -> int:
    for _ in range(order):
        series = [numpy.diff(numbers, prepend=0) for numbers in series]
    folded = numpy.concatenate([(numbers << 1) ^ (numbers >> 63) for numbers in series]).astype(numpy.uint64)
    # The high bytes that nobody needs cost nothing.
    shuffled = folded.view(numpy.uint8).reshape(-1, 8)[:, : (int(folded.max()).bit_length() + 7) // 8].T
    return min(len(brotli.compress(shuffled.tobytes(), quality=11, mode=mode)) for mode in (0, 1))


def parquet_zstd(schema: Schema, rows: Sequence[Rows]) -> float:
    """One Parquet file a batch: meter, time, a column of integers each; zstd 19."""
    columns = schema.entries[rows[0].entry].columns
    width = len(columns)
    table = {
        "meter": pyarrow.array([schema.entries[block.entry].meter for block in rows for _ in block.ts]),
        "ts": pyarrow.array([ts for block in rows for ts in block.ts], pyarrow.int64()),
    }
    for index, column in enumerate(columns):
        table[column.point] = pyarrow.array([slot for b in rows for slot in b.slots[index::width]], pyarrow.int64())
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(table), sink, compression="zstd", compression_level=19)
    return float(sink.getvalue().size)


def gorilla(schema: Schema, rows: Sequence[Rows]) -> float:
    """Gorilla, in bytes."""
    return sum(_series_bits(schema, block, _gorilla_bits) for block in rows) / 8


def chimp(schema: Schema, rows: Sequence[Rows]) -> float:
    """Chimp, in bytes."""
    return sum(_series_bits(schema, block, _chimp_bits) for block in rows) / 8


def _series_bits(schema: Schema, block: Rows, count: Callable[[list[int]], int]) -> int:
    """Times once an entry, then each column."""
    columns = schema.entries[block.entry].columns
    bits = _time_bits(block.ts)
    for index, column in enumerate(columns):
        values = [column.value(slot) for slot in block.slots[index :: len(columns)]]
        patterns = struct.unpack(f"<{len(values)}Q", struct.pack(f"<{len(values)}d", *values))
        bits += count(list(patterns))
    return bits


def _time_bits(ts: Sequence[int]) -> int:
    """64 bits for the first; then delta of delta in seconds: 1, 9, 12, 16 or 36 bits."""
    bits, before = 64, 0
    for a, b in pairwise(ts):
        step = (b - a) // 1000
        size = abs(step - before)
        bits += 1 if size == 0 else 9 if size <= 63 else 12 if size <= 255 else 16 if size <= 2047 else 36
        before = step
    return bits


def _zeros(number: int) -> tuple[int, int]:
    """Leading and trailing zeros of 64 bits that are not all 0."""
    return 64 - number.bit_length(), (number & -number).bit_length() - 1


def _gorilla_bits(patterns: list[int]) -> int:
    bits, window = 64, None
    for a, b in pairwise(patterns):
        difference = a ^ b
        if difference == 0:
            bits += 1
            continue
        lead, trail = _zeros(difference)
        lead = min(lead, 31)
        if window and lead >= window[0] and trail >= window[1]:
            bits += 2 + 64 - window[0] - window[1]
        else:
            bits += 2 + 5 + 6 + 64 - lead - trail
            window = lead, trail
    return bits


_CHIMP_LEADS = (0, 8, 12, 16, 18, 20, 22, 24)


def _chimp_bits(patterns: list[int]) -> int:
    bits, before = 64, -1
    for a, b in pairwise(patterns):
        difference = a ^ b
        if difference == 0:
            bits, before = bits + 2, -1
            continue
        lead, trail = _zeros(difference)
        lead = max(each for each in _CHIMP_LEADS if each <= lead)
        if trail > 6:
            bits, before = bits + 2 + 3 + 6 + 64 - lead - trail, -1
        elif lead == before:
            bits += 2 + 64 - lead
        else:
            bits, before = bits + 2 + 3 + 64 - lead, lead
    return bits


PEERS: dict[str, Sizer] = {
    "JSON + gzip 9": json_gzip,
    "Sparkplug B + gzip 9": sparkplug_gzip,
    "Gorilla": gorilla,
    "Chimp": chimp,
    "pcodec 12": pco,
    "Parquet + zstd 19": parquet_zstd,
    "delta, shuffle, brotli 11": brotli_shuffled,
}
ZSTD = "msgpack columns + zstd 19 + dictionary"
