"""Follows: whether the guarded counters of a scan plainly follow their readings before, which nearly all do.

What is not plain (no reading before, less than before, a jump, a number beyond 2^53) is for agent/counter_guard.py, whose
FITS this never says of anything that it would not: the same arithmetic for integers, and for floats, which are compared
as they are and not as their shortest decimals, without the slack that it allows.
"""

from cpython.array cimport array
from libc.math cimport fabs
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from *:
    """
    static const double PF_WHOLE = 9007199254740992.0;  /* 2^53: below it every integer is a double */
    static const double PF_MS_AN_HOUR = 3.6e6;
    static const double PF_LEAST_HOURS = 1.0 / 3600;  /* counter_guard.py: _LEAST_HOURS */
    """
    const double PF_WHOLE
    const double PF_MS_AN_HOUR
    const double PF_LEAST_HOURS

cdef struct Counter:
    Py_ssize_t column
    char kind           # i, u (two's complement of 64 bits), f, d
    double multiply
    double add
    double divide
    double rate         # units an hour; infinity: not known
    double slack        # that a reading may be above what the rate allows
    bint known          # whether there is a reading before
    int64_t slot        # of that
    int64_t ts          # ms UTC
    double value
    double fresh        # of the scan that is looked at
    bint has_fresh


cdef inline bint value_of(const Counter *c, int64_t slot, double *value) noexcept nogil:
    """The value of a slot; False where doubles do not tell it exactly enough."""
    cdef float narrow
    cdef uint32_t bits
    cdef double raw
    if c.kind == c'f':
        bits = <uint32_t> slot
        memcpy(&narrow, &bits, 4)
        raw = narrow
    elif c.kind == c'd':
        memcpy(&raw, &slot, 8)
    else:
        raw = <double> <uint64_t> slot if c.kind == c'u' else <double> slot
        if not fabs(raw) < PF_WHOLE or not fabs(raw * c.multiply) + fabs(c.add) < PF_WHOLE:
            return False
    value[0] = (raw * c.multiply + c.add) / c.divide
    return True


cdef class Counters:
    """See follows.pyi."""

    cdef Counter *counters
    cdef Py_ssize_t count

    def __cinit__(self, list specs):
        self.count = len(specs)
        self.counters = <Counter *>calloc(self.count + 1, sizeof(Counter))
        if self.counters == NULL:
            raise MemoryError
        cdef Py_ssize_t i
        for i, (column, kind, multiply, add, divide, rate, slack) in enumerate(specs):
            if kind not in ("i", "u", "f", "d") or column < 0:
                raise ValueError(f"no column {column} of kind {kind!r}")
            if kind in ("f", "d") and (multiply <= 0 or add != 0):
                raise ValueError("a float's factor is a positive number, nothing is added")
            self.counters[i].column, self.counters[i].kind = column, ord(kind)
            self.counters[i].multiply, self.counters[i].add, self.counters[i].divide = multiply, add, divide
            self.counters[i].rate, self.counters[i].slack = rate, slack

    def __dealloc__(self):
        free(self.counters)

    def follow(self, array slots, bytes quality, int64_t ts):
        cdef Py_ssize_t i
        cdef Counter *c
        cdef const uint8_t *codes = quality
        cdef const int64_t *at = <const int64_t *>slots.data.as_longlongs
        cdef double hours
        for i in range(self.count):
            c = &self.counters[i]
            if c.column >= len(slots) or c.column >= len(quality):
                raise IndexError(f"no column {c.column}")
            c.has_fresh = codes[c.column] == 0
            if not c.has_fresh:
                continue
            if not c.known or not value_of(c, at[c.column], &c.fresh):
                return False
            hours = max(<double>(ts - c.ts) / PF_MS_AN_HOUR, PF_LEAST_HOURS)
            if not (c.value <= c.fresh and c.fresh - c.value <= c.rate * hours + c.slack):
                return False
        for i in range(self.count):
            c = &self.counters[i]
            if c.has_fresh:
                c.slot, c.ts, c.value = at[c.column], ts, c.fresh
        return True

    def know(self, Py_ssize_t index, int64_t slot, int64_t ts):
        cdef Counter *c = self._counter(index)
        c.slot, c.ts = slot, ts
        c.known = value_of(c, slot, &c.value)

    def forget(self, Py_ssize_t index):
        self._counter(index).known = False

    def last(self, Py_ssize_t index):
        cdef Counter *c = self._counter(index)
        return (c.slot, c.ts) if c.known else None

    cdef Counter *_counter(self, Py_ssize_t index) except NULL:
        if not 0 <= index < self.count:
            raise IndexError(f"no counter {index}")
        return &self.counters[index]
