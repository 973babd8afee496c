"""Targets: one native parser each, fed with the fuzzer's bytes; each asserts what must hold for any bytes at all.

Bytes that the pure-Python oracle accepts must give the same result; bytes that it refuses must give an error, never
a value. Memory errors and undefined behaviour are the sanitizers' to find.
"""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from parkfleet.native.engine import Engine
from parkfleet.native.engine_parts import decode_answer, search_answer
from parkfleet.native.spec import (
    ORDERS,
    SERIAL,
    TCP,
    TYPES,
    FieldSpec,
    LineSpec,
    MeterSpec,
    Record,
    RequestSpec,
)
from parkfleet.protocols.modbus import rtu
from parkfleet.protocols.payload import delta, delta_native
from parkfleet.protocols.payload.chain import native
from parkfleet.protocols.payload.chain.prior import built_in
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry
from parkfleet.protocols.profile import FIXED_REGISTERS, Point
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import decode

_FIELD_REGISTERS: Final = {**FIXED_REGISTERS, "bcd": 2, "bits": 2, "string": 4}
_COLUMNS: Final = (
    Column("a", "", "int", "gauge"),
    Column("b", "", "float32", "gauge"),
    Column("c", "", "float64", "gauge", digits=2),
    Column("d", "", "string", "state"),
    Column("e", "", "int", "counter"),
)
_SCHEMA: Final = Schema(
    (Entry("a", "p", "power", _COLUMNS), Entry("b", "p", "power", _COLUMNS[:1]), Entry("c", "p", "power", _COLUMNS))
)


def _line(function: int, unit: int, count: int) -> LineSpec:
    kind = TYPES.index("bool" if function < 3 else "uint16")
    request = RequestSpec(function, 100, count, tuple(FieldSpec(i, kind, 0, i, 1) for i in range(count)))
    return LineSpec(SERIAL, 1_000_000_000, (MeterSpec(0, unit, 0, count, (request,)),))


_LINES: Final = [_line(function, unit, count) for function in (1, 2, 3, 4) for unit in (1, 7, 247) for count in (1, 9)]
_LINES.extend(_line(function, 7, 125) for function in (1, 4))


def rtu_frames(data: bytes) -> None:
    """An RTU line's answer among any bytes, in any pieces: only a right frame of the asked unit is one."""
    if len(data) < 2:
        return
    line, pieces, stream = _LINES[data[0] % len(_LINES)], 1 + data[1] % 32, data[2:]
    kind, found = search_answer(line, _cut(stream, pieces))
    if kind in ("answer", "refusal"):
        meter = line.meters[0]
        request = meter.requests[0]
        values = (request.items + 7) // 8 if request.function < 3 else 2 * request.items
        head = bytes([meter.unit, request.function, values])
        frame = head + found if isinstance(found, bytes) else bytes([meter.unit, 0x80 | request.function, found])
        assert frame + struct.pack("<H", rtu.crc16(frame)) in stream


def tcp_stream(data: bytes) -> None:
    """What a TCP endpoint says to three requests before it hangs up: values only out of a right frame."""
    if not data:
        return
    server = socket.create_server(("127.0.0.1", 0))
    address = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", server.getsockname()[1], b"\x7f\0\0\1")
    engine = Engine(lines=1, ring_bytes=4096, seed=1)
    index = engine.add_line(LineSpec(TCP, 1_000_000_000, (_TCP_METER,), address=address, outstanding=1 + data[0] % 3))
    engine.turn()
    peer, _ = server.accept()
    server.close()  # whoever is hung up on is not let in again
    with peer:
        while not select.select([peer], [], [], 0)[0]:
            engine.turn()
        for piece in _cut(data[1:], 1 + data[0] // 3 % 8):
            with suppress(OSError):
                peer.sendall(piece)
            engine.wake(index, _TCP_METER.unit)  # a command: the turn does not wait
            engine.turn()
    records = engine.take()
    while not records:
        engine.turn()
        records = engine.take()
    engine.close()
    record = Record(*records[0])
    for index, request in enumerate(_TCP_METER.requests):
        columns = slice(4 * index, 4 * index + 4)
        if set(record.quality[columns]) == {Quality.GOOD}:
            values = struct.pack(">4H", *record.slots[columns])
            assert struct.pack(">HHBBB", 0, 11, _TCP_METER.unit, request.function, 8) + values in data


def registers(data: bytes) -> None:
    """A field of every type in any registers: the same as the slow decoder says."""
    if len(data) < 11:
        return
    name, order = TYPES[data[0] % len(TYPES)], ORDERS[data[1] % len(ORDERS)]
    if name == "bool":
        return
    count = _FIELD_REGISTERS[name]
    width = 1 + data[3] % 32 if name == "bits" else 1
    bit = data[2] % (16 * count - width + 1) if name == "bits" else 0
    point = Point("p", name, 0, order=order, registers=None if name in FIXED_REGISTERS else count, bit=bit, width=width)  # type: ignore[arg-type]
    words = data[3 : 3 + 2 * count].ljust(2 * count, b"\0")
    field = FieldSpec(0, TYPES.index(name), ORDERS.index(order), 0, count, bit, width)
    spec = MeterSpec(0, 1, 0, 1, (RequestSpec(3, 0, count, (field,)),))
    slots, quality, texts, _ = decode_answer(spec, 0, words)
    slot, expected, text = decode(point, list(struct.unpack(f">{count}H", words)))
    assert quality[0] == expected, (point, words.hex(), quality[0], expected)
    assert slots[0] == slot, (point, words.hex(), slots[0], slot)
    if text is not None:
        assert texts.split(b"\0")[0].decode("utf-8", "replace").strip() == text


def batch(data: bytes) -> None:
    """The body of a batch: refused by both decoders, or the same rows from both."""
    try:
        compiled = delta_native.decode(_SCHEMA, data)
    except PayloadError:
        compiled = None
    try:
        expected = delta.decode(_SCHEMA, data)
    except PayloadError:
        expected = None
    assert compiled == expected


def chained(data: bytes) -> None:
    """A key body and one that continues it, or one behind a pause: refused, or rows that come back when encoded.

    Pure Python is too slow to be asked here; tests/payload/test_chain.py compares the two.
    """
    cut = data[0] % (len(data) + 1) if data else 0
    given = native.Chain(_SCHEMA, built_in(), most=300)
    with suppress(PayloadError):
        for body in (data[1:cut], data[cut:]):
            rows = given.decode(body)
            coded = native.Chain(_SCHEMA, built_in()).encode(rows)
            assert native.Chain(_SCHEMA, built_in()).decode(coded) == rows
            if len(data) % 2:
                given.pause()
                given = given.copy()


_TCP_METER: Final = MeterSpec(
    0,
    7,
    0,
    12,
    tuple(
        RequestSpec(function, 100, 4, tuple(FieldSpec(4 * i + j, TYPES.index("uint16"), 0, j, 1) for j in range(4)))
        for i, function in enumerate((3, 4, 3))
    ),
)


def _cut(stream: bytes, pieces: int) -> Iterator[bytes]:
    size = max(1, len(stream) // pieces)
    return (stream[at : at + size] for at in range(0, len(stream), size))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "rtu_frames": rtu_frames,
    "tcp_stream": tcp_stream,
    "registers": registers,
    "batch": batch,
    "chained": chained,
}
