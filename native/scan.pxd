"""Scan: one meter's slot from its release to its record: which slot, which request next, what came of it."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from parkfleet.native.graft cimport graft
from parkfleet.native.health cimport PF_MS, PF_S
from parkfleet.native.heap cimport push, remove
from parkfleet.native.model cimport (
    ACTIVE, DISCONNECTED, EXCEPTION, GOOD, IDLE, READY, SKIPPED, WAITING, Line, Meter, Request, State, Transaction, Unit,
)
from parkfleet.native.registers cimport decode_request
from parkfleet.native.results cimport put_record
from parkfleet.native.wear cimport wear


cdef inline int64_t slot_after(const State *state, const Meter *meter, int64_t wall) noexcept nogil:
    """The meter's first slot behind a time, UTC ns."""
    cdef int64_t into = (wall + state.zone - meter.offset) % meter.interval
    if into < 0:
        into += meter.interval
    return wall - into + meter.interval


cdef inline void wait_for_slot(State *state, Line *line, Meter *meter) noexcept nogil:
    """Puts an idle meter among those whose slot comes."""
    meter.place = WAITING
    push(line.waiting, &line.waiting_count, meter, meter.slot - state.wall_offset)


cdef inline void wait_until(Line *line, Meter *meter, int64_t time) noexcept nogil:
    """The slot has come, and the meter must not be asked yet."""
    meter.place = WAITING
    push(line.waiting, &line.waiting_count, meter, time)


cdef inline void make_ready(State *state, Line *line, Meter *meter) noexcept nogil:
    """The deadline is the meter's following slot; continuous meters take turns."""
    meter.place = READY
    push(line.ready, &line.ready_count, meter, meter.slot - state.wall_offset + meter.interval)


cdef inline void release_due(State *state, Line *line) noexcept nogil:
    """Moves the meters whose time has come to those that want the line."""
    cdef Meter *meter
    while line.waiting_count and line.waiting[0].key <= state.now:
        meter = line.waiting[0]
        remove(line.waiting, &line.waiting_count, meter)
        make_ready(state, line, meter)


cdef inline void choose_parts(const State *state, Meter *meter) noexcept nogil:
    """What is due in the slot that was taken: parts one of whose slots has come since the one before."""
    cdef int64_t index = (meter.slot + state.zone - meter.offset) // meter.interval
    cdef int64_t before = meter.latest if meter.numbered else index - 1
    cdef int due = 0
    cdef int i
    for i in range(meter.part_count):
        if index // meter.every[i] != before // meter.every[i]:
            due |= 1 << i
    meter.latest = index
    meter.numbered = 1
    wear(meter, &meter.variants[due])


cdef inline void take_slot(State *state, Line *line, Meter *meter) noexcept nogil:
    """Fixes the slot of the scan that begins: the newest that has passed; those before it are counted as missed."""
    cdef int64_t wall = state.now + state.wall_offset
    cdef int64_t skipped
    if meter.interval == 0:
        meter.slot = wall
        return
    if wall >= meter.slot + meter.interval:
        skipped = (wall - meter.slot) // meter.interval
        meter.slot += skipped * meter.interval
        meter.missed += <uint64_t>skipped
        line.counters.missed += <uint64_t>skipped
    if meter.part_count:
        choose_parts(state, meter)


cdef inline void reschedule(State *state, Line *line, Meter *meter, bint bad) noexcept nogil:
    """After a scan, or a slot that was told without asking."""
    if meter.interval:
        if not meter.off_slot:
            meter.slot += meter.interval
    else:
        # Continuous reading of what does not answer would be continuous telling.
        meter.slot = state.now + state.wall_offset + (PF_S if bad else 0)
    meter.off_slot = 0
    wait_for_slot(state, line, meter)


cdef inline void clear_scan(Meter *meter, int quality) noexcept nogil:
    memset(meter.quality, quality, meter.column_count)
    memset(meter.slots, 0, 8 * meter.column_count)
    memset(meter.answers, 0, 8 * meter.request_count)
    if meter.values_wanted:
        memset(meter.values, 0, 8 * meter.column_count)
    if meter.text_size:
        memset(meter.texts, 0, meter.text_size)
    meter.failed = 0
    meter.sent = meter.under_way = meter.answered = 0


cdef inline void emit(State *state, Line *line, Meter *meter) noexcept nogil:
    """Hands the meter's scan to Python."""
    cdef int64_t slot = meter.slot - (meter.interval if meter.off_slot else 0)
    meter.scans += 1
    line.counters.scans += 1
    put_record(&state.ring, meter, slot // PF_MS)
    if state.notify_at == 0:
        state.notify_at = state.now + state.notify_every


cdef inline void tell_bad(State *state, Line *line, Meter *meter, int cause) noexcept nogil:
    """A slot of a meter that is not even asked: a gap is data."""
    take_slot(state, line, meter)
    clear_scan(meter, cause)
    emit(state, line, meter)
    reschedule(state, line, meter, True)


cdef inline void begin_scan(State *state, Line *line, Meter *meter, bint off_slot) noexcept nogil:
    """From no heap to the active ones."""
    meter.off_slot = off_slot
    if not off_slot:
        take_slot(state, line, meter)
    clear_scan(meter, SKIPPED)
    meter.probing = meter.unit.misses > 0
    meter.place = ACTIVE
    line.active[line.active_count] = meter
    line.active_count += 1


cdef inline int next_request(const Meter *meter) noexcept nogil:
    """Index of the request to send next, -1 when there is none (yet). A probe goes first, and alone."""
    cdef int index = meter.sent
    if meter.failed or index >= meter.request_count:
        return -1
    if meter.probing:
        if index == 0:
            return meter.probe_request
        if meter.answered == 0:
            return -1
        if index <= meter.probe_request:
            return index - 1
    return index


cdef inline bint is_over(const Meter *meter) noexcept nogil:
    return meter.under_way == 0 and (meter.failed or meter.sent >= meter.request_count)


cdef inline void mark(Meter *meter, const Request *request, int quality) noexcept nogil:
    cdef int i
    for i in range(request.field_count):
        meter.quality[request.fields[i].column] = <unsigned char>quality


cdef inline void end_scan(State *state, Line *line, Meter *meter) noexcept nogil:
    """From the active ones to the next slot; tells what came, but for a probe between slots that failed."""
    cdef int i = 0
    while line.active[i] != meter:
        i += 1
    line.active_count -= 1
    while i < line.active_count:  # the order stays: the oldest scan goes on first
        line.active[i] = line.active[i + 1]
        i += 1
    meter.place = IDLE
    if meter.failed and meter.answered == 0:
        memset(meter.quality, meter.failed, meter.column_count)  # nothing was read: one cause for all
    if not (meter.off_slot and meter.answered == 0):
        emit(state, line, meter)
    if meter.replacement != NULL:
        graft(meter)
    reschedule(state, line, meter, meter.failed != 0)
