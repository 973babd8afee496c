"""Line: its ups and downs, and its transactions from sending to what came of them.

Everything happens in the engine's thread. How a late answer is never taken for the next one:
  Modbus TCP   each request has its own transaction id; an answer with another id is dropped.
  RTU          has none. After a time-out the unit is asked nothing until twice the configured time-out after its
               request (health.missed); a frame of it that comes before is dropped, and ends that wait. Other units
               go on, since an answer counts only with the asked unit's id. What lies in the buffer when a request
               is sent is dropped as well. A slave that answers even later than that cannot be told apart.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from parkfleet.native.clock cimport monotonic
from parkfleet.native.frames cimport ANSWER, Finding, rtu_search
from parkfleet.native.health cimport PF_MS, answered_well, learn, missed, patience, plan_probes, refill
from parkfleet.native.link cimport adopt, connected, dial, forget_bytes, hang_up, later, say
from parkfleet.native.model cimport (
    CORRUPT, DISCONNECTED, EXCEPTION, SERIAL, TCP, TIMEOUT, UP, Connection, Line, Meter, Request, State,
    Transaction, Unit,
)
from parkfleet.native.registers cimport decode_request
from parkfleet.native.results cimport put_bytes
from parkfleet.native.scan cimport end_scan, is_over, mark

cdef enum:
    GATEWAY_PATH = 10       # exception codes of a gateway box, not of the meter
    GATEWAY_TARGET = 11

# ---- ups and downs

cdef inline void tell_state(State *state, Line *line, bint up, int error) noexcept nogil:
    if line.up and not up:
        line.counters.losses += 1
    if line.up != up or line.failed == up or (not up and line.error != error):
        state.changes += 1
        if state.notify_at == 0:
            state.notify_at = state.now
    line.up = up
    line.failed = not up
    line.error = error


cdef inline bint any_up(const Line *line) noexcept nogil:
    cdef int i
    for i in range(line.connection_count):
        if line.connections[i].state == UP:
            return True
    return False


cdef inline void try_dial(State *state, Connection *link) noexcept nogil:
    cdef int error
    if not dial(state, link):
        error = errno
        hang_up(state, link)
        later(state, link)
        if not any_up(link.line):
            tell_state(state, link.line, False, error)


cdef inline void lose(State *state, Connection *link, int error) noexcept nogil:
    """A connection ended or broke, or a port vanished. One that has served well is opened again at once."""
    cdef Line *line = link.line
    cdef int i
    cdef Transaction *transaction
    cdef bint idle_end = link.under_way == 0 and link.proven
    hang_up(state, link)
    for i in range(line.outstanding):
        transaction = &link.transactions[i]
        if transaction.meter != NULL:
            line.counters.disconnects += 1
            settle_failure(state, link, transaction, DISCONNECTED)
    if line.kind == SERIAL:
        tell_state(state, line, False, error)
    elif idle_end:
        link.proven = 0
        link.retry_at = state.now
    else:
        later(state, link)
        if not any_up(line):
            tell_state(state, line, False, error)


cdef inline void renew(State *state, Connection *link) noexcept nogil:
    """The stream is out of step: only a new connection is surely clean. The line is well."""
    cdef Line *line = link.line
    cdef int i
    hang_up(state, link)
    for i in range(line.outstanding):
        if link.transactions[i].meter != NULL:
            line.counters.corrupt += 1
            settle_failure(state, link, &link.transactions[i], CORRUPT)
    if link.proven:
        link.retry_at = state.now
    else:  # it has never spoken Modbus: not again and again
        later(state, link)
        if not any_up(line):
            tell_state(state, line, False, 71)  # EPROTO


cdef inline void ask_again(State *state, Line *line) noexcept nogil:
    """The line is back: silent units need not wait for their backoff."""
    cdef int i
    for i in range(line.unit_count):
        line.units[i].next_probe = min(line.units[i].next_probe, state.now)
    plan_probes(line)


cdef inline void on_connected(State *state, Connection *link) noexcept nogil:
    if connected(state, link):
        if not link.line.up:
            ask_again(state, link.line)
        tell_state(state, link.line, True, 0)
    else:
        lose(state, link, errno)


cdef inline void on_reopened(State *state, Line *line, int fd) noexcept nogil:
    """Python has opened the serial port (again), or could not (fd -1)."""
    cdef Connection *link = &line.connections[0]
    line.counters.openings += 1
    if fd >= 0 and link.state == UP:
        lose(state, link, 0)
    tell_state(state, line, fd >= 0 and adopt(state, link, fd), 0)
    ask_again(state, line)


# ---- transactions

cdef inline void finish(State *state, Connection *link, Transaction *transaction) noexcept nogil:
    """Frees a transaction and, when it was the last, ends its scan."""
    cdef Meter *meter = transaction.meter
    link.line.counters.busy_ns += <uint64_t>max(0, state.now - transaction.sent)
    meter.busy_ns += <uint64_t>max(0, state.now - transaction.sent)
    if meter.gap:
        meter.unit.not_before = max(meter.unit.not_before, state.now + meter.gap)
    transaction.meter = NULL
    link.under_way -= 1
    meter.under_way -= 1
    if is_over(meter):
        end_scan(state, link.line, meter)


cdef inline void settle_failure(State *state, Connection *link, Transaction *transaction, int cause) noexcept nogil:
    """No answer will come of it: the rest of the meter's requests in this scan are left out."""
    cdef Meter *meter = transaction.meter
    mark(meter, transaction.request, cause)
    meter.failed = <uint8_t>cause
    finish(state, link, transaction)


