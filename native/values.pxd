"""Values: one number of a series in its context, both ways. Pure C.

Format: docs/payload.md; oracle: protocols/payload/chain/values.py.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from parkfleet.native.forecast cimport (
    DRIFT, FORECASTS, GUESSES, HALF_ONE, RATE, STAYS, TAPS, BESIDE, Beside, Outlook, Record, Series, add, feature,
    floor_div, in_proportion, learn_change, look_ahead, loudness, sub, within
)
from parkfleet.native.mixing cimport CELLS_MIXED, INPUTS, mixed, update
from parkfleet.native.numbers cimport HALF, SIGNED, bit_length, magnitude, signed_number, with_sign
from parkfleet.native.rangecoder cimport Coder, decide

cdef enum:
    COUNTER = 0  # kinds
    GAUGE = 1
    STATE = 2
    KINDS = 3
    QUANTITIES = 32  # what a prior knows: the three kinds in general, then kind, unit and decimals
    NODES = 76  # decisions of an error
    SETS = 6  # of contexts, by kind
    CONTEXTS = 128  # of each
    SIZES = 16
    OWN = 0  # cells: how a series' own begin; contexts by kind; sizes by quantity; first numbers
    SHARED = OWN + QUANTITIES * NODES
    SIZED = SHARED + SETS * 2 * KINDS * CONTEXTS * NODES
    LATE_OWN = SIZED + 2 * QUANTITIES * SIZES * NODES
    FIRSTS = LATE_OWN + QUANTITIES * NODES
    VALUE_CELLS = FIRSTS + QUANTITIES * 2 * SIGNED
    HABITS = (3 * KINDS + 2 * QUANTITIES) * NODES * INPUTS  # weights: by kind, young ones of a kind, quantity; then habits
    HABIT = 32  # costs 0 to 4, drift 7, size 8, how often learned 9, taps from 10 on
    WEIGHTS = HABITS + QUANTITIES * HABIT


cdef struct Tables:
    uint32_t* cells
    int32_t* weights
    bint teach  # the prior's trainer: what one series shows is for all of its quantity


cdef struct Mix:  # of one error
    uint32_t* cells[CELLS_MIXED]
    int32_t* first
    int32_t* second
    uint32_t* teach


cdef inline int node_bit(Coder* c, Mix* m, int node, int bit) noexcept nogil:
    bit = mixed(c, m.cells, m.first + node * INPUTS, m.second + node * INPUTS, node, bit)
    if m.teach != NULL:
        update(m.teach + node, bit)
    return bit


cdef inline int64_t coded_error(Coder* c, Mix* m, int64_t error) noexcept nogil:
    """Zero or not, sign, bit length in unary, two bits below the first by context, the others as they are."""
    cdef uint64_t size = magnitude(error), found = 1
    cdef int length = bit_length(size), known = 1, at, bit
    cdef bint negative
    if not node_bit(c, m, 0, error != 0):
        return 0
    negative = node_bit(c, m, 1, error < 0)
    while known < 64 and node_bit(c, m, 1 + known if known < 22 else 23, length > known):
        known += 1
    at = known - 1
    if at > 0:
        at -= 1
        bit = node_bit(c, m, 24 + (at if at < 17 else 17), size >> at & 1)
        found = 2 | <uint64_t> bit
        if at > 0:
            at -= 1
            bit = node_bit(c, m, 42 + 2 * (at if at < 16 else 16) + bit, size >> at & 1)
            found = found << 1 | <uint64_t> bit
    while at > 0:
        at -= 1
        found = found << 1 | <uint64_t> decide(c, HALF, size >> at & 1)
    return with_sign(found, negative)


cdef inline int grade(int length) noexcept nogil:
    """A bit length in eight steps."""
    return length if length < 4 else 4 if length < 6 else 5 if length < 8 else 6 if length < 11 else 7


cdef inline int64_t first_value(
    Coder* c, Tables* t, Series* s, int quantity, int64_t expected, int64_t value
) noexcept nogil:
    """The first number of a series since the key; expected: that of the same column of the meter before, or 0."""
    cdef int32_t* habit = t.weights + HABITS + quantity * HABIT
    cdef uint32_t* cells = t.cells + FIRSTS + (2 * quantity + (expected != 0)) * SIGNED
    cdef int i
    value = add(expected, signed_number(c, cells, sub(value, expected)))
    s.seen, s.last = 1, value
    for i in range(FORECASTS):
        s.costs[i] = habit[i]
    s.drift, s.live.size = habit[7], habit[8]
    s.late.size = habit[16]
    s.first, s.mean = value, value
    for i in range(GUESSES):
        s.guess_costs[i] = habit[17 + i]
    for i in range(TAPS):
        s.taps[i] = habit[10 + i]
    return value


cdef inline void learn_habit(Series* s, int32_t* habit) noexcept nogil:
    """The trainer: how forecasts of this quantity fare after two to thirty values."""
    cdef int i, pace = habit[9] if habit[9] < 8 else 8
    if s.seen < 3 or s.seen > 30:
        return
    for i in range(FORECASTS):
        habit[i] += (s.costs[i] - habit[i]) >> pace
    habit[7] += <int32_t> ((within(s.drift, 1 << 30) - habit[7]) >> pace)
    habit[8] += (s.live.size - habit[8]) >> pace
    for i in range(TAPS):
        habit[10 + i] += <int32_t> ((s.taps[i] - habit[10 + i]) >> pace)
    habit[9] += 1


cdef inline void learn_late_habit(Series* s, int32_t* habit) noexcept nogil:
    cdef int i, pace = habit[22] if habit[22] < 8 else 8
    if s.spans < 3 or s.spans > 30:
        return
    habit[16] += (s.late.size - habit[16]) >> pace
    for i in range(GUESSES):
        habit[17 + i] += (s.guess_costs[i] - habit[17 + i]) >> pace
    habit[22] += 1


cdef inline void set_up_mix(
    Mix* m, Tables* t, Series* s, uint32_t* own, int kind, int quantity, Beside* row, Outlook* o
) noexcept nogil:
    """The cells and weights that see this error: the series' own, six contexts of its kind, its quantity's sizes."""
    cdef int contexts[SETS]
    cdef Record* r = &s.late if s.stale else &s.live
    cdef int i, run = bit_length(<uint64_t> r.quiet), size = r.size >> 4 if r.size < 128 else 4 + (r.size >> 5)
    cdef uint32_t seen = s.spans + 1 if s.stale else s.seen
    cdef int age = 0 if seen < 2 else 1 if seen < 3 else 2 if seen < 6 else 3
    cdef int other
    cdef int64_t apart
    cdef int part
    size = 15 if size > 15 else size
    run = 7 if run > 7 else run
    if s.stale:
        other = 0 if o.best else 1 if kind == COUNTER else 2
        part = bit_length(magnitude(row.gap)) // 3
        part = 7 if part > 7 else part
        kind += KINDS
    else:
        other = STAYS if o.best else DRIFT if kind == COUNTER else BESIDE
        part = <int> ((o.rate_sum if o.best == RATE else o.drift_sum) + HALF_ONE >> 13 & 7)
    apart = sub(o.changes[other], o.changes[o.best])
    contexts[0] = size * 8 + age * 2 + (s.last == 0)
    contexts[1] = grade(r.length1) * 16 + grade(r.length2) * 2 + r.down
    contexts[2] = grade(row.length1) * 16 + (row.moved if row.moved < 3 else 3) * 4 + (size >> 2)
    contexts[3] = run * 16 + (row.length1 > 0) * 8 + (row.length2 > 0) * 4 + (s.last == 0) * 2 + (r.length2 > 0)
    contexts[4] = part * 16 + o.best * 2 + (r.length1 > 0)
    contexts[5] = grade(loudness(apart) >> 2) * 16 + (apart < 0) * 8 + (size >> 1)
    m.cells[0] = own + (NODES if s.stale else 0)
    for i in range(SETS):
        m.cells[1 + i] = t.cells + SHARED + ((i * 2 * KINDS + kind) * CONTEXTS + contexts[i]) * NODES
    m.cells[1 + SETS] = t.cells + SIZED + ((quantity + (QUANTITIES if s.stale else 0)) * SIZES + size) * NODES
    if s.stale:
        m.first = t.weights + (KINDS + kind) * NODES * INPUTS
        m.second = t.weights + (3 * KINDS + QUANTITIES + quantity) * NODES * INPUTS
        m.teach = t.cells + LATE_OWN + quantity * NODES if t.teach else NULL
    else:
        m.first = t.weights + (kind if age == 3 else KINDS + kind) * NODES * INPUTS
        m.second = t.weights + (3 * KINDS + quantity) * NODES * INPUTS
        m.teach = t.cells + OWN + quantity * NODES if t.teach else NULL


cdef inline void record(Record* r, int64_t error) noexcept nogil:
    cdef int length = bit_length(magnitude(error))
    r.size += (32 * length - r.size) >> 2
    r.length2, r.length1, r.down = r.length1, length, error < 0
    r.quiet = 0 if error else r.quiet + 1 if r.quiet < 255 else 255


cdef inline int64_t late_value(
    Coder* c, Tables* t, Series* s, uint32_t* own, int kind, int quantity, Beside* row, int64_t value
) noexcept nogil:
    """The first number of a series since the primer."""
    cdef Outlook o
    cdef Mix m
    cdef int64_t error, change, since, gone = sub(s.last, s.first)
    cdef int i, pace
    memset(&o, 0, sizeof(o))
    o.changes[0] = 0
    since = row.ts - s.first_ts - row.gap
    if since > 0 and -(1LL << 30) < gone < 1LL << 30 and 0 < row.gap < 1LL << 32:
        o.changes[1] = floor_div(gone * row.gap, since)
    o.changes[2] = sub(s.mean, s.last)
    o.changes[3] = sub(0, s.last)
    o.changes[4] = (in_proportion(&s.beside, feature(row.change1)) + HALF_ONE) >> 16
    for i in range(1, GUESSES):
        if s.guess_costs[i] < s.guess_costs[o.best]:
            o.best = i
    set_up_mix(&m, t, s, own, kind, quantity, row, &o)
    if t.teach:
        learn_late_habit(s, t.weights + HABITS + quantity * HABIT)
    error = coded_error(c, &m, sub(sub(value, s.last), o.changes[o.best]))
    change = add(o.changes[o.best], error)
    for i in range(GUESSES):
        s.guess_costs[i] += (64 * loudness(sub(change, o.changes[i])) - s.guess_costs[i]) >> (2 if s.spans < 4 else 3)
    s.last = add(s.last, change)
    pace = 1 if s.spans < 2 else 2 if s.spans < 5 else 3 if s.spans < 10 else 4
    s.mean = add(s.mean, sub(s.last, s.mean) >> pace)
    record(&s.late, error)
    s.stale = False
    s.spans += s.spans < 255
    s.change = s.change_before = 0
    pass_by(row, change, s.last, s.late.length1)
    return s.last


cdef inline int64_t next_value(
    Coder* c, Tables* t, Series* s, uint32_t* own, int kind, int quantity, Beside* row, int64_t value
) noexcept nogil:
    """A further number of a series."""
    cdef Outlook o
    cdef Mix m
    cdef int64_t error, change
    if s.stale:
        return late_value(c, t, s, own, kind, quantity, row, value)
    look_ahead(s, row, &o)
    set_up_mix(&m, t, s, own, kind, quantity, row, &o)
    if t.teach:
        learn_habit(s, t.weights + HABITS + quantity * HABIT)
    error = coded_error(c, &m, sub(sub(value, s.last), o.changes[o.best]))
    change = add(o.changes[o.best], error)
    learn_change(s, &o, change)
    s.last = add(s.last, change)
    record(&s.live, error)
    pass_by(row, change, s.last, s.live.length1)
    return s.last


cdef inline void pass_by(Beside* row, int64_t change, int64_t number, int length) noexcept nogil:
    """The row goes on to the next column."""
    row.change3, row.change2, row.change1, row.number1 = row.change2, row.change1, change, number
    row.length2, row.length1 = row.length1, length
    row.moved += length > 0
