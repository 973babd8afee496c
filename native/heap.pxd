"""Heap: binary heaps of meters by key and of lines by wake time; each member knows its place."""

from libc.stdint cimport int32_t, int64_t

from parkfleet.native.model cimport IDLE, Line, Meter


cdef inline void meter_up(Meter **heap, int32_t at) noexcept nogil:
    cdef Meter *moved = heap[at]
    cdef int32_t parent
    while at > 0:
        parent = (at - 1) >> 1
        if heap[parent].key <= moved.key:
            break
        heap[at] = heap[parent]
        heap[at].heap_at = at
        at = parent
    heap[at] = moved
    moved.heap_at = at


cdef inline void meter_down(Meter **heap, int32_t count, int32_t at) noexcept nogil:
    cdef Meter *moved = heap[at]
    cdef int32_t child
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and heap[child + 1].key < heap[child].key:
            child += 1
        if heap[child].key >= moved.key:
            break
        heap[at] = heap[child]
        heap[at].heap_at = at
        at = child
    heap[at] = moved
    moved.heap_at = at


cdef inline void push(Meter **heap, int32_t *count, Meter *meter, int64_t key) noexcept nogil:
    meter.key = key
    heap[count[0]] = meter
    count[0] += 1
    meter_up(heap, count[0] - 1)


cdef inline void remove(Meter **heap, int32_t *count, Meter *meter) noexcept nogil:
    cdef int32_t at = meter.heap_at
    cdef Meter *last
    count[0] -= 1
    last = heap[count[0]]
    if last != meter:
        heap[at] = last
        last.heap_at = at
        meter_up(heap, at)
        meter_down(heap, count[0], last.heap_at)
    meter.place = IDLE


cdef inline void timer_up(Line **heap, int32_t at) noexcept nogil:
    cdef Line *moved = heap[at]
    cdef int32_t parent
    while at > 0:
        parent = (at - 1) >> 1
        if heap[parent].wake <= moved.wake:
            break
        heap[at] = heap[parent]
        heap[at].timer_at = at
        at = parent
    heap[at] = moved
    moved.timer_at = at


cdef inline void timer_down(Line **heap, int32_t count, int32_t at) noexcept nogil:
    cdef Line *moved = heap[at]
    cdef int32_t child
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and heap[child + 1].wake < heap[child].wake:
            child += 1
        if heap[child].wake >= moved.wake:
            break
        heap[at] = heap[child]
        heap[at].timer_at = at
        at = child
    heap[at] = moved
    moved.timer_at = at


cdef inline void retime(Line **heap, int32_t count, Line *line, int64_t wake) noexcept nogil:
    """Gives a line its next wake time."""
    cdef int64_t before = line.wake
    line.wake = wake
    if wake < before:
        timer_up(heap, line.timer_at)
    elif wake > before:
        timer_down(heap, count, line.timer_at)


cdef inline void drop_timer(Line **heap, int32_t *count, Line *line) noexcept nogil:
    cdef int32_t at = line.timer_at
    cdef Line *last
    count[0] -= 1
    last = heap[count[0]]
    if last != line:
        heap[at] = last
        last.timer_at = at
        timer_up(heap, at)
        timer_down(heap, count[0], last.timer_at)
    line.timer_at = -1
