"""Series codec: codec 1 compiled. Byte for byte what protocols/payload/delta.py writes, which is its oracle.

Hostile input: every read is checked against the end, every count against the caller's bound; what is wrong is a
ValueError with a reason, never a crash. Format: docs/payload.md.
"""

from array import array

from cpython cimport array as c_array
from libc.math cimport fabs, rint
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef enum:
    ALL_GOOD = 0
    ALL_SAME = 1
    RUNS = 2
    INTEGERS = 0
    BITS = 1
    DECIMALS = 16
    MAX_DIGITS = 9
    MAX_TEXT = 256
    GOOD = 0  # protocols/quality.py: the two codes that carry a value
    SUSPECT = 5

cdef double LARGEST = 9007199254740992.0  # 2^53: above it a double is no exact integer
cdef double[10] POWERS = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
cdef c_array.array TEMPLATE = array("q")


cdef struct Writer:
    uint8_t* data
    size_t used
    size_t room
    bint failed


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end
    const char* error


cdef inline bint has_value(uint8_t code) noexcept nogil:
    return code == GOOD or code == SUSPECT


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


cdef void put_runs(Writer* out, const uint64_t* changes, size_t count) noexcept nogil:
    """Folded changes; a 0 is followed by how many more zeros follow it."""
    cdef size_t at = 0, zeros
    while at < count:
        put_varint(out, fold(changes[at]))
        if changes[at] == 0:
            zeros = at + 1
            while zeros < count and changes[zeros] == 0:
                zeros += 1
            put_varint(out, zeros - at - 1)
            at = zeros
        else:
            at += 1


cdef void put_deltas(Writer* out, uint64_t* numbers, size_t count) noexcept nogil:
    """Overwrites numbers with their differences."""
    cdef size_t at
    for at in range(count - 1, 0, -1):
        numbers[at] -= numbers[at - 1]
    put_runs(out, numbers, count)


cdef void put_times(Writer* out, const int64_t* ts, size_t count, int64_t base, uint64_t* scratch) noexcept nogil:
    cdef size_t at
    cdef uint64_t step = 0, before = 0
    put_varint(out, fold(<uint64_t> ts[0] - <uint64_t> base))
    for at in range(1, count):
        step = <uint64_t> ts[at] - <uint64_t> ts[at - 1]
        scratch[at - 1] = step - before
        before = step
    put_runs(out, scratch, count - 1)


cdef void put_qualities(Writer* out, const uint8_t* quality, size_t rows, size_t width) noexcept nogil:
    """Column-major runs of row-major codes."""
    cdef size_t row, column, length = 0, runs = 0
    cdef uint8_t code, current = 0
    cdef bint good = True
    for row in range(rows * width):
        if quality[row] != 0:
            good = False
            break
    if good:
        put_byte(out, ALL_GOOD)
        return
    current = quality[0]
    for row in range(rows * width):
        if quality[row] != current:
            runs = 1
            break
    if runs == 0:
        put_byte(out, ALL_SAME)
        put_byte(out, current)
        return
    put_byte(out, RUNS)
    for column in range(width):
        for row in range(rows):
            code = quality[row * width + column]
            if length and code != current:
                put_varint(out, length)
                put_byte(out, current)
                length = 0
            current = code
            length += 1
    put_varint(out, length)
    put_byte(out, current)


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


cdef bint as_decimals(const uint64_t* slots, size_t count, bint single, int digits, uint64_t* integers) noexcept nogil:
    """Whether every value's bits come back from integer / 10^digits; the integers, if so."""
    cdef size_t at
    cdef double power = POWERS[digits], value, nearest
    cdef uint64_t mask = 0xFFFFFFFF if single else 0xFFFFFFFFFFFFFFFF
    for at in range(count):
        value = as_double(slots[at], single)
        if not fabs(value) * power < LARGEST:  # also for NaN
            return False
        nearest = rint(value * power)
        if as_bits(nearest / power, single) != slots[at] & mask:
            return False
        integers[at] = <uint64_t> <int64_t> nearest
    return True


