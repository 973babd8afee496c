"""Numbers: what stands beside the values in a batch of codec 2 (counts, spans of time, codes), by single cells. Pure C.

Every function serves both ways, see rangecoder.pxd. Format: docs/payload.md; oracle: protocols/payload/chain/numbers.py.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from parkfleet.native.mixing cimport simple
from parkfleet.native.rangecoder cimport Coder, decide

cdef extern from *:
    """
    static const unsigned long long PF_UNITS[8] = {1, 10, 100, 1000, 60000, 900000, 3600000, 86400000};  /* ms */
    static inline int pf_bit_length(unsigned long long number) { return number ? 64 - __builtin_clzll(number) : 0; }
    """
    const uint64_t PF_UNITS[8]
    int bit_length "pf_bit_length"(uint64_t number) noexcept nogil


cdef enum:
    NUMBER = 64 + 64 * 4  # cells of a number: of its length, and of the two bits below its first
    SIGNED = 2 + NUMBER
    SPAN = 9 + NUMBER
    HALF = 32768


cdef inline int tree(Coder* c, uint32_t* cells, int bits, int value) noexcept nogil:
    """A number of so many bits, the highest first, each by the cell of those before it."""
    cdef int node = 1, at = bits
    while at > 0:
        at -= 1
        node = node << 1 | simple(c, cells + node, value >> at & 1)
    return node - (1 << bits)


cdef inline uint64_t number(Coder* c, uint32_t* cells, uint64_t value) noexcept nogil:
    """Any number: its length (63 stands for 64 too) as a tree, two bits below the first by cells, the rest as it is."""
    cdef int length = bit_length(value), at, node = 1, bit
    cdef uint64_t found = 1
    length = tree(c, cells, 6, 63 if length > 63 else length)
    if length < 2:
        return <uint64_t> length
    cells += 64 + 4 * length
    at = length - 1
    if length == 63:
        at, found = 64, 0
    while at > 0:
        at -= 1
        bit = value >> at & 1
        if node < 4:
            bit = simple(c, cells + node, bit)
            node = node << 1 | bit
        else:
            bit = decide(c, HALF, bit)
        found = found << 1 | <uint64_t> bit
    return found


cdef inline uint64_t magnitude(int64_t value) noexcept nogil:
    return <uint64_t> 0 - <uint64_t> value if value < 0 else <uint64_t> value


cdef inline int64_t with_sign(uint64_t size, bint negative) noexcept nogil:
    return <int64_t> (<uint64_t> 0 - size if negative else size)


cdef inline int64_t signed_number(Coder* c, uint32_t* cells, int64_t value) noexcept nogil:
    """Whether it is 0; its sign; its size."""
    cdef bint negative
    if not simple(c, cells, value != 0):
        return 0
    negative = simple(c, cells + 1, value < 0)
    return with_sign(number(c, cells + 2, magnitude(value)), negative)


cdef inline int64_t span(Coder* c, uint32_t* cells, int64_t value) noexcept nogil:
    """A time's difference in ms: its sign, the largest unit that divides it, how many of them."""
    cdef bint negative = simple(c, cells, value < 0)
    cdef uint64_t size = magnitude(value)
    cdef int unit = 7
    while not c.decoding and size % PF_UNITS[unit]:
        unit -= 1
    unit = tree(c, cells + 1, 3, unit)
    return with_sign(number(c, cells + 9, size // PF_UNITS[unit]) * PF_UNITS[unit], negative)
