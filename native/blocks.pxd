"""Blocks: the rows of one entry in a batch of codec 2: count, times, qualities, grains, values. Pure C.

Every function serves both ways, see rangecoder.pxd. Format: docs/payload.md; oracle: protocols/payload/chain/blocks.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from parkfleet.native.columns cimport (
    MAX_DIGITS, MAX_TRIED, PATTERNS, PF_EXACT, PF_LOW32, PF_POWERS, as_bits, as_decimals, has_value
)
from parkfleet.native.forecast cimport Beside, Series, add, floor_div, sub
from parkfleet.native.mixing cimport simple
from parkfleet.native.numbers cimport NUMBER, SPAN, magnitude, number, span, tree
from parkfleet.native.rangecoder cimport Coder, wrong
from parkfleet.native.values cimport NODES, OWN, QUANTITIES, VALUE_CELLS, Tables, first_value, next_value, pass_by

cdef extern from *:
    """
    static const long long PF_EPOCH = 1767225600000LL;  /* 2026-01-01 in ms: first times count from here */
    static const long long PF_LARGE = 1LL << 62;  /* from it on numbers have no grain */
    static const unsigned long long PF_COARSE = 1ULL << 40;  /* the largest grain, less 1 */
    """
    const int64_t PF_EPOCH
    const int64_t PF_LARGE
    const uint64_t PF_COARSE

cdef enum:  # cells beside those of values.pxd
    PRESENT = VALUE_CELLS  # 4 × 2
    SAME_ROWS = PRESENT + 8  # 3
    ON_TIME = SAME_ROWS + 3  # 5
    IN_STEP = ON_TIME + 5  # 2
    ALL_GOOD = IN_STEP + 2  # 3
    AS_ABOVE = ALL_GOOD + 3  # 2 × 2
    AS_LEFT = AS_ABOVE + 4
    AS_CODED = AS_LEFT + 1  # 2
    SAME_TEXT = AS_CODED + 2
    CODING = SAME_TEXT + 1  # 16
    QUALITY = CODING + 16  # 256
    TEXT = QUALITY + 256  # 256
    ROWS = TEXT + 256
    START = ROWS + NUMBER
    LATE = START + SPAN
    STEP = LATE + SPAN
    GRAIN = STEP + SPAN
    REST = GRAIN + NUMBER
    LENGTH = REST + NUMBER
    ROWS_AGAIN = LENGTH + NUMBER
    AGAIN = ROWS_AGAIN + NUMBER
    CELLS = AGAIN + SPAN
    AWAY = 3  # an entry that has not been in a batch since a pause
    LEAST_GRAIN = 4
    LEAST_CHANGES = 4


cdef struct Meter:  # an entry, as the chain knows it
    uint8_t seen  # 0: never; 1: not in the batch before; 2: in it; 3: not since a pause
    bint lent  # series and own are another chain's
    uint8_t good  # whether all its qualities were, in the block before
    size_t rows
    int64_t ts  # of the last row
    int64_t before  # of the last row, when the block began
    int64_t step
    Series* series
    uint32_t* own  # 2 × NODES cells a column


cdef struct Before:  # the block before in the same batch
    uint8_t any
    size_t rows
    int64_t first
    int64_t step
    bint returned  # an entry has come again after a pause
    int64_t late  # how far behind its step


cdef inline size_t row_count(Coder* c, uint32_t* cells, Meter* m, Before* before, size_t rows) noexcept nogil:
    cdef size_t expected = m.rows
    cdef int knows = 2 if m.seen == AWAY else m.rows == 0
    if knows and before.any:
        expected = before.rows
    if simple(c, cells + SAME_ROWS + knows, rows == expected):
        return expected
    return number(c, cells + (ROWS_AGAIN if m.seen == AWAY else ROWS), rows)


cdef inline void row_times(Coder* c, uint32_t* cells, Meter* m, Before* before, int64_t* ts, size_t rows) noexcept nogil:
    """The first as its entry's step, or the block before, says; then steps, against the regular one."""
    cdef int64_t expected = PF_EPOCH, step, previous
    cdef int knows = 2, odd = 0
    cdef size_t row
    if m.seen == AWAY:
        knows, expected = 3 + before.returned, add(add(m.ts, m.step), before.late)
    elif m.seen:
        knows, expected = 0, add(m.ts, m.step)
    elif before.any:
        knows, expected, m.step = 1, before.first, before.step
    if simple(c, cells + ON_TIME + knows, ts[0] == expected):
        ts[0] = expected
    else:
        ts[0] = add(expected, span(c, cells + (START if knows == 2 else AGAIN if knows == 3 else LATE), sub(ts[0], expected)))
    if m.seen == AWAY:
        before.returned, before.late = True, sub(ts[0], add(m.ts, m.step))
    previous = m.step
    for row in range(1, rows):
        step = sub(ts[row], ts[row - 1])
        if simple(c, cells + IN_STEP + odd, step == m.step):
            step, odd = m.step, 0
        else:
            step, odd = add(m.step, span(c, cells + STEP, sub(step, m.step))), 1
            if step == previous or m.step == 0:
                m.step = step
        ts[row] = add(ts[row - 1], step)
        previous = step
    m.before = m.ts
    m.ts = ts[rows - 1]
    before.any, before.rows, before.first, before.step = True, rows, ts[0], m.step


