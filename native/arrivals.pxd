"""Arrivals: the bytes that come on a connection, and whose answer they are."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from parkfleet.native.clock cimport monotonic
from parkfleet.native.frames cimport ANSWER, FOREIGN, MORE, REFUSAL, Finding, is_exception_code, rtu_search
from parkfleet.native.health cimport PF_MS, came_late
from parkfleet.native.line cimport lose, renew, settle_answer, settle_wrong
from parkfleet.native.link cimport EPOLLIN, EPOLL_CTL_MOD, LOST, NOTHING, consume, forget_bytes, hear, watch
from parkfleet.native.results cimport put_bytes
from parkfleet.native.model cimport (
    MBAP_HEADER, MBAP_MAX_LENGTH, RX_SIZE, SERIAL, TCP, UP, Connection, Line, Request, State, Transaction, Unit,
)


cdef inline Unit *unit_of(Line *line, int id) noexcept nogil:
    cdef int i
    for i in range(line.unit_count):
        if line.units[i].id == id:
            return &line.units[i]
    return NULL


cdef inline void on_foreign(State *state, Line *line, Transaction *transaction, int id) noexcept nogil:
    """A frame of a unit that was not asked: perhaps one that was given up."""
    cdef Unit *unit = unit_of(line, id)
    if unit != NULL and unit.late:
        line.counters.late += 1
        came_late(state, line, unit)
        return
    line.counters.foreign += 1
    if transaction != NULL:
        transaction.foreign = 1


cdef inline void doze(State *state, Connection *link, const Request *request) noexcept nogil:
    """Stops listening until all missing bytes but one can have come: a few wake-ups instead of one a byte.

    The last byte is listened for, so that the silence after it begins when it came and not when a timer fired.
    """
    cdef int64_t span
    cdef int have = link.size - link.scan
    cdef int lacking = link.need - link.size
    if have == 1 and link.rx[link.scan] == request.unit:
        lacking = 4  # not even an exception is shorter
    span = (lacking - 1) * link.line.byte_ns
    if span > 2 * PF_MS and watch(state, link, EPOLL_CTL_MOD, 0):
        link.nap_until = state.now + span


cdef inline void rtu_idle(State *state, Connection *link) noexcept nogil:
    """Bytes that nobody asked for: late answers are known by their unit, the rest is dropped."""
    cdef Request none
    cdef Finding found
    memset(&none, 0, sizeof(Request))
    none.function = 0xFF
    none.data_bytes = 255
    if link.size == RX_SIZE:
        link.line.counters.stray += RX_SIZE
        forget_bytes(link)
        return
    rtu_search(link, &none, &found)
    while found.kind == FOREIGN:
        on_foreign(state, link.line, NULL, found.unit)
        rtu_search(link, &none, &found)


cdef inline void on_rtu_bytes(State *state, Connection *link) noexcept nogil:
    cdef Line *line = link.line
    cdef Transaction *transaction = &link.transactions[0]
    cdef Finding found
    link.quiet_at = max(link.quiet_at, state.now)
    if transaction.meter == NULL:
        rtu_idle(state, link)
        return
    if not transaction.begun:
        transaction.begun = 1
        if state.now < transaction.sent_end + line.silence:
            line.counters.early += 1
    if link.size < link.need:
        return
    rtu_search(link, transaction.request, &found)
    while found.kind == FOREIGN:
        on_foreign(state, line, transaction, found.unit)
        rtu_search(link, transaction.request, &found)
    if found.kind == MORE:
        if link.size == RX_SIZE:
            line.counters.stray += RX_SIZE
            transaction.foreign = 1
            forget_bytes(link)
        elif line.kind == SERIAL and line.byte_ns:
            doze(state, link, transaction.request)
        return
    line.counters.stray += <uint64_t>(link.size - found.behind)
    if found.kind == ANSWER:
        settle_answer(state, link, transaction, link.rx + found.data, 0)
    elif found.kind == REFUSAL:
        settle_answer(state, link, transaction, NULL, found.code)
    else:
        settle_wrong(state, link, transaction)
        if line.kind != SERIAL:
            renew(state, link)
    forget_bytes(link)


cdef inline void on_mbap_frame(State *state, Connection *link, const uint8_t *frame, int size) noexcept nogil:
    """One whole frame: header, unit, function, values."""
    cdef Line *line = link.line
    cdef Transaction *transaction = NULL
    cdef Request *request
    cdef int i
    cdef int id = frame[0] << 8 | frame[1]
    for i in range(line.outstanding):
        if link.transactions[i].meter != NULL and link.transactions[i].id == id:
            transaction = &link.transactions[i]
            break
    if transaction == NULL:
        line.counters.late += 1
        return
    request = transaction.request
    if frame[6] != request.unit:
        settle_wrong(state, link, transaction)
    elif size == MBAP_HEADER + 2 and frame[7] == (request.function | 0x80) and is_exception_code(frame[8]):
        settle_answer(state, link, transaction, NULL, frame[8])
    elif size == MBAP_HEADER + 2 + request.data_bytes and frame[7] == request.function and (
            frame[8] == request.data_bytes):
        settle_answer(state, link, transaction, frame + MBAP_HEADER + 2, 0)
    else:
        settle_wrong(state, link, transaction)


cdef inline void on_tcp_bytes(State *state, Connection *link) noexcept nogil:
    cdef int at = 0
    cdef int length
    cdef uint8_t *frame
    while link.size - at >= MBAP_HEADER:
        frame = link.rx + at
        length = frame[4] << 8 | frame[5]
        if frame[2] or frame[3] or length < 2 or length > MBAP_MAX_LENGTH:
            renew(state, link)
            return
        if link.size - at < 6 + length:
            break
        on_mbap_frame(state, link, frame, 6 + length)
        at += 6 + length
    if at:
        consume(link, at)


cdef inline int on_readable(State *state, Connection *link) noexcept nogil:
    """Bytes, or the end, have come on a connection. Returns what link.hear() did."""
    cdef int got = hear(link)
    if link.line.kind != TCP:
        state.now = monotonic()  # silence is counted from no earlier than the byte came
    if got == LOST:
        lose(state, link, errno)
    elif got != NOTHING:
        link.line.counters.bytes_in += <uint64_t>got
        if link.line.tapped:
            put_bytes(state, 1, link.rx + link.size - got, <uint32_t>got)
        if link.line.kind == TCP:
            on_tcp_bytes(state, link)
        else:
            on_rtu_bytes(state, link)
    return got


cdef inline void drain(State *state, Connection *link, bint ended) noexcept nogil:
    """Reads all there is, to its end when the other side has ended: edges tell of neither twice."""
    while on_readable(state, link) > 0 and link.state == UP and (link.more or ended):
        pass


cdef inline void end_nap(State *state, Connection *link) noexcept nogil:
    link.nap_until = 0
    if watch(state, link, EPOLL_CTL_MOD, EPOLLIN):
        on_readable(state, link)
    else:
        lose(state, link, errno)
