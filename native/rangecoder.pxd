"""Range coder: binary decisions to bytes and back, at probabilities of 16 bits. Pure C.

One function serves both ways: `decide` writes the bit it is given, or returns the one it reads. Behind the end of a
body a decoder reads zeros, so an encoder leaves zeros at the end away. Format: docs/payload.md; oracle:
protocols/payload/chain/rangecoder.py. Carry-less with 32 bits, after Matt Mahoney's lpaq.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from parkfleet.native.varints cimport Writer, put_byte


cdef struct Coder:
    bint decoding
    uint32_t low
    uint32_t high
    uint32_t code  # decoding: the four bytes at the window
    const uint8_t* data
    size_t size
    size_t at  # decoding: bytes taken, also those behind the end
    Writer* out
    const char* error  # decoding: the first thing that was wrong, a static sentence


cdef inline void begin_encoding(Coder* c, Writer* out) noexcept nogil:
    c.decoding, c.low, c.high, c.out, c.error = False, 0, 0xFFFFFFFF, out, NULL


cdef inline uint32_t next_byte(Coder* c) noexcept nogil:
    cdef uint32_t byte = c.data[c.at] if c.at < c.size else 0
    c.at += 1
    return byte


cdef inline void begin_decoding(Coder* c, const uint8_t* data, size_t size) noexcept nogil:
    cdef int i
    c.decoding, c.low, c.high, c.code, c.error = True, 0, 0xFFFFFFFF, 0, NULL
    c.data, c.size, c.at = data, size, 0
    for i in range(4):
        c.code = c.code << 8 | next_byte(c)


cdef inline void wrong(Coder* c, const char* what) noexcept nogil:
    if c.error == NULL:
        c.error = what


cdef inline int decide(Coder* c, uint32_t p, int bit) noexcept nogil:
    """One decision; p: the probability of a 1 in 1/65536, 1 to 65535."""
    cdef uint32_t middle = c.low + <uint32_t> ((<uint64_t> (c.high - c.low) * p) >> 16)
    if c.decoding:
        bit = c.code <= middle
    if bit:
        c.high = middle
    else:
        c.low = middle + 1
    while (c.low ^ c.high) < 0x1000000:
        if c.decoding:
            c.code = c.code << 8 | next_byte(c)
        else:
            put_byte(c.out, <uint8_t> (c.high >> 24))
        c.low <<= 8
        c.high = c.high << 8 | 0xFF
    return bit


cdef inline uint32_t shortest(Coder* c, int* bytes) noexcept nogil:
    """Of the numbers that are left the one with the fewest bytes before its zeros; how many."""
    cdef uint32_t unit
    bytes[0] = 0
    if c.low == 0:
        return 0
    while True:
        bytes[0] += 1
        unit = <uint32_t> 1 << (32 - 8 * bytes[0])
        # the next multiple of unit from low on; low is not 0, and a multiple of 1 is always there
        if (<uint64_t> c.low + unit - 1) // unit * unit <= c.high:
            return <uint32_t> ((<uint64_t> c.low + unit - 1) // unit * unit)


cdef inline void end_encoding(Coder* c) noexcept nogil:
    cdef int count, i
    cdef uint32_t value = shortest(c, &count)
    for i in range(count):
        put_byte(c.out, <uint8_t> (value >> (24 - 8 * i)))
    while c.out.used and c.out.data[c.out.used - 1] == 0:
        c.out.used -= 1


cdef inline void end_decoding(Coder* c) noexcept nogil:
    """Whether the body ends as an encoder ends it: what was cut off or added shows here, if not before."""
    cdef int count
    if c.code != shortest(c, &count) or c.size > c.at - 4 + count or (c.size and c.data[c.size - 1] == 0):
        wrong(c, "the body does not end where its readings end")