cdef inline void row_qualities(Coder* c, uint32_t* cells, Meter* m, uint8_t* quality, size_t rows, size_t width) noexcept nogil:
    """All good; or each as the one above it, as the one left of it, or its code."""
    cdef size_t at, column = 0
    cdef uint8_t above, left = 0
    cdef int good = True, odd = 0
    for at in range(0 if c.decoding else rows * width):
        if quality[at]:
            good = False
            break
    good = simple(c, cells + ALL_GOOD + (0 if m.seen == 0 else 1 + m.good), good)
    m.good = good
    if good:
        for column in range(width):
            m.series[column].quality = 0
        return
    for at in range(rows * width):
        above = m.series[column].quality
        if column == 0:
            left, odd = above, 0
        if simple(c, cells + AS_ABOVE + 2 * odd + (left == above), quality[at] == above):
            quality[at], odd = above, 0
        else:
            odd = 1
            if left != above and simple(c, cells + AS_LEFT, quality[at] == left):
                quality[at] = left
            else:
                quality[at] = tree(c, cells + QUALITY, 8, quality[at])
        left = m.series[column].quality = quality[at]
        column = column + 1 if column + 1 < width else 0


cdef inline bint decimals_of(
    const int64_t* slots, const uint8_t* quality, size_t rows, size_t width, bint single, int digits, uint64_t* numbers
) noexcept nogil:
    """Whether a float column is exact decimals of so many digits; its integers, if so, row by row."""
    cdef size_t row
    cdef uint64_t slot
    for row in range(rows):
        slot = <uint64_t> slots[row * width]
        if has_value(quality[row * width]) and not as_decimals(&slot, 1, single, digits, numbers + row):
            return False
    return True


cdef inline int choose_coding(
    const int64_t* slots, const uint8_t* quality, size_t rows, size_t width, bint single, int before, int hint,
    uint64_t* numbers
) noexcept nogil:
    """The coding of the block before while it is exact, otherwise the hint's or the fewest digits, otherwise patterns."""
    cdef int attempt, digits
    cdef size_t row
    for attempt in range(-2, MAX_TRIED + 1):
        digits = before if attempt == -2 else hint if attempt == -1 else attempt
        if 0 <= digits <= MAX_DIGITS and decimals_of(slots, quality, rows, width, single, digits, numbers):
            return digits
    for row in range(rows):
        numbers[row] = <uint64_t> slots[row * width] & PF_LOW32 if single else <uint64_t> slots[row * width]
    return PATTERNS


cdef inline void find_grain(
    const uint64_t* numbers, const uint8_t* quality, size_t rows, size_t width, int64_t* grain, int64_t* rest
) noexcept nogil:
    """The largest step that all numbers keep; stays as it was while that fits; 1 and 0 where none pays."""
    cdef size_t row, changes = 0
    cdef int64_t first = 0, last = 0, value
    cdef uint64_t found = 0, a, b
    cdef bint any = False, large = False
    for row in range(rows):
        if not has_value(quality[row * width]):
            continue
        value = <int64_t> numbers[row]
        large = large or value >= PF_LARGE or value <= -PF_LARGE
        if not any:
            any, first, last = True, value, value
        if value != last:
            changes += 1
            last = value
            a, b = found, magnitude(sub(value, first))
            while b:
                a, b = b, a % b
            found = a
        if large or (found == 1 and grain[0] == 1):
            break
    if large:
        grain[0], rest[0] = 1, 0
        return
    if not any or (grain[0] > 1 and found % <uint64_t> grain[0] == 0 and sub(first, rest[0]) % grain[0] == 0):
        return
    grain[0], rest[0] = 1, 0
    if changes >= LEAST_CHANGES and LEAST_GRAIN <= found <= PF_COARSE:
        grain[0], rest[0] = <int64_t> found, sub(first, floor_div(first, <int64_t> found) * <int64_t> found)


