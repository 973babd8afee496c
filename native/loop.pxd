"""Loop: waits for descriptors and timers, and gives each line its turn. Runs without the GIL until it is stopped."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.unistd cimport read, write

from parkfleet.native.arrivals cimport drain, end_nap, on_readable
from parkfleet.native.clock cimport monotonic, timespec, wall
from parkfleet.native.health cimport PF_MS, PF_NEVER, PF_S
from parkfleet.native.heap cimport meter_down, retime
from parkfleet.native.line cimport on_connected
from parkfleet.native.link cimport EPOLLERR, EPOLLHUP, EPOLLRDHUP, epoll_event
from parkfleet.native.model cimport ACTIVE, CONNECTING, READY, TCP, UP, Connection, Line, Meter, State
from parkfleet.native.scan cimport slot_after
from parkfleet.native.turns cimport settle_line

cdef extern from "sys/epoll.h" nogil:
    int epoll_pwait2(int epfd, epoll_event *events, int count, const timespec *timeout, const void *mask) noexcept
    int epoll_wait(int epfd, epoll_event *events, int count, int timeout) noexcept

cdef extern from *:
    """
    #include <sys/prctl.h>
    #include <errno.h>
    /* The default slack of 50 us would be added to every t3.5. */
    static void pf_sharp_timers(void) { prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); }
    """
    void pf_sharp_timers() noexcept nogil
    const int ENOSYS

cdef enum:
    BATCH = 64
    STALL_NS = 10000000     # 10 ms later than wanted is no timer's jitter


cdef inline void signal(int fd) noexcept nogil:
    """Raises an eventfd."""
    cdef uint64_t one = 1
    write(fd, &one, 8)


cdef inline void find_slot(State *state, Meter *meter) noexcept nogil:
    """The meter's slots lie elsewhere now: its next one."""
    if meter.interval == 0:
        meter.slot = state.now + state.wall_offset
        return
    meter.slot = slot_after(state, meter, state.now + state.wall_offset)
    if meter.place == READY or (meter.place == ACTIVE and not meter.off_slot):
        meter.slot -= meter.interval  # its scan is due or under way; the next is counted from it


cdef inline void rekey_line(State *state, Line *line) noexcept nogil:
    """Those that wait do so for their slots as they are now."""
    cdef int i
    for i in range(line.waiting_count):
        line.waiting[i].key = line.waiting[i].slot - state.wall_offset
    for i in range(line.waiting_count // 2 - 1, -1, -1):
        meter_down(line.waiting, line.waiting_count, i)
    retime(state.timers, state.timer_count, line, state.now)


cdef inline void rekey(State *state, bint was_set) noexcept nogil:
    """The wall clock moved against the monotonic one: slots keep their UTC, or (set) are found anew."""
    cdef int i, j
    cdef Line *line
    for i in range(state.line_limit):
        line = state.lines[i]
        if line == NULL:
            continue
        for j in range(line.meter_count if was_set else 0):
            find_slot(state, &line.meters[j])
        rekey_line(state, line)


cdef inline void set_zone(State *state, int64_t zone) noexcept nogil:
    """The local clock moved against UTC. Only intervals that its step is no multiple of are concerned."""
    cdef int i, j
    cdef Line *line
    cdef Meter *meter
    cdef int64_t step = zone - state.zone
    state.zone = zone
    for i in range(state.line_limit):
        line = state.lines[i]
        if line == NULL:
            continue
        for j in range(line.meter_count):
            meter = &line.meters[j]
            if meter.interval and step % meter.interval:
                find_slot(state, meter)
        rekey_line(state, line)


cdef inline void check_clock(State *state) noexcept nogil:
    """Once a second: has the wall clock drifted, or been set?"""
    cdef int64_t moved
    state.clock_check = state.now + PF_S
    if not state.follow_clock:
        return
    moved = wall() - monotonic() - state.wall_offset
    if -PF_MS < moved < PF_MS:
        return
    state.wall_offset += moved
    rekey(state, moved > PF_S // 2 or moved < -PF_S // 2)


cdef inline void look_at(State *state, Line *line) noexcept nogil:
    cdef int64_t wake = settle_line(state, line)
    # Whatever a line thinks it has to do at once, descriptors and commands get their turn in between.
    retime(state.timers, state.timer_count, line, max(wake, state.now + 1000))


cdef inline void on_event(State *state, Connection *link, uint32_t events) noexcept nogil:
    if link.state == CONNECTING:
        on_connected(state, link)
    elif link.state == UP:
        if link.nap_until:
            end_nap(state, link)  # only an error or the end wakes while it naps
        elif link.line.kind == TCP:
            drain(state, link, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) != 0)
        else:
            on_readable(state, link)
    look_at(state, link.line)


cdef inline bint anything_active(const State *state) noexcept nogil:
    cdef int i
    for i in range(state.line_limit):
        if state.lines[i] != NULL and state.lines[i].active_count:
            return True
    return False


cdef inline int64_t next_wake(const State *state) noexcept nogil:
    cdef int64_t wake = state.clock_check
    if state.timer_count:
        wake = min(wake, state.timers[0].wake)
    if state.notify_at:
        wake = min(wake, state.notify_at)
    if state.stop_by:
        wake = min(wake, state.stop_by)
    return wake


cdef inline int wait(State *state, epoll_event *events) noexcept nogil:
    """Waits for events or the next timer; how many events.

    When this thread itself was kept from running (a loaded or paused machine), the answers' time is not up for as long
    as it seems: whoever should have answered may have been kept as well.
    """
    cdef timespec timeout
    cdef int64_t wake = next_wake(state)
    cdef int64_t span = max(0, wake - monotonic())
    cdef int64_t expected = max(wake, state.now)
    cdef int count
    timeout.tv_sec = span // PF_S
    timeout.tv_nsec = span % PF_S
    count = epoll_pwait2(state.epoll, events, BATCH, &timeout, NULL)
    if count < 0 and errno == ENOSYS:  # Linux before 5.11: whole milliseconds, rounded up
        count = epoll_wait(state.epoll, events, BATCH, <int>((span + PF_MS - 1) // PF_MS))
    state.now = monotonic()
    if state.now - expected > STALL_NS:
        state.grace = state.now + min(state.now - expected, PF_S)
    return count


cdef inline bint turn(State *state) noexcept nogil:
    """One round of events and timers. True when a command waits."""
    cdef epoll_event events[BATCH]
    cdef uint64_t drained
    cdef bint command = False
    cdef int i
    cdef int count = wait(state, events)
    for i in range(count):
        if events[i].data.ptr == NULL:
            read(state.command_fd, &drained, 8)
            command = True
        else:
            on_event(state, <Connection *>events[i].data.ptr, events[i].events)
    if state.clock_check <= state.now:
        check_clock(state)
    while state.timer_count and state.timers[0].wake <= state.now:
        look_at(state, state.timers[0])
    if state.notify_at and state.notify_at <= state.now:
        state.notify_at = 0
        signal(state.result_fd)
    return command


cdef inline bint is_finished(const State *state) noexcept nogil:
    """Stopped, and no scan under way, or out of patience for it."""
    return state.stop_by != 0 and (state.stop_by <= state.now or not anything_active(state))