cdef inline uint64_t turned(uint64_t bits, bint single) noexcept nogil:
    """The bytes in the other order."""
    cdef uint64_t result = 0
    cdef int at
    for at in range(4 if single else 8):
        result = result << 8 | (bits >> 8 * at & 0xFF)
    return result


cdef void put_floats(
    Writer* out, const uint64_t* slots, size_t count, bint single, int hint, uint64_t* scratch
) noexcept nogil:
    cdef int digits, try_
    cdef size_t at
    cdef uint64_t before = 0, mask = 0xFFFFFFFF if single else 0xFFFFFFFFFFFFFFFF
    for try_ in range(-1, 7):
        digits = hint if try_ < 0 else try_
        if digits < 0 or digits > MAX_DIGITS or (try_ >= 0 and try_ == hint):
            continue
        if as_decimals(slots, count, single, digits, scratch):
            put_byte(out, <uint8_t> (DECIMALS + digits))
            put_deltas(out, scratch, count)
            return
    put_byte(out, BITS)
    for at in range(count):
        put_varint(out, turned((slots[at] ^ before) & mask, single))
        before = slots[at]


cdef void put_column(
    Writer* out, const int64_t* slots, const uint8_t* quality, size_t rows, size_t width, size_t column,
    uint8_t kind, int hint, uint64_t* values, uint64_t* scratch
) noexcept nogil:
    """One column that is no text. kind: i integers, f float32, d float64."""
    cdef size_t row, count = 0
    for row in range(rows):
        if has_value(quality[row * width + column]):
            values[count] = <uint64_t> slots[row * width + column]
            count += 1
    if count == 0:
        return
    if kind == c'i':
        put_byte(out, INTEGERS)
        put_deltas(out, values, count)
    else:
        put_floats(out, values, count, kind == c'f', hint, scratch)


cdef put_texts(Writer* out, list texts):
    """0 for "as before", otherwise the length of the UTF-8 plus one and the bytes."""
    cdef bytes data
    cdef object before = None
    for text in texts:
        if text == before:
            put_byte(out, 0)
        else:
            data = text.encode("utf-8", "replace")[:MAX_TEXT]
            put_varint(out, len(data) + 1)
            if reserve(out, len(data)):
                memcpy(out.data + out.used, <const char*> data, len(data))
                out.used += len(data)
        before = text


def encode(list blocks):
    """The body of a batch.

    blocks: by entry ascending, each (entry, ts, slots, quality, texts, kinds, digits): arrays of int64, a bytearray,
    and for each column its kind (i, f, d or s) and, as a signed byte, its likely decimals or -1.
    """
    cdef Writer out
    cdef c_array.array ts, slots
    cdef bytearray quality
    cdef bytes kinds, digits
    cdef size_t rows, width, column, strings, string
    cdef int64_t entry, last = -1, base = 0
    cdef uint64_t* scratch
    memset(&out, 0, sizeof(out))
    try:
        put_varint(&out, len(blocks))
        for entry, ts, slots, quality, texts, kinds, digits in blocks:
            rows, width = len(ts), len(kinds)
            if len(slots) != rows * width or len(quality) != rows * width or len(digits) != width or rows == 0:
                raise ValueError(f"entry {entry}: its arrays do not fit together")
            scratch = <uint64_t*> malloc(2 * rows * sizeof(uint64_t))
            if scratch == NULL:
                raise MemoryError
            try:
                put_varint(&out, <uint64_t> (entry - last - 1))
                put_varint(&out, rows)
                put_times(&out, <const int64_t*> ts.data.as_longlongs, rows, base, scratch)
                last, base = entry, ts.data.as_longlongs[0]
                put_qualities(&out, <const uint8_t*> quality, rows, width)
                strings, string = kinds.count(b"s"), 0
                for column in range(width):
                    if kinds[column] == c's':
                        put_texts(&out, [
                            texts[row * strings + string] or "" for row in range(rows)
                            if has_value(quality[row * width + column])
                        ])
                        string += 1
                    else:
                        put_column(
                            &out, <const int64_t*> slots.data.as_longlongs, <const uint8_t*> quality, rows, width, column,
                            kinds[column], <signed char> digits[column], scratch, scratch + rows
                        )
            finally:
                free(scratch)
        if out.failed:
            raise MemoryError
        return (<char*> out.data)[:out.used]
    finally:
        free(out.data)


