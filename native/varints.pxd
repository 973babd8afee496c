"""Varints: a body's numbers, as bytes and back; lists of differences with their runs. Pure C.

A Writer grows as it needs; a Reader checks every read against the body's end and keeps the first error it met as a
static sentence. Format: docs/payload.md; oracle: protocols/payload/varint.py and delta.py.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

cdef extern from *:
    """
    /* -2^63, the one difference that has no token of its own */
    static const unsigned long long PF_LOWEST = 1ULL << 63;
    """
    const uint64_t PF_LOWEST


cdef struct Writer:
    uint8_t* data
    size_t used
    size_t room
    bint failed


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end
    const char* error


cdef inline bint reserve(Writer* out, size_t more) noexcept nogil:
    cdef uint8_t* grown
    if out.used + more <= out.room:
        return True
    grown = <uint8_t*> realloc(out.data, 2 * (out.used + more) + 64)
    if grown == NULL:
        out.failed = True
        return False
    out.data = grown
    out.room = 2 * (out.used + more) + 64
    return True


cdef inline void put_byte(Writer* out, uint8_t byte) noexcept nogil:
    if reserve(out, 1):
        out.data[out.used] = byte
        out.used += 1


cdef inline void put_varint(Writer* out, uint64_t number) noexcept nogil:
    if not reserve(out, 10):
        return
    while number > 0x7F:
        out.data[out.used] = <uint8_t> (number & 0x7F | 0x80)
        out.used += 1
        number >>= 7
    out.data[out.used] = <uint8_t> number
    out.used += 1


cdef inline uint64_t fold(uint64_t change) noexcept nogil:
    return (change << 1) ^ (<uint64_t> 0 - (change >> 63))


cdef inline uint64_t unfold(uint64_t number) noexcept nogil:
    return (number >> 1) ^ (<uint64_t> 0 - (number & 1))


cdef inline size_t varint_size(uint64_t number) noexcept nogil:
    cdef size_t size = 1
    while number > 0x7F:
        number >>= 7
        size += 1
    return size


cdef inline size_t zeros_from(const uint64_t* changes, size_t at, size_t count) noexcept nogil:
    cdef size_t end = at
    while end < count and changes[end] == 0:
        end += 1
    return end - at


cdef inline void put_changes(Writer* out, const uint64_t* changes, size_t count) noexcept nogil:
    """Each folded, plus one; but two zeros or more are 0 and their number less one, and -2^63 is 0 and 0."""
    cdef size_t at = 0, zeros
    while at < count:
        zeros = zeros_from(changes, at, count)
        if zeros > 1:
            put_byte(out, 0)
            put_varint(out, zeros - 1)
            at += zeros
        elif changes[at] == PF_LOWEST:
            put_byte(out, 0)
            put_byte(out, 0)
            at += 1
        else:
            put_varint(out, fold(changes[at]) + 1)
            at += 1


cdef inline size_t deltas_size(const uint64_t* numbers, size_t count, uint64_t before) noexcept nogil:
    """What put_changes would write of the differences of numbers."""
    cdef size_t at = 0, zeros, size = 0
    cdef uint64_t change
    while at < count:
        zeros = 0
        while at + zeros < count and numbers[at + zeros] == before:
            zeros += 1
        if zeros > 1:
            size += 1 + varint_size(zeros - 1)
            at += zeros
            continue
        change = numbers[at] - before
        size += 2 if change == PF_LOWEST else varint_size(fold(change) + 1)
        before = numbers[at]
        at += 1
    return size


cdef inline void put_deltas(Writer* out, uint64_t* numbers, size_t count, uint64_t before) noexcept nogil:
    """Overwrites numbers with their differences."""
    cdef size_t at
    for at in range(count - 1, 0, -1):
        numbers[at] -= numbers[at - 1]
    numbers[0] -= before
    put_changes(out, numbers, count)


cdef inline void fail(Reader* reader, const char* why) noexcept nogil:
    """The first thing that is wrong is what is told."""
    if reader.error == NULL:
        reader.error = why


cdef inline uint8_t take_byte(Reader* reader) noexcept nogil:
    if reader.at >= reader.end:
        fail(reader, "the body ends in the middle")
        return 0
    reader.at += 1
    return (reader.at - 1)[0]


cdef inline uint64_t take_varint(Reader* reader) noexcept nogil:
    cdef uint64_t number = 0
    cdef int shift = 0
    cdef uint8_t byte
    while reader.error == NULL:
        byte = take_byte(reader)
        if shift == 63 and byte > 1:
            fail(reader, "a number is longer than 64 bits")
            return 0
        number |= <uint64_t> (byte & 0x7F) << shift
        if byte < 0x80:
            return number
        shift += 7
    return 0


cdef inline void take_changes(Reader* reader, uint64_t* changes, size_t count) noexcept nogil:
    cdef size_t at = 0
    cdef uint64_t token, more
    while at < count and reader.error == NULL:
        token = take_varint(reader)
        if token:
            changes[at] = unfold(token - 1)
            at += 1
            continue
        more = take_varint(reader)
        if more >= count - at:
            fail(reader, "a run is longer than its column")
        elif more == 0:
            changes[at] = PF_LOWEST
            at += 1
        else:
            memset(changes + at, 0, (more + 1) * sizeof(uint64_t))
            at += more + 1


cdef inline void take_deltas(Reader* reader, uint64_t* numbers, size_t count, uint64_t before) noexcept nogil:
    cdef size_t at
    take_changes(reader, numbers, count)
    if reader.error != NULL:
        return
    for at in range(count):
        before += numbers[at]
        numbers[at] = before
