"""Guess: what a series' first number after a pause likely is. Integers only. Pure C.

Five guesses at its change since the number before the pause; the one that erred least after earlier pauses is taken.
Format: docs/payload.md; oracle: protocols/payload/chain/guess.py.
"""

from libc.stdint cimport int64_t

from parkfleet.native.forecast cimport (
    GUESSES, HALF_ONE, Beside, Outlook, Series, add, feature, floor_div, in_proportion, learn_errors, loudness, sub
)

cdef extern from *:
    """
    static const long long PF_LONG_GAP = 1LL << 32;  /* 140 years, in 1.024 s */
    """
    const int64_t PF_LONG_GAP

cdef enum:
    STAYED = 0  # as it was
    WENT_ON = 1  # goes on as it has on the average since its first number
    RETURNED = 2  # is as it mostly is after a pause
    ENDED = 3  # is 0
    WITH_NEIGHBOUR = 4  # has changed in proportion to the column before in this row
    FAR_GOING = 1 << 30  # from it on a change since the first number says nothing


cdef inline void guess_change(Series* s, Beside* row, Outlook* o) noexcept nogil:
    cdef int64_t gone = sub(s.last, s.first), since = sub(sub(row.ts, s.first_ts), row.gap)
    cdef int i
    o.changes[STAYED] = o.changes[WENT_ON] = 0
    if since > 0 and -FAR_GOING < gone < FAR_GOING and 0 < row.gap < PF_LONG_GAP:
        o.changes[WENT_ON] = floor_div(gone * row.gap, since)
    o.changes[RETURNED] = sub(s.mean, s.last)
    o.changes[ENDED] = sub(0, s.last)
    o.changes[WITH_NEIGHBOUR] = (in_proportion(&s.beside, feature(row.change1)) + HALF_ONE) >> 16
    o.best = 0
    for i in range(1, GUESSES):
        if s.guess_costs[i] < s.guess_costs[o.best]:
            o.best = i


cdef inline void learn_return(Series* s, Outlook* o, int64_t change, int64_t error) noexcept nogil:
    """Every guess learns from what came."""
    cdef int i, pace = 1 if s.returns < 2 else 2 if s.returns < 5 else 3 if s.returns < 10 else 4
    for i in range(GUESSES):
        s.guess_costs[i] += (64 * loudness(sub(change, o.changes[i])) - s.guess_costs[i]) >> (2 if s.returns < 4 else 3)
    s.last = add(s.last, change)
    s.mean = add(s.mean, sub(s.last, s.mean) >> pace)
    s.change = s.change_before = 0
    s.away = False
    if s.returns < 255:
        s.returns += 1
    learn_errors(&s.far, error)
