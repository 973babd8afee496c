"""Arithmetic: exact numbers out of a scan's slots: (sum of weighted points) × factors, rounded once at the end.

Decimals of 60 digits: integers, decimal scales and ratios such as 200/5 stay exact; a factor such as 1/3 is cut at the
60th digit. A factor that is not known, and a result beyond its column, are None: not available.
"""

import decimal
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from parkfleet.protocols.payload.series import Column, shortest_float32
from parkfleet.protocols.profile import FactorFrom, Point
from parkfleet.protocols.ratio import fraction

#: More digits than a product of any five of our operands has; never traps, an absurd result is found by its size.
_CONTEXT: Final = decimal.Context(prec=60, traps=[])
_LARGEST: Final = 2**63 - 1
#: Exponents and ratios beyond these are a register that holds something else.
_MAX_EXPONENT: Final = 18
_MAX_RATIO: Final = 10**9


@dataclass(frozen=True)
class Summand:
    """A point's value times its weight."""

    index: int  # its slot
    number: Callable[[int], Decimal]  # the slot -> the point's value
    weight: Decimal
    decimals: int | None  # at most so many has it; None: not known
    is_float: bool

    @classmethod
    def of(cls, point: Point, index: int, weight: Fraction = Fraction(1)) -> "Summand":
        """A point at a slot."""
        own, more = known_decimals(point), decimals_of(weight)
        decimals = None if own is None or more is None else own + more
        return cls(index, _number_of(point), as_decimal(weight), decimals, point.type.startswith("float"))


@dataclass(frozen=True)
class Multiplier:
    """A factor of a value."""

    index: int | None  # the slot it comes from; None: constant
    of: Callable[[int], Fraction | None]  # the slot -> the factor; None when it says none
    decimals: int | None  # at most so many has it; None: not known

    @classmethod
    def constant(cls, factor: Fraction) -> "Multiplier":
        """Always the same."""
        return cls(None, lambda _: factor, decimals_of(factor))

    @classmethod
    def by_code(cls, source: FactorFrom, index: int) -> "Multiplier":
        """Looked up by a code, or a power of ten."""
        if source.power is None:
            table = {code: fraction(factor) for code, factor in source.table.items()}
            return cls(index, table.get, _most(map(decimals_of, table.values())))
        sign = source.power

        def power(exponent: int) -> Fraction | None:
            return Fraction(10) ** (sign * exponent) if abs(exponent) <= _MAX_EXPONENT else None

        return cls(index, power, None)

    @classmethod
    def by_register(cls, point: Point, index: int) -> "Multiplier":
        """A ratio as the meter's own register says it."""
        number = _number_of(point)

        def ratio(slot: int) -> Fraction | None:
            value = number(slot)
            return Fraction(value) if 0 < value <= _MAX_RATIO else None

        return cls(index, ratio, None if point.type.startswith("float") else known_decimals(point))


@dataclass(frozen=True)
class Formula:
    """How a value comes out of slots."""

    summands: tuple[Summand, ...]
    multipliers: tuple[Multiplier, ...] = ()
    is_folded: bool = False  # a power factor in four-quadrant coding

    @property
    def needs(self) -> tuple[int, ...]:
        """The slots it reads."""
        factors = (multiplier.index for multiplier in self.multipliers if multiplier.index is not None)
        return (*(summand.index for summand in self.summands), *factors)

    @property
    def decimals(self) -> int | None:
        """At most so many has the value; None: not known."""
        total = _most(summand.decimals for summand in self.summands)
        for multiplier in self.multipliers:
            total = None if total is None or multiplier.decimals is None else total + multiplier.decimals
        return total

    @property
    def has_floats(self) -> bool:
        """Whether a float takes part in the sum."""
        return any(summand.is_float for summand in self.summands)

    def value(self, slots: Sequence[int]) -> Decimal | None:
        """The value; None when it is not available."""
        value = Decimal(0)
        for summand in self.summands:
            weighted = _CONTEXT.multiply(summand.number(slots[summand.index]), summand.weight)
            value = _CONTEXT.add(value, weighted)
        for multiplier in self.multipliers:
            factor = multiplier.of(0 if multiplier.index is None else slots[multiplier.index])
            if factor is None:
                return None
            value = _CONTEXT.multiply(value, Decimal(factor.numerator))
            if factor.denominator != 1:
                value = _CONTEXT.divide(value, Decimal(factor.denominator))
        return _folded(value) if self.is_folded else value


def slot_of(value: Decimal, column: Column) -> int | None:
    """The slot of a column for a value; None when it does not fit."""
    if not value.is_finite():
        return None
    if column.type == "float64":
        return int.from_bytes(struct.pack(">d", float(value)), "big", signed=True)
    slot = int(_CONTEXT.to_integral_value(_CONTEXT.scaleb(value, column.factor.decimals)))
    return slot if abs(slot) <= _LARGEST else None


def known_decimals(point: Point) -> int | None:
    """Decimals of a point's value; None when it is a float of which nobody knows."""
    if not point.type.startswith("float"):
        return point.factor.decimals
    return None if point.decimals is None else point.decimals + point.factor.decimals


def decimals_of(number: Fraction) -> int | None:
    """Decimals of a fraction; None when they do not end (1/3) or are more than 12."""
    return next((places for places in range(13) if 10**places % number.denominator == 0), None)


def as_decimal(number: Fraction) -> Decimal:
    """A fraction with 60 digits."""
    return _CONTEXT.divide(Decimal(number.numerator), Decimal(number.denominator))


def _most(decimals: Iterable[int | None]) -> int | None:
    """The largest; None when one is not known."""
    most = 0
    for places in decimals:
        if places is None:
            return None
        most = max(most, places)
    return most


def _folded(value: Decimal) -> Decimal | None:
    """A power factor out of its four-quadrant coding: beyond 1 it comes back (leading), 1.05 is 0.95."""
    if not abs(value) <= 2:  # NaN too
        return None
    if abs(value) <= 1:
        return value
    return (2 if value > 0 else -2) - value


def _number_of(point: Point) -> Callable[[int], Decimal]:
    """The exact value of a point's slot."""
    factor = point.factor
    multiply, add, shift = Decimal(factor.multiply), Decimal(factor.add), -factor.decimals

    def scaled(raw: Decimal) -> Decimal:
        return _CONTEXT.scaleb(_CONTEXT.add(_CONTEXT.multiply(raw, multiply), add), shift)

    match point.type:
        case "float32":
            return lambda slot: scaled(Decimal(repr(shortest_float32(slot))))
        case "float64":
            return lambda slot: scaled(Decimal(repr(struct.unpack("<d", struct.pack("<q", slot))[0])))
        case "uint64":
            return lambda slot: scaled(Decimal(slot & 0xFFFF_FFFF_FFFF_FFFF))
        case _:
            return lambda slot: scaled(Decimal(slot))
