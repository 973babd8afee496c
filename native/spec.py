"""Spec: what the line engine is told, as plain tuples of numbers. Times are nanoseconds unless named otherwise."""

from array import array
from typing import Final, NamedTuple

SERIAL: Final = 0
TCP: Final = 1
RTU_TCP: Final = 2

#: What a field's registers are, in the order of the engine's enumeration.
TYPES: Final = (
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
    "bcd",
    "bits",
    "string",
    "bool",
)
ORDERS: Final = ("ABCD", "CDAB", "BADC", "DCBA")

#: Bounds of what a line may ask for; add_line refuses more.
MAX_PARTS: Final = 3
MAX_CONNECTIONS: Final = 16
MAX_OUTSTANDING: Final = 16


class FieldSpec(NamedTuple):
    """One column's place in an answer."""

    column: int
    type: int  # index into TYPES
    order: int  # index into ORDERS
    first: int  # register (bit) inside the answer
    registers: int  # 1 to 64; a bool: 1
    bit: int = 0
    width: int = 1
    invalid: tuple[int, ...] = ()  # raw values that mean "not available"
    multiply: float = 1.0  # values only: (raw * multiply + add) / divide
    add: float = 0.0
    divide: float = 1.0


class RequestSpec(NamedTuple):
    """One read."""

    function: int  # 1 to 4
    address: int
    items: int  # registers, or bits of functions 1 and 2
    fields: tuple[FieldSpec, ...]


class MeterSpec(NamedTuple):
    """One slave's reads, done together in each of its slots."""

    tag: int  # comes back with each record; 0 to 2^31 - 1
    unit: int
    interval_ns: int  # 0: again as soon as the line allows
    columns: int
    requests: tuple[RequestSpec, ...]
    offset_ns: int = 0  # slots are multiples of the interval, plus this, on the local clock (set_zone)
    gap_ns: int = 0  # pause the slave needs before each request
    values: bool = False  # records carry scaled doubles beside the slots
    #: Parts of it that are read seldom: part i in each everys[i]th slot. variants[m - 1] is the meter when the parts of
    #: the bits of m are due beside the rest; of it tag, requests, columns and values are taken, nothing else.
    everys: tuple[int, ...] = ()
    variants: tuple["MeterSpec", ...] = ()


class LineSpec(NamedTuple):
    """One serial bus or TCP endpoint."""

    kind: int  # SERIAL, TCP, RTU_TCP
    timeout_ns: int  # longest wait for an answer to begin
    meters: tuple[MeterSpec, ...]
    byte_ns: int = 0  # of a serial wire
    silence_ns: int = 0  # t3.5
    fd: int = -1  # SERIAL: open, configured, non-blocking; the engine closes it. -1: line_opened() follows
    address: bytes = b""  # TCP: struct sockaddr_in or sockaddr_in6 as in memory; empty: set_address() follows
    connections: int = 1
    least_timeout_ns: int = 20_000_000  # a learned time-out is at least so much above the turnaround
    outstanding: int = 1  # requests under way on each connection


class LineCounters(NamedTuple):
    """What a line did since it was added."""

    up: bool
    failed: bool  # tried and down
    error: int  # errno of the last failure, 0: ended by the other side
    openings: int  # line_opened() and fd of add_line() that the engine has seen
    losses: int  # times the line went down
    requests: int
    answers: int
    scans: int
    missed: int  # slots that passed before the meter's turn came
    timeouts: int
    corrupt: int
    exceptions: int
    disconnects: int  # requests that fell with their connection
    foreign: int  # frames of other units passed over
    late: int  # answers that came after their time-out and were dropped
    early: int  # answers that began before t3.5 behind the request
    stray: int  # bytes that belonged to nothing
    bytes_out: int
    bytes_in: int
    busy_ns: int
    dead_busy_ns: int  # of it: spent on meters that were taken for dead


class MeterCounters(NamedTuple):
    """What is known of one meter and its unit."""

    tag: int
    unit: int
    scans: int
    missed: int
    misses: int  # time-outs in a row
    cause: int  # quality code of the last miss
    turnaround_ns: int  # smoothed; 0: nothing learned yet
    deviation_ns: int
    timeout_ns: int  # in force now, without the answer's own wire time
    median_ns: int  # of the last 15 turnarounds; 0: none yet
    turnarounds: int  # measured so far, of the unit
    requests: int  # of the meter, as the next three
    answers: int  # refusals among them
    timeouts: int
    busy_ns: int


class Record(NamedTuple):
    """One finished scan. The engine's take() gives plain tuples in this order."""

    tag: int
    slot_ms: int  # UTC
    answers: tuple[int, ...]  # UTC ms of each request's answer, 0 where there was none
    slots: "array[int]"  # "q", one a column
    quality: bytes  # one a column
    texts: bytes  # the string fields' bytes, one behind the other
    values: "array[float] | None"  # "d", one a column; None unless the meter's specification wants them
