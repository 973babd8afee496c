"""Turns: what has come due on a line, and whose request goes next: scans under way, probes, earliest deadline."""

from libc.stdint cimport int64_t

from parkfleet.native.arrivals cimport end_nap
from parkfleet.native.health cimport PF_NEVER, PF_S, plan_probes, probe_time, refill
from parkfleet.native.heap cimport remove
from parkfleet.native.link cimport EPOLLIN, EPOLL_CTL_MOD, forget_bytes, watch
from parkfleet.native.line cimport any_up, flush, lose, send_request, settle_timeout, try_dial
from parkfleet.native.model cimport (
    CLOSED, CONNECTING, CORRUPT, DISCONNECTED, READY, SERIAL, TCP, UP, WAITING, Connection, Line, Meter, State,
    Unit,
)
from parkfleet.native.scan cimport begin_scan, end_scan, next_request, release_due, tell_bad, wait_until


cdef inline void check_link(State *state, Connection *link) noexcept nogil:
    """What has come due on a connection."""
    cdef int i
    if link.state == CLOSED:
        if link.line.kind != SERIAL and link.retry_at <= state.now and state.stop_by == 0:
            try_dial(state, link)
        return
    if link.state == CONNECTING:
        if link.deadline <= state.now:
            lose(state, link, 110)  # ETIMEDOUT
        return
    if link.nap_until and (link.nap_until <= state.now or link.transactions[0].deadline <= state.now):
        end_nap(state, link)
    if state.grace > state.now:
        return
    for i in range(link.line.outstanding):
        if link.state == UP and link.transactions[i].meter != NULL and link.transactions[i].deadline <= state.now:
            settle_timeout(state, link, &link.transactions[i])


cdef inline int64_t link_wake(const State *state, const Connection *link) noexcept nogil:
    """When check_link is needed next."""
    cdef int i
    cdef int64_t wake = PF_NEVER
    if link.state == CLOSED:
        return PF_NEVER if link.line.kind == SERIAL or state.stop_by else link.retry_at
    if link.state == CONNECTING:
        return link.deadline
    if link.nap_until:
        wake = link.nap_until
    if link.under_way:
        for i in range(link.line.outstanding):
            if link.transactions[i].meter != NULL:
                wake = min(wake, max(link.transactions[i].deadline, state.grace))
    return wake


cdef inline Meter *probe_due(State *state, Line *line) noexcept nogil:
    """The meter by which a silent unit is asked now, or NULL: of those that may be, the one that was not for longest."""
    cdef int i
    cdef Meter *meter
    cdef Meter *found = NULL
    refill(line, state.now)
    for i in range(line.unit_count):
        if line.units[i].misses and probe_time(line, &line.units[i]) <= state.now:
            meter = &line.meters[line.units[i].probe_meter]
            if meter.place == READY or meter.place == WAITING:
                if found == NULL or meter.unit.last_probe < found.unit.last_probe:
                    found = meter
    return found


cdef inline Meter *open_scan(State *state, Line *line) noexcept nogil:
    """Of the scans under way that can send their next request, the one with the earliest deadline, or NULL."""
    cdef int i
    cdef Meter *meter
    cdef Meter *found = NULL
    for i in range(line.active_count):
        meter = line.active[i]
        if (found == NULL or meter.key < found.key) and meter.unit.not_before <= state.now and next_request(meter) >= 0:
            found = meter
    return found


cdef inline Meter *probe(State *state, Line *line) noexcept nogil:
    """Begins the scan of a silent unit that is asked now; NULL: none is."""
    cdef Meter *meter = probe_due(state, line)
    plan_probes(line)
    if meter == NULL:
        return NULL
    if meter.place == READY:
        remove(line.ready, &line.ready_count, meter)
        begin_scan(state, line, meter, False)
    else:
        remove(line.waiting, &line.waiting_count, meter)
        begin_scan(state, line, meter, meter.interval and meter.slot > state.now + state.wall_offset)
    meter.unit.next_probe = state.now + line.timeout + 10 * PF_S  # this one settles it
    plan_probes(line)
    return meter


cdef inline Meter *next_turn(State *state, Line *line) noexcept nogil:
    """Whose request goes next, NULL: nobody's. The earliest deadline, also in the midst of another meter's scan.

    Probes of silent units go between scans, and before the next one: their budget bounds what that costs.
    """
    cdef Meter *meter = open_scan(state, line)
    cdef Meter *due
    if state.stop_by or line.lending:
        return meter
    if meter == NULL and line.dead_count and line.next_probe <= state.now:
        due = probe(state, line)
        if due != NULL:
            return due
    while line.ready_count and (meter == NULL or line.ready[0].key < meter.key):
        due = line.ready[0]
        remove(line.ready, &line.ready_count, due)
        if due.unit.misses:
            tell_bad(state, line, due, due.unit.cause)
        elif due.unit.not_before > state.now:
            wait_until(line, due, due.unit.not_before)
        else:
            begin_scan(state, line, due, False)
            return due
    return meter


