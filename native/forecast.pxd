"""Forecast: what a series' next number likely is. Integers only. Pure C.

Five forecasts run beside each other; the one that erred least of late is taken. Format: docs/payload.md; oracle:
protocols/payload/chain/forecast.py.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from parkfleet.native.numbers cimport bit_length, magnitude

cdef extern from *:
    """
    static const long long PF_STEEPEST = 1LL << 40;  /* of a ratio, in 1/65536 */
    """
    const int64_t PF_STEEPEST

cdef enum:
    STAYS = 0  # as the number before
    BESIDE = 1  # changes in proportion to the column before in this row
    RATE = 2  # changes in proportion to the number of the column before: a counter beside its rate
    DRIFT = 3  # changes as it did on the average
    LINEAR = 4  # changes by a weighted sum of six features
    FORECASTS = 5
    TAPS = 6
    GUESSES = 5  # after a pause, see guess.pxd
    FEATURE_MAX = 1 << 18  # from it on a number is no feature: keeps every product below 2^63
    TAP_MAX = 1 << 20
    LINEAR_PACE = 4
    ONE = 1 << 16
    HALF_ONE = 1 << 15


cdef struct Ratio:  # least squares of change = ratio × feature, over the last rows
    int64_t top
    int64_t bottom


cdef struct Errors:  # how forecasts have erred of late
    int32_t size  # mean bit length, in 1/32
    int length1  # bit length of the error before, and of the one before it
    int length2
    bint down  # sign of the error before
    int quiet  # errors of 0 since the last other, up to 255


cdef struct Series:
    uint32_t seen  # values since the key, up to 255
    bint away  # no value since a pause
    uint32_t returns  # values that were the first since a pause, up to 255
    uint8_t known  # whether its coding, grain and cells are set up
    uint8_t coding
    uint8_t quality  # of the row before
    int64_t grain  # integer = grain × number + rest
    int64_t rest
    int64_t last  # the number before
    int64_t change  # the change before
    int64_t change_before
    int64_t drift  # mean change, in 1/65536
    int64_t drift_part  # what rounding left of the forecast, in 1/65536
    int64_t rate_part
    Ratio beside
    Ratio rate
    int64_t taps[TAPS]  # weights of the features, in 1/65536
    int32_t costs[FORECASTS]  # mean loudness of the errors, in 1/64
    Errors near  # of values that follow one another
    Errors far  # of the first ones since a pause
    int64_t first  # the number at first, and its row's time
    int64_t first_ts
    int64_t mean  # of the numbers that were the first since a pause
    int32_t guess_costs[GUESSES]


cdef struct Beside:  # what the row says so far; 0 where a column has no value
    int64_t change1  # of the column before, and the two before it
    int64_t change2
    int64_t change3
    int64_t number1
    int length1  # bit length of the error of the column before, and of the one before it
    int length2
    int moved  # columns whose error was not 0
    int64_t ts  # the row's time in 1.024 s
    int64_t gap  # since the entry's last row in the batch before, in 1.024 s


cdef struct Outlook:  # forecasts of one change, and what they are made of
    int64_t changes[FORECASTS]
    int64_t features[TAPS]
    int64_t number1
    int64_t rate_sum
    int64_t drift_sum
    int64_t power  # sum of the features' squares, plus 1
    int best


cdef inline int64_t add(int64_t a, int64_t b) noexcept nogil:
    return <int64_t> (<uint64_t> a + <uint64_t> b)


cdef inline int64_t sub(int64_t a, int64_t b) noexcept nogil:
    return <int64_t> (<uint64_t> a - <uint64_t> b)


cdef inline int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    """a / b for b > 0, rounded down."""
    cdef int64_t quotient = a // b
    return quotient - 1 if a % b < 0 else quotient


cdef inline int64_t within(int64_t number, int64_t most) noexcept nogil:
    return -most if number < -most else most if number > most else number


cdef inline int loudness(int64_t error) noexcept nogil:
    """log2 of an error's size, in quarters: 0 for 0, 4 for 1, 8 for 2, 10 for 3, 12 for 4."""
    cdef uint64_t size = magnitude(error)
    cdef int length = bit_length(size)
    if length < 2:
        return 4 * length
    if length == 2:
        return 8 + 2 * <int> (size & 1)
    return 4 * length + <int> (size >> (length - 3) & 3)