cdef inline void settle_unreached(State *state, Connection *link, Transaction *transaction, int code) noexcept nogil:
    """The gateway box says that its meter is silent; asking on would block it for its own time-out each time."""
    cdef Unit *unit = transaction.meter.unit
    cdef int64_t not_before = unit.not_before
    link.line.counters.exceptions += 1
    if not transaction.meter.failed:
        missed(state, link.line, unit, EXCEPTION | code, transaction.sent, 0)
    unit.late = 0  # this was the answer
    unit.not_before = not_before
    plan_probes(link.line)
    settle_failure(state, link, transaction, EXCEPTION | code)


cdef inline void settle_answer(State *state, Connection *link, Transaction *transaction, const uint8_t *data,
                               int code) noexcept nogil:
    """The meter answered: with values, or (code) that it will not. It keeps its other requests."""
    cdef Meter *meter = transaction.meter
    cdef Request *request = transaction.request
    link.proven = 1
    link.backoff = 0
    link.line.counters.answers += 1
    meter.answered_all += 1
    if (code == GATEWAY_PATH or code == GATEWAY_TARGET) and link.line.kind != SERIAL:
        settle_unreached(state, link, transaction, code)
        return
    # A refusal is five bytes, whatever was asked for.
    learn(meter.unit, state.now - transaction.sent_end - (5 * link.line.byte_ns if code else request.in_ns))
    answered_well(link.line, meter.unit, state.now)
    meter.answered += 1
    if code:
        link.line.counters.exceptions += 1
        mark(meter, request, EXCEPTION | code)
    else:
        meter.answers[transaction.index] = (state.now + state.wall_offset) // PF_MS
        decode_request(meter, request, data)
    finish(state, link, transaction)


cdef inline void settle_wrong(State *state, Connection *link, Transaction *transaction) noexcept nogil:
    """A frame that cannot be the answer, known at once: costs no time, so the scan goes on, unless it is a probe."""
    cdef Meter *meter = transaction.meter
    link.line.counters.corrupt += 1
    mark(meter, transaction.request, CORRUPT)
    if meter.probing and meter.answered == 0:
        meter.failed = CORRUPT
        missed(state, link.line, meter.unit, CORRUPT, transaction.sent, transaction.request.in_ns)
    finish(state, link, transaction)