cdef inline Connection *idle_link(Line *line) noexcept nogil:
    """The connection with the fewest requests under way that takes another, or NULL."""
    cdef int i
    cdef Connection *link
    cdef Connection *best = NULL
    for i in range(line.connection_count):
        link = &line.connections[i]
        if link.state == UP and link.under_way < line.outstanding and (best == NULL or link.under_way < best.under_way):
            best = link
    return best


cdef inline void tell_disconnected(State *state, Line *line) noexcept nogil:
    """The line is away: its meters' slots are told as such."""
    cdef Meter *meter
    while line.ready_count:
        meter = line.ready[0]
        remove(line.ready, &line.ready_count, meter)
        tell_bad(state, line, meter, DISCONNECTED)


cdef inline void end_stranded(State *state, Line *line) noexcept nogil:
    """Scans whose connection went while they waited for their next request."""
    cdef int i = line.active_count - 1
    cdef Meter *meter
    while i >= 0:
        meter = line.active[i]
        if meter.under_way == 0:
            meter.failed = DISCONNECTED
            end_scan(state, line, meter)
        i -= 1


cdef inline bint is_babbling(State *state, Line *line) noexcept nogil:
    """Whether requests have been waiting for silence longer than for any answer."""
    if line.blocked_since == 0:
        line.blocked_since = state.now
    return state.now - line.blocked_since > line.timeout + line.silence


cdef inline void end_babbled(State *state, Line *line) noexcept nogil:
    """Somebody never stops talking: nobody can be asked."""
    cdef Meter *meter
    while line.active_count:
        meter = line.active[line.active_count - 1]
        meter.failed = CORRUPT
        end_scan(state, line, meter)
    while line.ready_count:
        meter = line.ready[0]
        remove(line.ready, &line.ready_count, meter)
        tell_bad(state, line, meter, CORRUPT)


cdef inline bint lend_port(State *state, Line *line) noexcept nogil:
    """Gives the port away, once no scan is under way; told like a line's ups and downs."""
    cdef Connection *link = &line.connections[0]
    if line.active_count or link.under_way or link.state != UP:
        return False
    if not watch(state, link, EPOLL_CTL_MOD, 0):
        return False
    line.lent = True
    line.loans += 1
    state.changes += 1
    if state.notify_at == 0:
        state.notify_at = state.now
    return True


cdef inline void take_port_back(State *state, Line *line) noexcept nogil:
    """What lies in the buffers is not ours; the silence begins anew."""
    cdef Connection *link = &line.connections[0]
    line.lending = False
    if not line.lent:
        return
    line.lent = False
    line.blocked_since = 0  # the guest spoke meanwhile, nobody babbled
    if link.state == UP:
        forget_bytes(link)
        link.quiet_at = state.now
        if not watch(state, link, EPOLL_CTL_MOD, EPOLLIN):
            lose(state, link, 0)


cdef inline int64_t take_turns(State *state, Line *line) noexcept nogil:
    """Sends what may be sent now. Returns when something may be next, unless an event comes first."""
    cdef Connection *link
    cdef Meter *meter
    cdef int64_t silent
    if line.lending and (line.lent or lend_port(state, line)):
        return PF_NEVER
    while True:
        if line.failed and not any_up(line):
            end_stranded(state, line)
            if state.stop_by == 0:
                tell_disconnected(state, line)
            return PF_NEVER
        link = idle_link(line)
        if link == NULL:
            return PF_NEVER
        silent = link.quiet_at + line.silence
        if line.kind != TCP and silent > state.now:
            if not (line.ready_count or line.active_count):
                return max(silent, line.next_probe)
            if not is_babbling(state, line):
                return silent
            end_babbled(state, line)
            return max(silent, line.next_probe)
        line.blocked_since = 0
        meter = next_turn(state, line)
        if meter == NULL:
            return turn_wake(line)
        send_request(state, link, meter, next_request(meter))


cdef inline int64_t turn_wake(const Line *line) noexcept nogil:
    """When a unit's pause ends, or a silent one may be asked."""
    cdef int i
    cdef int64_t wake = line.next_probe
    for i in range(line.active_count):
        if next_request(line.active[i]) >= 0:
            wake = min(wake, line.active[i].unit.not_before)
    return wake


cdef inline int64_t settle_line(State *state, Line *line) noexcept nogil:
    """After any event on a line: what has come due, and whose turn it is. Returns the next time to look."""
    cdef int i
    cdef int64_t wake
    for i in range(line.connection_count):
        if link_wake(state, &line.connections[i]) <= state.now:
            check_link(state, &line.connections[i])
    release_due(state, line)
    wake = take_turns(state, line)
    if line.outstanding > 1 and not flush(state, line):
        wake = state.now
    if state.stop_by == 0 and line.waiting_count:
        wake = min(wake, line.waiting[0].key)
    for i in range(line.connection_count):
        wake = min(wake, link_wake(state, &line.connections[i]))
    return wake
