"""Results: finished scans (and, where wanted, the bytes of a wire) in a ring of bytes, from the engine's thread to
whoever takes them. One writer, one reader.

A record never lies across the end of the ring: what is left there is skipped with a filler. A full ring drops the
newest record and counts it; nothing waits.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from parkfleet.native.clock cimport wall
from parkfleet.native.model cimport Meter, Ring, State

cdef extern from *:
    """
    #define pf_load(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define pf_store(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    """
    uint64_t pf_load(uint64_t *place) noexcept nogil
    void pf_store(uint64_t *place, uint64_t value) noexcept nogil

cdef struct RecordHead:
    uint32_t size           # with this head, a multiple of 8
    uint32_t tag
    int64_t slot_ms
    uint32_t text_size
    uint32_t filler         # 1: nothing in it
    uint32_t request_count  # then int64 answers[], slots[], double values[], quality[], texts[]
    uint32_t column_count
    uint32_t values
    uint32_t reserved


cdef inline uint32_t record_size(uint32_t requests, uint32_t columns, uint32_t texts, bint values) noexcept nogil:
    cdef uint32_t size = sizeof(RecordHead) + 8 * requests + (16 if values else 8) * columns + columns + texts
    return (size + 7) & ~<uint32_t>7


cdef inline uint8_t *reserve(Ring *ring, uint32_t size) noexcept nogil:
    """Room for a record in one piece, or NULL."""
    cdef uint64_t tail = pf_load(&ring.tail)
    cdef uint64_t at = ring.head & (ring.size - 1)
    cdef uint64_t left = ring.size - at
    cdef RecordHead *head
    if left < size:
        if ring.head - tail + left + size > ring.size:
            return NULL
        if left >= sizeof(RecordHead):
            head = <RecordHead *>(ring.data + at)
            head.filler = 1
            head.size = <uint32_t>left
        pf_store(&ring.head, ring.head + left)
        at = 0
    elif ring.head - tail + size > ring.size:
        return NULL
    return ring.data + at


cdef inline bint put_record(Ring *ring, const Meter *meter, int64_t slot_ms) noexcept nogil:
    """Copies a meter's scan into the ring; False, and counted, when it is full."""
    cdef uint8_t *at = reserve(ring, meter.record_size)
    cdef RecordHead *head = <RecordHead *>at
    if at == NULL:
        ring.overruns += 1
        return False
    head.size = meter.record_size
    head.tag = meter.tag
    head.slot_ms = slot_ms
    head.filler = 0
    head.request_count = meter.request_count
    head.column_count = meter.column_count
    head.text_size = meter.text_size
    head.values = meter.values_wanted
    at += sizeof(RecordHead)
    memcpy(at, meter.answers, 8 * meter.request_count)
    at += 8 * meter.request_count
    memcpy(at, meter.slots, 8 * meter.column_count)
    at += 8 * meter.column_count
    if meter.values_wanted:
        memcpy(at, meter.values, 8 * meter.column_count)
        at += 8 * meter.column_count
    memcpy(at, meter.quality, meter.column_count)
    at += meter.column_count
    memcpy(at, meter.texts, meter.text_size)
    pf_store(&ring.head, ring.head + meter.record_size)
    return True


cdef inline void put_bytes(State *state, uint32_t direction, const uint8_t *data, uint32_t size) noexcept nogil:
    """What went over a tapped wire just now: tag 0 out, 1 in; slot_ms is ns UTC here."""
    cdef uint32_t room = (<uint32_t>sizeof(RecordHead) + size + 7) & ~<uint32_t>7
    cdef RecordHead *head = <RecordHead *>reserve(&state.taps, room)
    if head == NULL:
        state.taps.overruns += 1
        return
    head.size, head.tag, head.slot_ms, head.text_size = room, direction, wall(), size
    head.filler = head.request_count = head.column_count = head.values = 0
    memcpy(head + 1, data, size)
    pf_store(&state.taps.head, state.taps.head + room)


cdef inline RecordHead *next_record(Ring *ring) noexcept nogil:
    """The oldest record, or NULL; the taker's side."""
    cdef uint64_t head = pf_load(&ring.head)
    cdef uint64_t at
    cdef RecordHead *record
    while ring.tail != head:
        at = ring.tail & (ring.size - 1)
        if ring.size - at < sizeof(RecordHead):
            pf_store(&ring.tail, ring.tail + ring.size - at)
            continue
        record = <RecordHead *>(ring.data + at)
        if not record.filler:
            return record
        pf_store(&ring.tail, ring.tail + record.size)
    return NULL


cdef inline void release_record(Ring *ring, const RecordHead *record) noexcept nogil:
    pf_store(&ring.tail, ring.tail + record.size)