cdef inline int64_t feature(int64_t number) noexcept nogil:
    return number if -FEATURE_MAX < number < FEATURE_MAX else 0


cdef inline int64_t in_proportion(Ratio* ratio, int64_t value) noexcept nogil:
    """value × ratio in 1/65536, rounded down; 0 where nothing is known."""
    if ratio.bottom == 0 or value == 0:
        return 0
    return within(floor_div(ratio.top * ONE, ratio.bottom), PF_STEEPEST) * value


cdef inline void learn_ratio(Ratio* ratio, int64_t value, int64_t change) noexcept nogil:
    if value:
        ratio.top += value * change - (ratio.top >> 4)
        ratio.bottom += value * value - (ratio.bottom >> 4)


cdef inline void look_ahead(Series* s, Beside* row, Outlook* o) noexcept nogil:
    cdef int64_t dot = HALF_ONE
    cdef int i
    o.features[0] = feature(row.change1)
    o.features[1] = feature(row.change2)
    o.features[2] = feature(row.change3)
    o.features[3] = feature(s.change)
    o.features[4] = feature(s.change_before)
    o.features[5] = feature((s.drift + HALF_ONE) >> 16)
    o.number1 = feature(row.number1)
    o.power = 1
    for i in range(TAPS):
        dot += s.taps[i] * o.features[i]
        o.power += o.features[i] * o.features[i]
    o.rate_sum = s.rate_part + in_proportion(&s.rate, o.number1)
    o.drift_sum = s.drift_part + s.drift
    o.changes[STAYS] = 0
    o.changes[BESIDE] = (in_proportion(&s.beside, o.features[0]) + HALF_ONE) >> 16
    o.changes[RATE] = (o.rate_sum + HALF_ONE) >> 16
    o.changes[DRIFT] = (o.drift_sum + HALF_ONE) >> 16
    o.changes[LINEAR] = dot >> 16
    o.best = 0
    for i in range(1, FORECASTS):
        if s.costs[i] < s.costs[o.best]:
            o.best = i


cdef inline void learn_errors(Errors* e, int64_t error) noexcept nogil:
    cdef int length = bit_length(magnitude(error))
    e.size += (32 * length - e.size) >> 2
    e.length2, e.length1, e.down = e.length1, length, error < 0
    e.quiet = 0 if error else e.quiet + 1 if e.quiet < 255 else 255


cdef inline void learn_change(Series* s, Outlook* o, int64_t change) noexcept nogil:
    """Every forecast learns from what came."""
    cdef int64_t small = change if -(1 << 30) < change < 1 << 30 else 0, gain, short = feature(change)
    cdef int i, pace = 1 if s.seen < 3 else 2 if s.seen < 6 else 3 if s.seen < 12 else 4
    gain = floor_div(feature(sub(change, o.changes[LINEAR])) * ONE, o.power)
    for i in range(TAPS):
        s.taps[i] = within(s.taps[i] + ((gain * o.features[i]) >> LINEAR_PACE), TAP_MAX)
    for i in range(FORECASTS):
        s.costs[i] += (64 * loudness(sub(change, o.changes[i])) - s.costs[i]) >> 4
    s.rate_part = within(o.rate_sum - small * ONE, HALF_ONE)
    s.drift_part = within(o.drift_sum - small * ONE, HALF_ONE)
    s.drift += (small * ONE - s.drift) >> pace
    learn_ratio(&s.beside, o.features[0], short)
    learn_ratio(&s.rate, o.number1, short)
    s.change_before, s.change = s.change, change
    if s.seen < 255:
        s.seen += 1
