"""Range coder: binary decisions to bytes and back, at probabilities of 16 bits. Oracle of native/rangecoder.pxd.

One method serves both ways: `decide` writes the bit it is given, or returns the one it reads. Behind the end of a body
a decoder reads zeros, so an encoder leaves zeros at the end away. Carry-less with 32 bits, after Matt Mahoney's lpaq.
"""

from typing import Protocol

from parkfleet.protocols.payload.errors import PayloadError

_ALL = 0xFFFF_FFFF


class Coder(Protocol):
    """Either side."""

    decoding: bool

    def decide(self, p: int, bit: int) -> int:
        """One decision; p: the probability of a 1 in 1/65536, 1 to 65535."""


class Writer:
    """Decisions to bytes."""

    decoding = False

    def __init__(self) -> None:
        self._low, self._high = 0, _ALL
        self._out = bytearray()

    def decide(self, p: int, bit: int) -> int:
        low, high = self._low, self._high
        middle = low + ((high - low) * p >> 16)
        if bit:
            high = middle
        else:
            low = middle + 1
        while low ^ high < 0x100_0000:
            self._out.append(high >> 24)
            low = low << 8 & _ALL
            high = high << 8 & _ALL | 0xFF
        self._low, self._high = low, high
        return bit

    def end(self) -> bytes:
        """The body: what is left in the fewest bytes, and no zeros at the end."""
        value, count = _shortest(self._low, self._high)
        return bytes(self._out + value.to_bytes(4, "big")[:count]).rstrip(b"\0")


class Reader:
    """Bytes to decisions."""

    decoding = True

    def __init__(self, data: bytes) -> None:
        self._low, self._high = 0, _ALL
        self._data = data
        self._at = 4
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def decide(self, p: int, bit: int = 0) -> int:
        low, high = self._low, self._high
        middle = low + ((high - low) * p >> 16)
        if self._code <= middle:
            bit, high = 1, middle
        else:
            bit, low = 0, middle + 1
        while low ^ high < 0x100_0000:
            low = low << 8 & _ALL
            high = high << 8 & _ALL | 0xFF
            self._code = self._code << 8 & _ALL | (self._data[self._at] if self._at < len(self._data) else 0)
            self._at += 1
        self._low, self._high = low, high
        return bit

    def end(self) -> None:
        """Whether the body ends as an encoder ends it: what was cut off or added shows here, if not before."""
        value, count = _shortest(self._low, self._high)
        if self._code != value or len(self._data) > self._at - 4 + count or self._data[-1:] == b"\0":
            raise PayloadError("the body does not end where its readings end")


def _shortest(low: int, high: int) -> tuple[int, int]:
    """Of the numbers from low to high the one with the fewest bytes before its zeros; how many."""
    if low == 0:
        return 0, 0
    for count in (1, 2, 3):
        unit = 1 << (32 - 8 * count)
        value = (low + unit - 1) // unit * unit
        if value <= high:
            return value, count
    return low, 4
