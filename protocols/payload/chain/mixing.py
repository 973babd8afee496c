"""Mixing: the probability of a decision, from several adaptive cells by a logistic mix. Oracle of native/mixing.pxd.

A cell is 22 bits of probability over 10 bits of count. STRETCH is ln(p / (1 - p)) in 1/256, SQUASH its inverse.
After Matt Mahoney's lpaq and paq8.
"""

from dataclasses import dataclass
from operator import add, mul
from typing import Final

from parkfleet.protocols.payload.chain.rangecoder import Coder

CELLS_MIXED: Final = 8
INPUTS: Final = CELLS_MIXED + 1  # of a mix: its cells, and a constant
CONSTANT: Final = 256
LIMIT: Final = 127  # of a cell's count: how far back it remembers
MIX_RATE: Final = 5
MIX_SHIFT: Final = 18
LEAST: Final = 32  # probability of a decision, in 1/65536
KNOTS_REFINED: Final = 17  # cells that refine one node's probabilities
REFINED_LIMIT: Final = 30
#: 65536 / (1 + e^-x), x from -8 to 8 by halves.
KNOTS: Final = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911),
    *(53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514),
)


def _squash(place: int) -> int:
    knot, part = place >> 7, place & 127
    return (KNOTS[knot] * (128 - part) + KNOTS[knot + 1] * part + 64) >> 7


def _stretch() -> list[int]:
    table: list[int] = []
    for place, p in enumerate(SQUASH):
        table += [place - 2048] * ((p >> 4) + 1 - len(table))
    return table + [2047] * (4096 - len(table))


SQUASH: Final = [_squash(place) for place in range(4096)]
STRETCH: Final = _stretch()
#: Of a cell by its count: 65536 / (count + 1.5).
PACE: Final = [131072 // (2 * count + 3) for count in range(1024)]
#: In a cell by its count, in 1/256.
TRUST: Final = [256 * (count + 1) // (count + 3) for count in range(1024)]


@dataclass(slots=True)
class Tables:
    """What adapts: the prior's cells and weights, behind them the cells of every series met."""

    cells: list[int]
    weights: list[int]


@dataclass(slots=True)
class Mix:
    """Of one error: where its cells begin, its two sets of weights, and what refines their mixes."""

    places: list[int]
    first: int
    second: int
    refined: int


def updated(cell: int, bit: int, limit: int = LIMIT) -> int:
    """A cell after a decision."""
    p, count = cell >> 10, cell & 1023
    p += (((bit << 22) - p) * PACE[count]) >> 16
    return min(p, 4194303) << 10 | (count + 1 if count < limit else count)


def simple(c: Coder, cells: list[int], at: int, bit: int) -> int:
    """A decision by one cell alone."""
    cell = cells[at]
    bit = c.decide(min(max(cell >> 16, LEAST), 65536 - LEAST), bit)
    cells[at] = updated(cell, bit)
    return bit


def mixed(c: Coder, t: Tables, m: Mix, node: int, bit: int) -> int:
    """A decision by the mix of eight cells, refined; two sets of weights, in 1/65536, averaged."""
    cells, weights = t.cells, t.weights
    places = [place + node for place in m.places]
    found = [cells[place] for place in places]
    inputs = [STRETCH[cell >> 20] * TRUST[cell & 1023] >> 8 for cell in found]
    inputs.append(CONSTANT)
    first, second = m.first + node * INPUTS, m.second + node * INPUTS
    ones, others = weights[first : first + INPUTS], weights[second : second + INPUTS]
    dot = sum(map(mul, inputs, map(add, ones, others))) >> 17
    dot = min(max(dot, -2048), 2047) + 2048
    mix = SQUASH[dot]
    refined, part = m.refined + node * KNOTS_REFINED + (dot >> 8), dot & 255
    p = ((cells[refined] >> 16) * (256 - part) + (cells[refined + 1] >> 16) * part) >> 8
    bit = c.decide(min(max((p + mix) >> 1, LEAST), 65536 - LEAST), bit)
    refined += part >> 7
    cells[refined] = updated(cells[refined], bit, REFINED_LIMIT)
    error = ((bit << 16) - mix) * MIX_RATE
    steps = [(value * error + (1 << (MIX_SHIFT - 1))) >> MIX_SHIFT for value in inputs]
    weights[first : first + INPUTS] = map(add, ones, steps)
    weights[second : second + INPUTS] = map(add, others, steps)
    aim = bit << 22
    for place, cell in zip(places, found, strict=True):
        p, count = cell >> 10, cell & 1023
        p += ((aim - p) * PACE[count]) >> 16
        cells[place] = min(p, 4194303) << 10 | (count + 1 if count < LIMIT else count)
    return bit