cdef inline uint8_t take_byte(Reader* reader) noexcept nogil:
    if reader.at >= reader.end:
        reader.error = "the body ends in the middle"
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
            reader.error = "a number is longer than 64 bits"
            return 0
        number |= <uint64_t> (byte & 0x7F) << shift
        if byte < 0x80:
            return number
        shift += 7
    return 0


cdef void take_runs(Reader* reader, uint64_t* changes, size_t count) noexcept nogil:
    cdef size_t at = 0
    cdef uint64_t zeros
    while at < count and reader.error == NULL:
        changes[at] = unfold(take_varint(reader))
        at += 1
        if changes[at - 1] == 0:
            zeros = take_varint(reader)
            if zeros > count - at:
                reader.error = "a run is longer than its column"
                return
            memset(changes + at, 0, zeros * sizeof(uint64_t))
            at += zeros


cdef void take_deltas(Reader* reader, uint64_t* numbers, size_t count) noexcept nogil:
    cdef size_t at
    take_runs(reader, numbers, count)
    for at in range(1, count):
        numbers[at] += numbers[at - 1]


cdef void take_times(Reader* reader, int64_t* ts, size_t count, int64_t base, uint64_t* scratch) noexcept nogil:
    cdef size_t at
    cdef uint64_t now = <uint64_t> base + unfold(take_varint(reader)), step = 0
    ts[0] = <int64_t> now
    take_runs(reader, scratch, count - 1)
    if reader.error != NULL:
        return
    for at in range(1, count):
        step += scratch[at - 1]
        now += step
        ts[at] = <int64_t> now