cdef inline bint rescue(State *state, Connection *link, Transaction *transaction) noexcept nogil:
    """An answer behind noise that looked like the beginning of a longer one."""
    cdef Finding found
    while link.size - link.scan >= 5:
        link.scan += 1
        link.need = 0
        rtu_search(link, transaction.request, &found)
        if found.kind == ANSWER:
            settle_answer(state, link, transaction, link.rx + found.data, 0)
            forget_bytes(link)
            return True
    return False


cdef inline void settle_timeout(State *state, Connection *link, Transaction *transaction) noexcept nogil:
    """Its time is up."""
    cdef Line *line = link.line
    cdef bint partial = link.size > link.boundary
    cdef int cause = CORRUPT if partial or transaction.foreign else TIMEOUT
    if line.kind != TCP and partial and rescue(state, link, transaction):
        return
    if cause == TIMEOUT:
        line.counters.timeouts += 1
        transaction.meter.timeouts += 1
    else:
        line.counters.corrupt += 1
    if not transaction.meter.failed:  # several may have been under way: together they are one miss
        missed(state, line, transaction.meter.unit, cause, transaction.sent,
               transaction.sent_end - transaction.sent + transaction.request.in_ns)
    settle_failure(state, link, transaction, cause)
    if line.kind == SERIAL:
        line.counters.stray += <uint64_t>(link.size - link.boundary)
        forget_bytes(link)
    elif partial:
        renew(state, link)


cdef inline Transaction *free_transaction(Connection *link) noexcept nogil:
    cdef int i
    for i in range(link.line.outstanding):
        if link.transactions[i].meter == NULL:
            return &link.transactions[i]
    return NULL


cdef inline bint send_request(State *state, Connection *link, Meter *meter, int index) noexcept nogil:
    """Sends a meter's request, or leaves it to flush(). False: the connection was lost by it, and all is settled."""
    cdef Transaction *transaction = free_transaction(link)
    cdef Request *request = &meter.requests[index]
    cdef Line *line = link.line
    cdef int error
    if line.kind != TCP:
        state.now = monotonic()
    transaction.meter = meter
    transaction.request = request
    transaction.index = <uint16_t>index
    transaction.foreign = transaction.begun = 0
    transaction.sent = state.now
    transaction.sent_end = state.now + request.out_ns
    if line.goodwill <= 0:
        refill(line, state.now)
    transaction.deadline = transaction.sent_end + patience(line, meter.unit) + request.in_ns
    if line.kind == TCP:
        link.next_id += 1
        transaction.id = link.next_id
        request.frame[0] = <uint8_t>(transaction.id >> 8)
        request.frame[1] = <uint8_t>(transaction.id & 0xFF)
    else:
        line.counters.stray += <uint64_t>link.size
        forget_bytes(link)
        link.quiet_at = transaction.sent_end
    meter.sent += 1
    meter.asked += 1
    meter.under_way += 1
    link.under_way += 1
    line.counters.requests += 1
    line.counters.bytes_out += request.frame_size
    if line.outstanding > 1:
        memcpy(link.tx + link.tx_size, request.frame, request.frame_size)
        link.tx_size += request.frame_size
    elif not say(link, request.frame, request.frame_size):
        error = errno
        lose(state, link, error)
        return False
    if line.tapped:
        put_bytes(state, 0, request.frame, request.frame_size)
    return True


cdef inline bint flush(State *state, Line *line) noexcept nogil:
    """Sends what a line's turn has put together, in one write a connection. False: one was lost by it."""
    cdef int i, size
    cdef bint well = True
    cdef Connection *link
    for i in range(line.connection_count):
        link = &line.connections[i]
        size = link.tx_size
        link.tx_size = 0
        if size and not say(link, link.tx, size):
            lose(state, link, errno)
            well = False
    return well
