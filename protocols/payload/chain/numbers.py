"""Numbers: what stands beside the values in a batch (counts, spans of time, codes), by single cells.

Every function serves both ways, see rangecoder.py. Oracle of native/numbers.pxd.
"""

from typing import Final

from parkfleet.protocols.payload.chain.mixing import simple
from parkfleet.protocols.payload.chain.rangecoder import Coder

UNITS: Final = (1, 10, 100, 1000, 60_000, 900_000, 3_600_000, 86_400_000)  # ms
NUMBER: Final = 64 + 64 * 4  # cells of a number: of its length, and of the two bits below its first
SIGNED: Final = 2 + NUMBER
SPAN: Final = 9 + NUMBER
HALF: Final = 32768
MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


def signed(number: int) -> int:
    """The number modulo 2^64, as a signed integer."""
    return ((number + (1 << 63)) & MASK) - (1 << 63)


def tree(c: Coder, cells: list[int], at: int, bits: int, value: int) -> int:
    """A number of so many bits, the highest first, each by the cell of those before it."""
    node = 1
    for shift in range(bits - 1, -1, -1):
        node = node << 1 | simple(c, cells, at + node, value >> shift & 1)
    return node - (1 << bits)


def number(c: Coder, cells: list[int], at: int, value: int) -> int:
    """Any number below 2^64: its length (63 stands for 64 too) as a tree, two bits by cells, the others as they are."""
    length = tree(c, cells, at, 6, min(value.bit_length(), 63))
    if length < 2:
        return length
    at += 64 + 4 * length
    left, found, node = (64, 0, 1) if length == 63 else (length - 1, 1, 1)
    while left > 0:
        left -= 1
        bit = value >> left & 1
        if node < 4:
            bit = simple(c, cells, at + node, bit)
            node = node << 1 | bit
        else:
            bit = c.decide(HALF, bit)
        found = found << 1 | bit
    return found


def signed_number(c: Coder, cells: list[int], at: int, value: int) -> int:
    """Whether it is 0; its sign; its size."""
    if not simple(c, cells, at, value != 0):
        return 0
    negative = simple(c, cells, at + 1, value < 0)
    size = number(c, cells, at + 2, abs(value))
    return signed(-size if negative else size)


def span(c: Coder, cells: list[int], at: int, value: int) -> int:
    """A time's difference in ms: its sign, the largest unit that divides it, how many of them."""
    negative = simple(c, cells, at, value < 0)
    size = abs(value)
    unit = 0 if c.decoding else max(index for index, length in enumerate(UNITS) if size % length == 0)
    unit = tree(c, cells, at + 1, 3, unit)
    size = number(c, cells, at + 9, size // UNITS[unit]) * UNITS[unit]
    return signed(-size if negative else size)
