"""Columns: times, qualities and numbers of one block of codec 1, both ways. Pure C.

What both sides know of the blocks before stands in Before and, for each column of a column set, in Expected.
Format: docs/payload.md; oracle: protocols/payload/delta.py, whose choices these are.
"""

from libc.math cimport fabs, rint
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from parkfleet.native.varints cimport (
    Reader,
    Writer,
    deltas_size,
    fail,
    fold,
    put_byte,
    put_changes,
    put_deltas,
    put_varint,
    reserve,
    take_byte,
    take_changes,
    take_deltas,
    take_varint,
    unfold,
    varint_size,
)

cdef extern from *:
    """
    static const double PF_EXACT = 9007199254740992.0;  /* 2^53: below it every integer is a double */
    static const double PF_POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
    static const unsigned long long PF_LOW32 = 0xFFFFFFFFULL;
    """
    const double PF_EXACT
    const double PF_POWERS[10]
    const uint64_t PF_LOW32


cdef enum:
    ALL_GOOD = 0
    ALL_SAME = 1
    BY_COLUMN = 2
    BY_ROW = 3
    MAX_DIGITS = 9
    PATTERNS = 15
    MAX_TRIED = 6  # digits an encoder tries
    CHANGE_BYTES = 2
    MAX_TEXT = 512
    GOOD = 0  # protocols/quality.py: the two codes that carry a value
    SUSPECT = 5


cdef struct Expected:  # of one column of a column set, from the blocks before
    uint64_t first
    uint8_t coding


cdef struct Before:  # what both sides know from the block before
    int64_t entry
    size_t rows
    uint64_t first
    uint64_t step


cdef inline bint has_value(uint8_t code) noexcept nogil:
    return code == GOOD or code == SUSPECT


cdef inline void put_times(Writer* out, const int64_t* ts, Before* before, uint64_t* scratch) noexcept nogil:
    cdef size_t at
    cdef uint64_t step
    put_varint(out, fold(<uint64_t> ts[0] - before.first))
    for at in range(1, before.rows):
        step = <uint64_t> ts[at] - <uint64_t> ts[at - 1]
        scratch[at - 1] = step - before.step
        before.step = step
    put_changes(out, scratch, before.rows - 1)
    before.first = <uint64_t> ts[0]


cdef inline size_t quality_runs(
    Writer* out, const uint8_t* quality, size_t rows, size_t width, uint8_t kind
) noexcept nogil:
    """Bytes of the runs in that order; writes them unless out is NULL."""
    cdef size_t at, row = 0, column = 0, length = 0, size = 1
    cdef uint8_t code, current = 0
    if out != NULL:
        put_byte(out, kind)
    for at in range(rows * width + 1):
        code = quality[row * width + column] if at < rows * width else 0
        if length and (at == rows * width or code != current):
            size += varint_size(length) + 1
            if out != NULL:
                put_varint(out, length)
                put_byte(out, current)
            length = 0
        current = code
        length += 1
        if kind == BY_ROW:
            column += 1
            if column == width:
                row, column = row + 1, 0
        else:
            row += 1
            if row == rows:
                row, column = 0, column + 1
    return size


cdef inline void put_qualities(Writer* out, const uint8_t* quality, size_t rows, size_t width) noexcept nogil:
    """All good, all the same, or runs: down the columns or along the rows, whichever is shorter."""
    cdef size_t at, same = 1, total = rows * width
    while same < total and quality[same] == quality[0]:
        same += 1
    if total == 0 or (same == total and quality[0] == GOOD):
        put_byte(out, ALL_GOOD)
    elif same == total:
        put_byte(out, ALL_SAME)
        put_byte(out, quality[0])
    elif quality_runs(NULL, quality, rows, width, BY_ROW) < quality_runs(NULL, quality, rows, width, BY_COLUMN):
        quality_runs(out, quality, rows, width, BY_ROW)
    else:
        quality_runs(out, quality, rows, width, BY_COLUMN)


