"""Scan: finds which units answer on a line, and at which baud rate and parity.

Whoever answers anything with a right check sum is there, also with a refusal. Trials are in order of likelihood:
the unit ids that installers use, at every setting, before all the others.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

import msgspec

from parkfleet.agent.wire import Asker
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, CorruptAnswerError, ExceptionAnswerError, ReadRequest
from parkfleet.protocols.modbus.rtu import silence

Parity = Literal["N", "E", "O"]

#: The settings meters leave the works with, most likely first.
BAUDS: Final = (9600, 19200, 4800, 38400, 2400, 115200, 57600, 1200)
PARITIES: Final[tuple[Parity, ...]] = ("N", "E", "O")
#: Units that are tried at every setting before any other: works' settings and what people count from.
LIKELY_UNITS: Final = frozenset({*range(1, 11), 100, 126, 247})
#: A doubtful answer is asked for again with so many times the patience: it may have been a slow meter's.
PATIENCE: Final = 5
#: A gateway's way of saying that nobody is there: path unavailable, target did not respond.
_NOBODY: Final = frozenset({10, 11})
#: The cheapest request that every kind of meter understands well enough to answer or refuse.
_PROBE_BYTES: Final = 8 + 7


class Unit(msgspec.Struct, frozen=True):
    """Somebody who answers."""

    address: LineAddress  # with the settings it answers at
    unit: int
    told: str  # what it answered


@dataclass(frozen=True)
class Step:
    """One trial that is done."""

    address: LineAddress
    unit: int
    found: Unit | None
    garbled: str  # what came that is no answer; "" for nothing
    left_s: float  # what the rest takes when nobody else answers, seconds


class Open(Protocol):
    """Opens the line at one setting. Raises LineDownError."""

    def __call__(self, address: LineAddress, /) -> AbstractAsyncContextManager[Asker]: ...


@dataclass(frozen=True)
class ScanPlan:
    """What is tried, in which order."""

    settings: tuple[LineAddress, ...]
    units: tuple[int, ...]
    timeout: float = 0.2  # seconds to wait for an answer to begin
    quick: bool = False  # stop after the first setting at which anybody answers

    @cached_property
    def rounds(self) -> list[tuple[LineAddress, tuple[int, ...]]]:
        """(setting, units) in order."""
        likely = tuple(unit for unit in self.units if unit in LIKELY_UNITS)
        others = tuple(unit for unit in self.units if unit not in LIKELY_UNITS)
        if len(self.settings) == 1:
            return [(self.settings[0], self.units)]
        return [(setting, units) for units in (likely, others) if units for setting in self.settings]

    @property
    def worst_case(self) -> float:
        """Seconds when nobody answers anywhere."""
        return sum(self.seconds(setting) * len(units) for setting, units in self.rounds)

    def seconds(self, address: LineAddress) -> float:
        """How long a trial takes when nobody answers."""
        if not address.is_serial:
            return self.timeout
        byte = address.bits_per_byte / address.baud
        return self.timeout + _PROBE_BYTES * byte + silence(address.baud, address.bits_per_byte)


def serial_settings(address: LineAddress, bauds: Sequence[int], parities: Sequence[Parity]) -> tuple[LineAddress, ...]:
    """Every combination, by the places of both in their lists: 9600 N, then 19200 N and 9600 E …"""
    ranked = sorted(
        ((2 * b + 3 * p, b, p) for b in range(len(bauds)) for p in range(len(parities))),
    )
    return tuple(msgspec.structs.replace(address, baud=bauds[b], parity=parities[p]) for _, b, p in ranked)


async def scan(plan: ScanPlan, open_line: Open) -> AsyncGenerator[Step, None]:
    """Tries everything; a step for each trial. Raises LineDownError."""
    rounds = plan.rounds
    left = plan.worst_case
    met: LineAddress | None = None
    for index, (address, units) in enumerate(rounds):
        if met is not None and address != met:
            continue  # `left` counts what is left of the setting that was met
        known: set[int] = set()
        async with open_line(address) as line:
            for place, unit in enumerate(units):
                left -= plan.seconds(address)
                before = units[place - 1 : place] if place else ()
                for step in await _try(line, address, unit, before, plan.timeout, left):
                    if step.found is None or step.found.unit not in known:
                        yield step
                    if step.found is not None:
                        known.add(step.found.unit)
        if known and plan.quick:
            met = address
            left = sum(plan.seconds(a) * len(u) for a, u in rounds[index + 1 :] if a == met)


def only_meter(units: Sequence[Unit], asked: Iterable[int]) -> bool:
    """Whether it is one TCP device that answers whatever unit it is asked for."""
    count = len(set(asked))
    return count >= 8 and len(units) == count and not units[0].address.is_serial


async def _try(
    line: Asker, address: LineAddress, unit: int, before: Sequence[int], timeout: float, left: float
) -> list[Step]:
    """Asks one unit. A doubtful answer is settled by asking it, and the one before it, again with more patience."""
    found, garbled = await _probe(line, address, unit, timeout)
    if not garbled:
        return [Step(address, unit, found, "", left)]
    steps = []
    for doubtful in (*before, unit):
        found, still = await _probe(line, address, doubtful, PATIENCE * timeout)
        if found is not None or doubtful == unit:
            steps.append(Step(address, doubtful, found, still, left))
    return steps


async def _probe(line: Asker, address: LineAddress, unit: int, timeout: float) -> tuple[Unit | None, str]:
    """(who answered, what came instead of an answer)."""
    try:
        await line.transact(ReadRequest(unit, "holding", 0, 1), timeout)
    except AnswerTimeoutError:
        return None, ""
    except CorruptAnswerError as error:
        return None, str(error)
    except ExceptionAnswerError as error:
        return (None if error.code in _NOBODY else Unit(address, unit, str(error))), ""
    return Unit(address, unit, "answers"), ""
