"""Engine spec: an agent's plan as the native engine is told it, in numbers."""

from collections.abc import Iterable
from typing import Final

from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.native.spec import (
    ORDERS,
    RTU_TCP,
    SERIAL,
    TCP,
    TYPES,
    FieldSpec,
    LineSpec,
    MeterSpec,
    RequestSpec,
)
from parkfleet.protocols.modbus.rtu import silence
from parkfleet.protocols.profile import BIT_TABLES, Point

NS: Final = 1_000_000_000
KINDS: Final = {"serial": SERIAL, "tcp": TCP, "rtu+tcp": RTU_TCP}
#: A learned time-out is at least so much above the meter's turnaround, in nanoseconds. Over a network a lost segment
#: is sent again after 200 ms (Linux, TCP_RTO_MIN): that must not look like a dead meter.
LEAST_TIMEOUT_NS: Final = {SERIAL: 20_000_000, TCP: 300_000_000, RTU_TCP: 300_000_000}

#: Scans of so many seconds, and twice each meter's, have room until the event loop takes them. It may be busy for long
#: with a large batch.
RING_S: Final = 5.0
#: Bounds of that room, in bytes: a power of two.
RING_BYTES: Final = (2**18, 2**24)


def field_spec(point: Point, column: int, address: int) -> FieldSpec:
    """A point's place in the answer of a request that begins at an address."""
    factor = point.factor
    return FieldSpec(
        column=column,
        type=TYPES.index(point.type),
        order=ORDERS.index(point.order),
        first=point.address - address,
        registers=1 if point.table in BIT_TABLES else point.count,
        bit=point.bit,
        width=point.width,
        invalid=tuple(point.invalid),
        multiply=float(factor.multiply),
        add=float(factor.add),
        divide=float(10**factor.decimals),
    )


def meter_spec(plan: MeterPlan, tag: int) -> MeterSpec:
    """What the engine must know of a meter. Its records are tagged with tag + the bits of the groups that are due."""
    everys = tuple(group.every for group in plan.groups[1:])
    variants = tuple(_variant(plan, tag, due) for due in range(1, plan.all_due + 1))
    return _variant(plan, tag, 0)._replace(everys=everys, variants=variants)


def _variant(plan: MeterPlan, tag: int, due: int) -> MeterSpec:
    """The meter when some groups are due."""
    requests = tuple(
        RequestSpec(
            planned.request.function,
            planned.request.address,
            planned.request.count,
            tuple(field_spec(plan.points[index], index, planned.request.address) for index in planned.points),
        )
        for planned in plan.asked(due)
    )
    return MeterSpec(
        tag + due,
        plan.config.unit,
        round(plan.config.interval * NS),
        len(plan.points),
        requests,
        offset_ns=round(plan.offset_s * NS),
        gap_ns=round(plan.gap_s * NS),
    )


def ring_bytes(meters: Iterable[MeterPlan]) -> int:
    """Room for the scans that wait to be taken: a power of two."""
    needed = sum(_record_bytes(meter) * max(2.0, RING_S / meter.config.interval) for meter in meters)
    least, most = RING_BYTES
    return min(max(least, 1 << (int(needed) - 1).bit_length()) if needed else least, most)


def _record_bytes(plan: MeterPlan) -> int:
    """Of a scan, about: native/results.pxd."""
    texts = sum(2 * point.count for point in plan.points if point.type == "string")
    return 64 + 8 * len(plan.requests) + 9 * len(plan.points) + texts


def line_spec(plan: LinePlan, first_tag: int, address: bytes = b"", fd: int = -1) -> LineSpec:
    """What the engine must know of a line; its meters are tagged from first_tag on."""
    line = plan.address
    meters, tag = [], first_tag
    for meter in plan.meters:
        meters.append(meter_spec(meter, tag))
        tag += 1 + meter.all_due
    serial = line.kind == "serial"
    return LineSpec(
        kind=KINDS[line.kind],
        timeout_ns=round(plan.config.timeout * NS),
        meters=tuple(meters),
        byte_ns=round(line.bits_per_byte / line.baud * NS) if serial else 0,
        silence_ns=round(silence(line.baud, line.bits_per_byte) * NS) if serial else 0,
        fd=fd,
        address=address,
        least_timeout_ns=LEAST_TIMEOUT_NS[KINDS[line.kind]],
        connections=plan.config.connections,
        outstanding=plan.config.outstanding,
    )