cdef void take_qualities(Reader* reader, uint8_t* quality, size_t rows, size_t width) noexcept nogil:
    cdef uint8_t kind = take_byte(reader), code
    cdef size_t done = 0, total = rows * width
    cdef uint64_t length, at
    if kind == ALL_GOOD:
        memset(quality, 0, total)
    elif kind == ALL_SAME:
        memset(quality, take_byte(reader), total)
    elif kind != RUNS:
        reader.error = "unknown coding of qualities"
    else:
        while done < total and reader.error == NULL:
            length = take_varint(reader)
            if length < 1 or length > total - done:
                reader.error = "a run of qualities has no sound length"
                return
            code = take_byte(reader)
            for at in range(length):
                quality[(done + at) % rows * width + (done + at) // rows] = code
            done += length


cdef void take_floats(Reader* reader, uint8_t kind, bint single, uint64_t* values, size_t count) noexcept nogil:
    cdef size_t at
    cdef uint64_t slot = 0, bits
    cdef double power
    if kind == BITS:
        for at in range(count):
            bits = take_varint(reader)
            if single and bits >> 32:
                reader.error = "a float has more bits than its type"
                return
            slot ^= turned(bits, single)
            values[at] = slot
    elif DECIMALS <= kind <= DECIMALS + MAX_DIGITS:
        power = POWERS[kind - DECIMALS]
        take_deltas(reader, values, count)
        if reader.error != NULL:
            return
        for at in range(count):
            if not fabs(<double> <int64_t> values[at]) < LARGEST:
                reader.error = "a decimal is beyond 2^53"
                return
            values[at] = as_bits(<double> <int64_t> values[at] / power, single)
    else:
        reader.error = "unknown coding of a float column"


cdef void take_column(
    Reader* reader, int64_t* slots, const uint8_t* quality, size_t rows, size_t width, size_t column, uint8_t kind,
    uint64_t* values
) noexcept nogil:
    cdef size_t row, count = 0
    cdef uint8_t coding
    for row in range(rows):
        count += has_value(quality[row * width + column])
    if count == 0:
        return
    coding = take_byte(reader)
    if kind != c'i':
        take_floats(reader, coding, kind == c'f', values, count)
    elif coding == INTEGERS:
        take_deltas(reader, values, count)
    else:
        reader.error = "unknown coding of an integer column"
    if reader.error != NULL:
        return
    count = 0
    for row in range(rows):
        if has_value(quality[row * width + column]):
            slots[row * width + column] = <int64_t> values[count]
            count += 1


cdef take_texts(Reader* reader, list texts, const uint8_t* quality, size_t rows, size_t width, size_t column,
                size_t strings, size_t string):
    cdef size_t row
    cdef uint64_t length
    cdef str text = ""
    for row in range(rows):
        if not has_value(quality[row * width + column]):
            continue
        length = take_varint(reader)
        if length > MAX_TEXT + 1 or (length and length - 1 > <uint64_t> (reader.end - reader.at)):
            reader.error = "a text has no sound length"
        if reader.error != NULL:
            return
        if length:
            text = (<const char*> reader.at)[:length - 1].decode("utf-8", "replace")
            reader.at += length - 1
        texts[row * strings + string] = text


cdef check(Reader* reader):
    if reader.error != NULL:
        raise ValueError((<bytes> reader.error).decode())


def decode(const uint8_t[::1] body, list layouts, size_t most):
    """[(entry, ts, slots, quality, texts)] of a body. Raises ValueError for whatever is none.

    layouts: for each entry of the schema, the kinds of its columns. most: readings that a body may hold.
    """
    cdef Reader reader
    cdef uint64_t blocks, gap, rows
    cdef int64_t entry = -1, base = 0
    cdef size_t width, readings = 0, column, strings, string
    cdef c_array.array ts, slots
    cdef bytearray quality
    cdef bytes kinds
    cdef uint64_t* scratch
    cdef list found = [], texts
    if body.shape[0] == 0:
        raise ValueError("the body is empty")
    reader.at, reader.end, reader.error = &body[0], &body[0] + body.shape[0], NULL
    blocks = take_varint(&reader)
    if blocks > <uint64_t> len(layouts):
        raise ValueError(f"{blocks} blocks for {len(layouts)} entries")
    for _ in range(blocks):
        gap, rows = take_varint(&reader), take_varint(&reader)
        check(&reader)
        if gap >= <uint64_t> (len(layouts) - entry - 1):
            raise ValueError("an entry is not in the schema")
        entry += gap + 1
        kinds = layouts[entry]
        width = len(kinds)
        if rows < 1 or rows > most or (readings + rows * max(width, 1)) > most:
            raise ValueError(f"a block of {rows} rows: from 1, and at most {most} readings together")
        readings += rows * max(width, 1)
        strings, string = kinds.count(b"s"), 0
        ts = c_array.clone(TEMPLATE, rows, zero=True)
        slots = c_array.clone(TEMPLATE, rows * width, zero=True)
        quality = bytearray(rows * width)
        texts = [None] * (rows * strings)
        scratch = <uint64_t*> malloc(rows * sizeof(uint64_t))
        if scratch == NULL:
            raise MemoryError
        try:
            take_times(&reader, <int64_t*> ts.data.as_longlongs, rows, base, scratch)
            take_qualities(&reader, <uint8_t*> <char*> quality, rows, width)
            check(&reader)
            base = ts.data.as_longlongs[0]
            for column in range(width):
                if kinds[column] == c's':
                    take_texts(&reader, texts, <uint8_t*> <char*> quality, rows, width, column, strings, string)
                    string += 1
                else:
                    take_column(
                        &reader, <int64_t*> slots.data.as_longlongs, <uint8_t*> <char*> quality, rows, width, column,
                        kinds[column], scratch
                    )
                check(&reader)
        finally:
            free(scratch)
        found.append((entry, ts, slots, quality, texts))
    if reader.at != reader.end:
        raise ValueError("bytes too many behind the last block")
    return found
