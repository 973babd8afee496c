"""Values: one number of a series in its context, both ways. Pure C.

Format: docs/payload.md; oracle: protocols/payload/chain/values.py.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from parkfleet.native.forecast cimport (
    BESIDE, DRIFT, FORECASTS, GUESSES, HALF_ONE, RATE, STAYS, TAPS, Beside, Errors, Outlook, Series, add, learn_change,
    learn_errors, look_ahead, loudness, sub, within
)
from parkfleet.native.guess cimport RETURNED, STAYED, WENT_ON, guess_change, learn_return
from parkfleet.native.mixing cimport CELLS_MIXED, INPUTS, KNOTS_REFINED, mixed, update
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
    # Cells: how a series' own begin; contexts by kind; sizes by quantity; first numbers; what refines mixes, by kind.
    # All but first numbers twice: for numbers that follow one another, and for the first ones after a pause.
    OWN = 0
    SHARED = OWN + 2 * QUANTITIES * NODES
    SIZED = SHARED + 2 * SETS * KINDS * CONTEXTS * NODES
    FIRSTS = SIZED + 2 * QUANTITIES * SIZES * NODES
    REFINED = FIRSTS + QUANTITIES * 2 * SIGNED
    VALUE_CELLS = REFINED + 2 * KINDS * NODES * KNOTS_REFINED
    # Weights: by kind, young ones of a kind, a kind after a pause; by quantity, and after a pause; then habits.
    HABITS = (3 * KINDS + 2 * QUANTITIES) * NODES * INPUTS
    # Costs 0 to 4, drift 7, size 8, how often learned 9, taps from 10 on; costs of guesses from 16 on, size after a
    # pause 21, how often learned 22.
    HABIT = 24
    WEIGHTS = HABITS + QUANTITIES * HABIT


cdef struct Tables:
    uint32_t* cells
    int32_t* weights
    bint teach  # the prior's trainer: what one series shows is for all of its quantity


cdef struct Mix:  # of one error
    uint32_t* cells[CELLS_MIXED]
    int32_t* first
    int32_t* second
    uint32_t* refined
    uint32_t* teach


cdef inline int node_bit(Coder* c, Mix* m, int node, int bit) noexcept nogil:
    bit = mixed(c, m.cells, m.first + node * INPUTS, m.second + node * INPUTS, m.refined + node * KNOTS_REFINED, node, bit)
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
    Coder* c, Tables* t, Series* s, int quantity, Beside* row, int64_t expected, int64_t value
) noexcept nogil:
    """The first number of a series since the key; expected: that of the same column of the meter before, or 0."""
    cdef int32_t* habit = t.weights + HABITS + quantity * HABIT
    cdef uint32_t* cells = t.cells + FIRSTS + (2 * quantity + (expected != 0)) * SIGNED
    cdef int i
    value = add(expected, signed_number(c, cells, sub(value, expected)))
    s.seen, s.last, s.first, s.first_ts, s.mean = 1, value, value, row.ts, value
    for i in range(FORECASTS):
        s.costs[i] = habit[i]
    s.drift, s.near.size = habit[7], habit[8]
    for i in range(TAPS):
        s.taps[i] = habit[10 + i]
    for i in range(GUESSES):
        s.guess_costs[i] = habit[16 + i]
    s.far.size = habit[21]
    pass_by(row, 0, value, 0)
    return value


cdef inline void set_up_mix(
    Mix* m, Tables* t, Series* s, uint32_t* own, int kind, int quantity, Beside* row, Outlook* o
) noexcept nogil:
    """The cells and weights that see this error: the series' own, six contexts of its kind, its quantity's sizes.
    After a pause, others than otherwise."""
    cdef int contexts[SETS]
    cdef bint away = s.away
    cdef Errors* e = &s.far if away else &s.near
    cdef int i, run = bit_length(<uint64_t> e.quiet), size = e.size >> 4 if e.size < 128 else 4 + (e.size >> 5)
    cdef uint32_t seen = s.returns + 1 if away else s.seen
    cdef int age = 0 if seen < 2 else 1 if seen < 3 else 2 if seen < 6 else 3, other, part
    cdef int64_t apart
    size = 15 if size > 15 else size
    run = 7 if run > 7 else run
    if away:
        other = STAYED if o.best else WENT_ON if kind == COUNTER else RETURNED
        part = bit_length(magnitude(row.gap)) // 3
        part = 7 if part > 7 else part
    else:
        other = STAYS if o.best else DRIFT if kind == COUNTER else BESIDE
        part = <int> ((o.rate_sum if o.best == RATE else o.drift_sum) + HALF_ONE >> 13 & 7)
    apart = sub(o.changes[other], o.changes[o.best])
    contexts[0] = size * 8 + age * 2 + (s.last == 0)
    contexts[1] = grade(e.length1) * 16 + grade(e.length2) * 2 + e.down
    contexts[2] = grade(row.length1) * 16 + (row.moved if row.moved < 3 else 3) * 4 + (size >> 2)
    contexts[3] = run * 16 + (row.length1 > 0) * 8 + (row.length2 > 0) * 4 + (s.last == 0) * 2 + (e.length2 > 0)
    contexts[4] = part * 16 + o.best * 2 + (e.length1 > 0)
    contexts[5] = grade(loudness(apart) >> 2) * 16 + (apart < 0) * 8 + (size >> 1)
    m.cells[0] = own + away * NODES
    for i in range(SETS):
        m.cells[1 + i] = t.cells + SHARED + (((away * SETS + i) * KINDS + kind) * CONTEXTS + contexts[i]) * NODES
    m.cells[1 + SETS] = t.cells + SIZED + ((away * QUANTITIES + quantity) * SIZES + size) * NODES
    m.first = t.weights + ((2 * KINDS if away else 0 if age == 3 else KINDS) + kind) * NODES * INPUTS
    m.second = t.weights + (3 * KINDS + away * QUANTITIES + quantity) * NODES * INPUTS
    m.refined = t.cells + REFINED + (away * KINDS + kind) * NODES * KNOTS_REFINED
    m.teach = t.cells + OWN + (away * QUANTITIES + quantity) * NODES if t.teach else NULL


cdef inline int64_t next_value(
    Coder* c, Tables* t, Series* s, uint32_t* own, int kind, int quantity, Beside* row, int64_t value
) noexcept nogil:
    """A further number of a series."""
    cdef Outlook o
    cdef Mix m
    cdef int64_t error, change
    if s.away:
        guess_change(s, row, &o)
    else:
        look_ahead(s, row, &o)
    set_up_mix(&m, t, s, own, kind, quantity, row, &o)
    if t.teach:
        learn_habit(s, t.weights + HABITS + quantity * HABIT)
    error = coded_error(c, &m, sub(sub(value, s.last), o.changes[o.best]))
    change = add(o.changes[o.best], error)
    if s.away:
        learn_return(s, &o, change, error)
    else:
        learn_change(s, &o, change)
        s.last = add(s.last, change)
        learn_errors(&s.near, error)
    pass_by(row, change, s.last, bit_length(magnitude(error)))
    return s.last


cdef inline void learn_habit(Series* s, int32_t* habit) noexcept nogil:
    """The trainer: how forecasts of this quantity fare after two to thirty values, guesses after as many pauses."""
    cdef int32_t* times = habit + (22 if s.away else 9)
    cdef int i, pace = times[0] if times[0] < 8 else 8
    if not 3 <= (s.returns if s.away else s.seen) <= 30:
        return
    times[0] += 1
    if s.away:
        for i in range(GUESSES):
            habit[16 + i] += (s.guess_costs[i] - habit[16 + i]) >> pace
        habit[21] += (s.far.size - habit[21]) >> pace
        return
    for i in range(FORECASTS):
        habit[i] += (s.costs[i] - habit[i]) >> pace
    habit[7] += <int32_t> ((within(s.drift, 1 << 30) - habit[7]) >> pace)
    habit[8] += (s.near.size - habit[8]) >> pace
    for i in range(TAPS):
        habit[10 + i] += <int32_t> ((s.taps[i] - habit[10 + i]) >> pace)


cdef inline void pass_by(Beside* row, int64_t change, int64_t number, int length) noexcept nogil:
    """The row goes on to the next column."""
    row.change3, row.change2, row.change1, row.number1 = row.change2, row.change1, change, number
    row.length2, row.length1 = row.length1, length
    row.moved += length > 0
