"""Varint: unsigned integers of 64 bits in one to ten bytes, and signed ones folded into them (zigzag)."""

from parkfleet.protocols.payload.errors import PayloadError

MASK = 0xFFFF_FFFF_FFFF_FFFF


def put(out: bytearray, number: int) -> None:
    """Appends 0 to 2^64 - 1: seven bits a byte, the lowest first, the top bit set on all but the last."""
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def fold(number: int) -> int:
    """zigzag of a 64-bit difference: 0, -1, 1, -2 become 0, 1, 2, 3."""
    number &= MASK
    return (number << 1 & MASK) ^ (MASK if number >> 63 else 0)


def unfold(number: int) -> int:
    """The inverse of fold, as a signed integer."""
    return number >> 1 if not number & 1 else -(number >> 1) - 1


class Reader:
    """Takes numbers and bytes off a body. Every method raises PayloadError at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def varint(self) -> int:
        """The next number, below 2^64."""
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number > MASK:
                    raise PayloadError("a number is longer than 64 bits")
                return number
            shift += 7
            if shift > 63:
                raise PayloadError("a number is longer than 64 bits")

    def byte(self) -> int:
        """The next byte."""
        if self._at >= len(self._data):
            raise PayloadError("the body ends in the middle")
        self._at += 1
        return self._data[self._at - 1]

    def take(self, count: int) -> bytes:
        """The next count bytes."""
        if count > len(self._data) - self._at:
            raise PayloadError("the body ends in the middle")
        self._at += count
        return self._data[self._at - count : self._at]

    @property
    def rest(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at
