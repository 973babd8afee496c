"""Slot: a value as the meter holds it, the inverse of value = (raw × multiply + add) / 10^decimals."""

import struct
from itertools import chain
from typing import Final

from parkfleet.protocols.profile import Point

_FLOAT32_MAX: Final = 3.4028234e38


def to_slot(point: Point, value: float) -> int:
    """The nearest value that the point can hold, clipped to its range, never one of its "not available" codes."""
    factor = point.factor
    raw: float = (value * 10**factor.decimals - factor.add) / factor.multiply
    if point.type in ("float32", "float64"):
        return _float_slot(point, raw)
    low, high = integer_range(point)
    nearest = min(max(round(raw), low), high)
    if not point.invalid:
        return nearest
    mask = (1 << 16 * point.count) - 1
    candidates = chain(range(nearest, low - 1, -1), range(nearest + 1, high + 1))
    return next((c for c in candidates if c not in point.invalid and c & mask not in point.invalid), nearest)


def integer_range(point: Point) -> tuple[int, int]:
    """(lowest, highest) raw value of a point that is not a float or a string."""
    bits = 16 * point.count
    match point.type:
        case "bool":
            return 0, 1
        case "bits":
            return 0, (1 << point.width) - 1
        case "bcd":
            return 0, int(10 ** (bits // 4)) - 1
        case "int16" | "int32" | "int64":
            return -(1 << bits - 1), (1 << bits - 1) - 1
        case _:
            return 0, (1 << bits) - 1


def _float_slot(point: Point, raw: float) -> int:
    if point.decimals is not None:
        raw = round(raw, point.decimals)
    if point.type == "float64":
        return int.from_bytes(struct.pack(">d", raw), "big", signed=True)
    return int.from_bytes(struct.pack(">f", min(max(raw, -_FLOAT32_MAX), _FLOAT32_MAX)), "big")