cdef inline double as_double(uint64_t slot, bint single) noexcept nogil:
    cdef uint32_t bits = <uint32_t> slot
    cdef float narrow
    cdef double wide
    if single:
        memcpy(&narrow, &bits, 4)
        return narrow
    memcpy(&wide, &slot, 8)
    return wide


cdef inline uint64_t as_bits(double value, bint single) noexcept nogil:
    cdef float narrow
    cdef uint32_t bits
    cdef uint64_t slot
    if single:
        narrow = <float> value
        memcpy(&bits, &narrow, 4)
        return bits
    memcpy(&slot, &value, 8)
    return slot


cdef inline bint as_decimals(
    const uint64_t* slots, size_t count, bint single, int digits, uint64_t* integers
) noexcept nogil:
    """Whether every value's bits come back from integer / 10^digits; the integers, if so."""
    cdef size_t at
    cdef double power = PF_POWERS[digits], value
    cdef int64_t nearest
    cdef uint64_t mask = PF_LOW32 if single else ~<uint64_t> 0
    for at in range(count):
        value = as_double(slots[at], single)
        if not fabs(value) * power < PF_EXACT:  # also for NaN
            return False
        nearest = <int64_t> rint(value * power)
        if as_bits(<double> nearest / power, single) != slots[at] & mask:  # by way of the integer: -0.0 is none
            return False
        integers[at] = <uint64_t> nearest
    return True


cdef inline uint8_t choose(
    uint64_t* slots, size_t count, bint single, int hint, Expected* expected, uint64_t* scratch
) noexcept nogil:
    """How a float column is coded; its slots become the integers of that coding. See delta.py."""
    cdef size_t at, size
    cdef int digits, attempt
    cdef bint same = expected.coding == PATTERNS
    if not same and as_decimals(slots, count, single, expected.coding, scratch):
        memcpy(slots, scratch, count * sizeof(uint64_t))
        return expected.coding
    if single:
        for at in range(count):
            slots[at] &= PF_LOW32
    size = deltas_size(slots, count, expected.first if same else 0) + (0 if same else CHANGE_BYTES)
    for attempt in range(-1, MAX_TRIED + 1):
        digits = hint if attempt < 0 else attempt
        if 0 <= digits <= MAX_DIGITS and as_decimals(slots, count, single, digits, scratch):
            if deltas_size(scratch, count, 0) + CHANGE_BYTES > size:
                return PATTERNS
            memcpy(slots, scratch, count * sizeof(uint64_t))
            return <uint8_t> digits
    return PATTERNS


cdef inline size_t gather(
    const int64_t* slots, const uint8_t* quality, size_t rows, size_t width, size_t column, uint64_t* values
) noexcept nogil:
    """A column's values; how many it has."""
    cdef size_t row, count = 0
    for row in range(rows):
        if has_value(quality[row * width + column]):
            values[count] = <uint64_t> slots[row * width + column]
            count += 1
    return count


cdef inline void put_codings(
    Writer* out, const uint8_t* kinds, const uint8_t* digits, size_t width, size_t rows, Expected* memory,
    uint64_t* values, const size_t* counts, uint64_t* scratch
) noexcept nogil:
    """Chooses for every float column, and writes which ones are coded otherwise than before."""
    cdef size_t column, changed = 0, gap = 0
    cdef uint8_t coding
    cdef Writer changes
    memset(&changes, 0, sizeof(changes))
    for column in range(width):
        if counts[column] and (kinds[column] == c'f' or kinds[column] == c'd'):
            coding = choose(
                values + column * rows, counts[column], kinds[column] == c'f', <signed char> digits[column],
                &memory[column], scratch
            )
            if coding != memory[column].coding:
                put_varint(&changes, gap)
                put_byte(&changes, coding)
                changed += 1
                gap = 0
                memory[column].coding, memory[column].first = coding, 0
                continue
        gap += 1
    put_varint(out, changed)
    if changes.failed:
        out.failed = True
    elif reserve(out, changes.used):
        if changes.used:
            memcpy(out.data + out.used, changes.data, changes.used)
        out.used += changes.used
    free(changes.data)