cdef inline void column_coding(
    Coder* c, uint32_t* cells, Series* s, bint is_float, int coding, int64_t grain, int64_t rest
) noexcept nogil:
    """Whether coding, grain and rest are as before; what they are. The numbers before are said anew in them."""
    if simple(c, cells + AS_CODED + (s.seen > 0), coding == s.coding and grain == s.grain and rest == s.rest):
        return
    if is_float:
        coding = tree(c, cells + CODING, 4, coding)
        if coding > MAX_DIGITS and coding != PATTERNS:
            wrong(c, "unknown coding of a float column")
    else:
        coding = s.coding
    grain = <int64_t> number(c, cells + GRAIN, <uint64_t> grain)
    rest = <int64_t> number(c, cells + REST, <uint64_t> rest)
    if not 1 <= grain <= <int64_t> PF_COARSE or not 0 <= rest < grain:
        wrong(c, "a column has an impossible grain")
        return
    if coding != s.coding:
        s.last = s.first = s.mean = 0
    else:
        s.last = floor_div(sub(as_integer(s, s.last), rest), grain)
        s.first = floor_div(sub(as_integer(s, s.first), rest), grain)
        s.mean = floor_div(sub(as_integer(s, s.mean), rest), grain)
    s.change = s.change_before = 0
    s.coding, s.grain, s.rest = <uint8_t> coding, grain, rest


cdef inline int64_t as_integer(Series* s, int64_t number) noexcept nogil:
    return <int64_t> (<uint64_t> number * <uint64_t> s.grain + <uint64_t> s.rest)


cdef inline void as_slots(
    Coder* c, int64_t* slots, const uint8_t* quality, size_t rows, size_t width, bint single, int coding
) noexcept nogil:
    """Decoding: a float column's integers become its slots."""
    cdef size_t row
    cdef double number
    for row in range(rows):
        if not has_value(quality[row * width]):
            continue
        if coding == PATTERNS:
            if single:
                slots[row * width] = <int64_t> (<uint64_t> slots[row * width] & PF_LOW32)
            continue
        number = <double> slots[row * width]
        if not -PF_EXACT < number < PF_EXACT:
            wrong(c, "a decimal is beyond 2^53")
            return
        slots[row * width] = <int64_t> as_bits(number / PF_POWERS[coding], single)


cdef inline void row_values(
    Coder* c, Tables* t, Meter* m, const int64_t* ts, int64_t* slots, const uint8_t* quality, size_t rows, size_t width,
    const uint8_t* types, const uint8_t* digits, const uint8_t* kinds, const uint8_t* quantities, int64_t* firsts,
    uint64_t* numbers
) noexcept nogil:
    """All numbers of a block, row by row. numbers: room for rows × width; firsts: of the column set, in this batch."""
    cdef size_t row, column, at
    cdef int64_t grain, rest, value
    cdef int coding
    cdef Series* s
    cdef Beside beside
    for column in range(width):
        if types[column] == c's':
            continue
        s = &m.series[column]
        if not s.known:
            set_up(t, s, m.own + 2 * column * NODES, types[column], digits[column], quantities[column])
        coding, grain, rest = s.coding, s.grain, s.rest
        if not c.decoding:
            if types[column] == c'i':
                for row in range(rows):
                    numbers[column * rows + row] = <uint64_t> slots[row * width + column]
            else:
                coding = choose_coding(
                    slots + column, quality + column, rows, width, types[column] == c'f', coding,
                    <signed char> digits[column], numbers + column * rows
                )
                if coding != s.coding:
                    grain, rest = 1, 0
            find_grain(numbers + column * rows, quality + column, rows, width, &grain, &rest)
        column_coding(c, t.cells, s, types[column] != c'i', coding, grain, rest)
    for row in range(rows):
        if c.error != NULL:
            return
        memset(&beside, 0, sizeof(beside))
        beside.ts, beside.gap = ts[row] >> 10, sub(ts[row], m.before) >> 10
        for column in range(width):
            if types[column] == c's':
                continue
            at = row * width + column
            s = &m.series[column]
            if not has_value(quality[at]):
                pass_by(&beside, 0, 0, 0)
                continue
            value = 0 if c.decoding else floor_div(sub(<int64_t> numbers[column * rows + row], s.rest), s.grain)
            if s.seen:
                value = next_value(c, t, s, m.own + 2 * column * NODES, kinds[column], quantities[column], &beside, value)
            else:
                value = first_value(c, t, s, quantities[column], &beside, firsts[column], value)
                firsts[column] = value
            if c.decoding:
                slots[at] = as_integer(s, value)
    for column in range(width):
        if c.decoding and (types[column] == c'f' or types[column] == c'd'):
            as_slots(c, slots + column, quality + column, rows, width, types[column] == c'f', m.series[column].coding)


cdef inline void set_up(Tables* t, Series* s, uint32_t* own, uint8_t type, uint8_t digits, uint8_t quantity) noexcept nogil:
    """A column that the chain has not met: its coding as the schema hints, its own cells as its quantity's are."""
    cdef int hint = <signed char> digits
    s.known, s.grain, s.rest = True, 1, 0
    s.coding = <uint8_t> hint if type != c'i' and 0 <= hint <= MAX_DIGITS else 0
    memcpy(own, t.cells + OWN + quantity * NODES, NODES * sizeof(uint32_t))
    memcpy(own + NODES, t.cells + OWN + (QUANTITIES + quantity) * NODES, NODES * sizeof(uint32_t))
