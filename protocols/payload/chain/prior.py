"""Prior: what both sides of codec 2 know of meters before a key batch: cells and weights, learned offline.

The file is msgpack, compressed by zlib: [version, quantities, cells, weights]; cells and weights are 32-bit numbers,
little-endian, the latter signed; a quantity is [kind, unit, decimals], and the one at index n has number n + 3.
prior.bin is made by `make codec-prior` (docs/payload.md). A file that differs is another codec.
"""

import sys
import zlib
from array import array
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import msgpack

from parkfleet.protocols.payload.chain.layout import KINDS, Quantity

VERSION: Final = 1
PATH: Final = Path(__file__).with_name("prior.bin")
_EVEN: Final = 1 << 31  # a cell that has learned nothing
_WEIGHT: Final = 16_000


@dataclass(frozen=True)
class Prior:
    """Where every chain begins."""

    cells: "array[int]"
    weights: "array[int]"
    quantities: dict[Quantity, int] = field(default_factory=dict)

    def pack(self) -> bytes:
        """As a file."""
        names = [list(quantity) for quantity, _ in sorted(self.quantities.items(), key=lambda item: item[1])]
        cells, weights = _little(self.cells).tobytes(), _little(self.weights).tobytes()
        return zlib.compress(msgpack.packb([VERSION, names, cells, weights]), 9)

    @classmethod
    def unpack(cls, data: bytes) -> "Prior":
        """Reads a file. Raises ValueError for one of another version."""
        version, names, cells, weights = msgpack.unpackb(zlib.decompress(data))
        if version != VERSION:
            raise ValueError("the prior is not of this version")
        quantities = {(kind, unit, decimals): index for index, (kind, unit, decimals) in enumerate(names, len(KINDS))}
        return cls(_words("I", cells), _words("i", weights), quantities)

    @classmethod
    def blank(cls, quantities: dict[Quantity, int] | None = None) -> "Prior":
        """Nothing learned. quantities: from 3 to 31."""
        from parkfleet.protocols.payload.chain.blocks import CELLS  # pure Python's coder: 1 MB, for the trainer alone
        from parkfleet.protocols.payload.chain.mixing import CELLS_MIXED, KNOTS_REFINED, SQUASH
        from parkfleet.protocols.payload.chain.values import HABITS, QUANTITIES, REFINED, VALUE_CELLS, WEIGHTS

        if quantities and max(quantities.values()) >= QUANTITIES:
            raise ValueError(f"more than {QUANTITIES - len(KINDS)} quantities")
        cells = array("I", [_EVEN]) * CELLS
        first = array("I", [SQUASH[min(256 * knot, 4095)] << 16 for knot in range(KNOTS_REFINED)])
        cells[REFINED:VALUE_CELLS] = first * ((VALUE_CELLS - REFINED) // KNOTS_REFINED)
        weights = [*[_WEIGHT] * CELLS_MIXED, 0] * (HABITS // (CELLS_MIXED + 1))
        return cls(cells, array("i", weights + [0] * (WEIGHTS - HABITS)), quantities or {})


def _words(typecode: str, data: bytes) -> "array[int]":
    """The file's numbers."""
    numbers = array(typecode, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _little(numbers: "array[int]") -> "array[int]":
    """Numbers as they stand in the file."""
    return _words(numbers.typecode, numbers.tobytes())


@cache
def built_in() -> Prior:
    """The prior that comes with the package."""
    return Prior.unpack(PATH.read_bytes())
