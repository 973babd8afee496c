"""Reading: every point of one meter as it is now, with the registers it was made of."""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import msgspec

from parkfleet.agent.plan import MeterPlan
from parkfleet.agent.transformers import doubts
from parkfleet.agent.transport import LineDownError
from parkfleet.protocols.derived import Derivation
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ModbusError, ReadRequest
from parkfleet.protocols.payload.series import Scan, Value, has_value
from parkfleet.protocols.profile import Point, Table
from parkfleet.protocols.quality import EXCEPTION, Quality, quality_name
from parkfleet.protocols.registers import column_of, decode

#: Asks a meter for registers (or bits). Raises ModbusError, LineDownError.
Ask = Callable[[ReadRequest], Awaitable[list[int]]]


class PointReading(msgspec.Struct, frozen=True):
    """One point: what it says, and out of what."""

    point: str
    value: Value
    unit: str
    quality: str
    table: Table
    address: int  # of the first register, 0-based
    registers: tuple[int, ...] = ()  # or bits; empty when nothing was read


class Seen(NamedTuple):
    """A point's reading, and what it was decoded to."""

    reading: PointReading
    slot: int
    code: int  # quality
    text: str | None
    is_string: bool


class DeliveredReading(msgspec.Struct, frozen=True):
    """What is delivered of a meter whose points are not delivered as they were read."""

    point: str
    value: Value
    unit: str
    quality: str
    of: tuple[str, ...]  # the points it is made of


class MeterReading(msgspec.Struct, frozen=True):
    """One meter at one time."""

    meter: str
    line: str
    unit: int
    profile: str
    ts: int  # ms UTC, at the end
    took_ms: float  # from the first request to the last answer
    points: tuple[PointReading, ...]
    told: str = ""  # what went wrong, if something did
    delivered: tuple[DeliveredReading, ...] = ()  # empty: the points are delivered as they were read
    doubts: tuple[str, ...] = ()  # what speaks against the configuration, in sentences

    @property
    def answered(self) -> bool:
        """Whether the meter said anything, be it a refusal."""
        return any(point.registers or point.quality.startswith("exception") for point in self.points)


async def read_meter(plan: MeterPlan, ask: Ask) -> MeterReading:
    """Reads all the points of a meter. What fails is in the points' qualities; nothing is raised."""
    begun, patient = time.monotonic(), _patient(ask, plan.gap_s)
    found: dict[int, Seen] = {}
    told = ""
    for planned in plan.requests:
        try:
            found |= await _read_together(plan.points, planned.points, planned.request, patient)
        except (ModbusError, LineDownError) as error:
            told, cause = str(error), _cause(error)
            found |= {index: _nothing(plan.points[index], cause) for index in planned.points}
            break  # the next request would only wait as long again
    seen = [found.get(index) or _left_out(plan, index) for index in range(len(plan.points))]
    config, points = plan.config, tuple(point.reading for point in seen)
    took = 1000 * (time.monotonic() - begun)
    return MeterReading(
        config.id,
        config.line,
        config.unit,
        config.profile,
        round(time.time() * 1000),
        round(took, 1),
        points,
        told,
        tuple(_delivered(plan.derivation, seen)) if plan.derivation else (),
        tuple(doubts(plan, points)),
    )


async def read_scan(plan: MeterPlan, entry: int, ask: Ask) -> Scan | None:
    """A scan of a meter out of turn, for an entry of the schema, before derivation; None when it fell silent."""
    patient = _patient(ask, plan.gap_s)
    found: dict[int, Seen] = {}
    for planned in plan.requests:
        try:
            found |= await _read_together(plan.points, planned.points, planned.request, patient)
        except (ModbusError, LineDownError):
            return None
    seen = [found.get(index) or _left_out(plan, index) for index in range(len(plan.points))]
    texts = tuple(point.text for point in seen if point.is_string)
    slots, quality = array("q", [point.slot for point in seen]), bytes(point.code for point in seen)
    return Scan(entry, round(time.time() * 1000), slots, quality, texts)


def _patient(ask: Ask, gap_s: float) -> Ask:
    """The same with the silence before each request that the meter needs, as after the one before it."""
    if not gap_s:
        return ask

    async def asked(request: ReadRequest) -> list[int]:
        await asyncio.sleep(gap_s)
        return await ask(request)

    return asked


def _delivered(derivation: Derivation, seen: list[Seen]) -> Iterator[DeliveredReading]:
    """What the points come to."""
    texts = tuple(point.text for point in seen if point.is_string)
    slots, quality = array("q", [point.slot for point in seen]), bytes(point.code for point in seen)
    scan = derivation.scan(Scan(0, 0, slots, quality, texts))
    strings = iter(scan.texts)
    for step, slot, code in zip(derivation.steps, scan.slots, scan.quality, strict=True):
        column = step.column
        text = next(strings) if column.type == "string" else None
        yield DeliveredReading(
            column.point,
            column.value(slot, text) if has_value(code) else None,
            column.unit,
            quality_name(code),
            tuple(dict.fromkeys(seen[index].reading.point for index in step.needs)),
        )


async def _read_together(
    points: tuple[Point, ...], chosen: tuple[int, ...], request: ReadRequest, ask: Ask
) -> dict[int, Seen]:
    """One request's points; each by itself when the meter refuses them together."""
    try:
        words = await ask(request)
    except ExceptionAnswerError as error:
        if len(chosen) == 1:
            return {chosen[0]: _nothing(points[chosen[0]], EXCEPTION | error.code)}
        found: dict[int, Seen] = {}
        for index in chosen:
            point = points[index]
            alone = ReadRequest(request.unit, point.table, point.address, point.count)
            found |= await _read_together(points, (index,), alone, ask)
        return found
    return {index: _said(points[index], words, request.address) for index in chosen}


def _said(point: Point, words: list[int], address: int) -> Seen:
    own = words[point.address - address : point.end - address]
    slot, quality, text = decode(point, own)
    value = column_of(point).value(slot, text) if quality == Quality.GOOD else None
    reading = PointReading(point.id, value, point.unit, quality_name(quality), point.table, point.address, tuple(own))
    return Seen(reading, slot, quality, text, point.type == "string")


def _left_out(plan: MeterPlan, index: int) -> Seen:
    """A point that was not asked for: it is known to be refused, or the meter fell silent before."""
    return _nothing(plan.points[index], plan.refused.get(index, Quality.SKIPPED))


def _nothing(point: Point, cause: int) -> Seen:
    reading = PointReading(point.id, None, point.unit, quality_name(cause), point.table, point.address)
    return Seen(reading, 0, cause, None, point.type == "string")


def _cause(error: ModbusError | LineDownError) -> int:
    if isinstance(error, LineDownError):
        return Quality.DISCONNECTED
    return Quality.TIMEOUT if isinstance(error, AnswerTimeoutError) else Quality.CORRUPT