cdef inline void take_times(Reader* reader, int64_t* ts, Before* before, uint64_t* scratch) noexcept nogil:
    cdef size_t at
    cdef uint64_t now
    before.first += unfold(take_varint(reader))
    now = before.first
    ts[0] = <int64_t> now
    take_changes(reader, scratch, before.rows - 1)
    if reader.error != NULL:
        return
    for at in range(1, before.rows):
        before.step += scratch[at - 1]
        now += before.step
        ts[at] = <int64_t> now


cdef inline void take_qualities(Reader* reader, uint8_t* quality, size_t rows, size_t width) noexcept nogil:
    cdef uint8_t kind = take_byte(reader), code
    cdef size_t done = 0, total = rows * width, row = 0, column = 0
    cdef uint64_t length, at
    if kind == ALL_GOOD:
        memset(quality, GOOD, total)
        return
    if kind == ALL_SAME:
        memset(quality, take_byte(reader), total)
        return
    if kind != BY_COLUMN and kind != BY_ROW:
        fail(reader, "unknown coding of qualities")
        return
    while done < total and reader.error == NULL:
        length = take_varint(reader)
        if length < 1 or length > total - done:
            fail(reader, "a run of qualities has no sound length")
            return
        code = take_byte(reader)
        if kind == BY_ROW:
            memset(quality + done, code, length)
        else:
            for at in range(length):
                quality[row * width + column] = code
                row += 1
                if row == rows:
                    row, column = 0, column + 1
        done += length


cdef inline void take_codings(Reader* reader, const uint8_t* kinds, size_t width, Expected* memory) noexcept nogil:
    """The columns whose coding changes, each with its new one. Ends with the columns at the latest."""
    cdef uint64_t left = take_varint(reader), gap
    cdef size_t column = 0
    cdef uint8_t coding
    while left and reader.error == NULL:
        gap = take_varint(reader)
        if reader.error == NULL and (gap >= width - column or kinds[column + gap] not in (c'f', c'd')):
            fail(reader, "a coding is for no float column")
        if reader.error != NULL:
            return
        column += gap
        coding = take_byte(reader)
        if reader.error == NULL and coding > MAX_DIGITS and coding != PATTERNS:
            fail(reader, "unknown coding of a float column")
        memory[column].coding, memory[column].first = coding, 0
        column += 1
        left -= 1


cdef inline void as_slots(Reader* reader, uint8_t coding, bint single, uint64_t* values, size_t count) noexcept nogil:
    """A float column's integers become its slots."""
    cdef size_t at
    cdef double power, number
    if coding == PATTERNS:
        if single:
            for at in range(count):
                values[at] &= PF_LOW32
        return
    power = PF_POWERS[coding]
    for at in range(count):
        number = <double> <int64_t> values[at]
        if not fabs(number) < PF_EXACT:
            fail(reader, "a decimal is beyond 2^53")
            return
        values[at] = as_bits(number / power, single)


cdef inline void take_column(
    Reader* reader, int64_t* slots, const uint8_t* quality, size_t rows, size_t width, size_t column, uint8_t kind,
    Expected* expected, uint64_t* values
) noexcept nogil:
    cdef size_t row, count = 0
    for row in range(rows):
        count += has_value(quality[row * width + column])
    if count == 0:
        return
    take_deltas(reader, values, count, expected.first)
    if reader.error != NULL:
        return
    expected.first = values[0]
    if kind != c'i':
        as_slots(reader, expected.coding, kind == c'f', values, count)
    count = 0
    for row in range(rows):
        if has_value(quality[row * width + column]):
            slots[row * width + column] = <int64_t> values[count]
            count += 1
