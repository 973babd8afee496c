"""Clock: monotonic and UTC nanoseconds."""

from libc.stdint cimport int64_t

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *result) noexcept
    const int CLOCK_MONOTONIC, CLOCK_REALTIME


cdef inline int64_t monotonic() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec


cdef inline int64_t wall() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_REALTIME, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec
