"""Commands: what Python asks of the running engine, in a queue behind a mutex; the engine's thread obeys in order."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport close

from parkfleet.native.build_line cimport free_line
from parkfleet.native.clock cimport monotonic, wall
from parkfleet.native.graft cimport replace_meter
from parkfleet.native.health cimport PF_NEVER, PF_S, open_budgets, plan_probes
from parkfleet.native.heap cimport drop_timer, retime, timer_up
from parkfleet.native.line cimport on_reopened, tell_state
from parkfleet.native.link cimport hang_up
from parkfleet.native.loop cimport look_at, rekey, set_zone
from parkfleet.native.model cimport SERIAL, Line, Meter, State, Unit
from parkfleet.native.scan cimport end_scan, slot_after, wait_for_slot
from parkfleet.native.turns cimport take_port_back

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept

cdef enum What:
    ADD = 0     # line; number: fd of its port, or -1
    REMOVE
    OPENED      # number: fd, or -1: it could not be opened
    WAKE        # number: unit
    CLOCK       # index: 1 to hold the offset in number, 0 to follow the system's clock
    ADDRESS     # number: size of the address
    STOP        # number: ns that scans under way may still take
    LEND        # a serial port, to whoever asks out of turn
    TAKE_BACK
    ZONE        # number: ns that local time is ahead of UTC
    REPLACE     # line: holds the new requests; number: the meter's index
    HOLD        # number: ns that a unit is asked nothing, times 256, and the unit
    TAP         # number: 1 to write down what goes over the line's wire, 0 to end that

cdef struct Command:
    int what
    int index
    int64_t number
    Line *line
    uint8_t address[32]
    Command *next

cdef struct Commands:
    pthread_mutex_t mutex
    Command *first
    Command *last
    int is_open


cdef inline void open_commands(Commands *commands) noexcept nogil:
    pthread_mutex_init(&commands.mutex, NULL)
    commands.first = commands.last = NULL
    commands.is_open = 1


cdef inline void close_commands(Commands *commands) noexcept nogil:
    if commands.is_open:
        pthread_mutex_destroy(&commands.mutex)
    commands.is_open = 0


cdef inline bint post(Commands *commands, int what, int index, int64_t number, Line *line,
                      const uint8_t *address) noexcept nogil:
    """address: number bytes, at most 32, or NULL."""
    cdef Command *command = <Command *>malloc(sizeof(Command))
    if command == NULL:
        return False
    command.what, command.index, command.number, command.line, command.next = what, index, number, line, NULL
    if address != NULL:
        memcpy(command.address, address, number)
    pthread_mutex_lock(&commands.mutex)
    if commands.last == NULL:
        commands.first = command
    else:
        commands.last.next = command
    commands.last = command
    pthread_mutex_unlock(&commands.mutex)
    return True


cdef inline Command *collected(Commands *commands) noexcept nogil:
    """All that wait, oldest first."""
    cdef Command *first
    pthread_mutex_lock(&commands.mutex)
    first = commands.first
    commands.first = commands.last = NULL
    pthread_mutex_unlock(&commands.mutex)
    return first


cdef inline void add(State *state, Line *line, int fd) noexcept nogil:
    cdef int i
    cdef Meter *meter
    cdef int64_t utc = state.now + state.wall_offset
    state.lines[line.index] = line
    open_budgets(line, state.now)
    line.wake = state.now
    line.timer_at = state.timer_count
    state.timers[state.timer_count] = line
    state.timer_count += 1
    timer_up(state.timers, line.timer_at)
    for i in range(line.meter_count):
        meter = &line.meters[i]
        meter.slot = slot_after(state, meter, utc) if meter.interval else utc
        wait_for_slot(state, line, meter)
    if fd >= 0:
        on_reopened(state, line, fd)


cdef inline void take_out(State *state, Line *line) noexcept nogil:
    cdef int i
    for i in range(line.connection_count):
        hang_up(state, &line.connections[i])
    drop_timer(state.timers, &state.timer_count, line)
    state.lines[line.index] = NULL
    free_line(line)


cdef inline void wake_unit(State *state, Line *line, int id) noexcept nogil:
    """The installer stands in front of it: asked at once, whatever the backoff and the budget say."""
    cdef int i
    cdef Unit *unit
    for i in range(line.unit_count):
        unit = &line.units[i]
        if unit.id == id and unit.misses:
            unit.misses = 1
            unit.next_probe = state.now
    plan_probes(line)


cdef inline void hold_unit(State *state, Line *line, int id, int64_t span) noexcept nogil:
    """A guest asked it and got no answer: that may come yet, and must not be taken for ours."""
    cdef int i
    for i in range(line.unit_count):
        if line.units[i].id == id:
            line.units[i].not_before = max(line.units[i].not_before, state.now + span)
    plan_probes(line)


cdef inline void carry_out(State *state, const Command *command) noexcept nogil:
    cdef Line *line = state.lines[command.index] if 0 <= command.index < state.line_limit else NULL
    if command.what == ADD:
        add(state, command.line, <int>command.number)
    elif command.what == STOP:
        state.stop_by = max(1, state.now + command.number)
    elif command.what == CLOCK:
        state.follow_clock = command.index == 0
        state.wall_offset = command.number if command.index else wall() - monotonic()
        rekey(state, True)
    elif command.what == ZONE:
        set_zone(state, command.number)
    elif line == NULL:
        if command.what == OPENED and command.number >= 0:
            close(<int>command.number)
        elif command.what == REPLACE:
            free_line(command.line)
    elif command.what == REMOVE:
        take_out(state, line)
    else:
        if command.what == OPENED:
            on_reopened(state, line, <int>command.number)
        elif command.what == WAKE:
            wake_unit(state, line, <int>command.number)
        elif command.what == HOLD:
            hold_unit(state, line, <int>(command.number & 255), command.number >> 8)
        elif command.what == LEND:
            line.lending = True
        elif command.what == TAKE_BACK:
            take_port_back(state, line)
        elif command.what == REPLACE:
            replace_meter(line, <int>command.number, command.line)
        elif command.what == ADDRESS:
            memcpy(line.address, command.address, command.number)
            line.address_size = <uint32_t>command.number
        elif command.what == TAP:
            line.tapped = <uint8_t>command.number
        look_at(state, line)


cdef inline void obey(Commands *commands, State *state) noexcept nogil:
    cdef Command *command = collected(commands)
    cdef Command *done
    while command != NULL:
        carry_out(state, command)
        done = command
        command = command.next
        free(done)


cdef inline void end_all(State *state) noexcept nogil:
    """Hangs up everywhere. What was read of a scan that is not finished goes out."""
    cdef int i, j
    cdef Line *line
    cdef Meter *meter
    for i in range(state.line_limit):
        line = state.lines[i]
        if line == NULL:
            continue
        while line.active_count:
            meter = line.active[line.active_count - 1]
            meter.off_slot = meter.off_slot or meter.answered == 0
            end_scan(state, line, meter)
        for j in range(line.connection_count):
            hang_up(state, &line.connections[j])
        line.up = 0


cdef inline void abandon(Commands *commands, State *state) noexcept nogil:
    """Frees all lines, also those that the engine never met, and closes their ports."""
    cdef int i
    cdef Command *command = collected(commands) if commands.is_open else NULL
    cdef Command *done
    while command != NULL:
        if command.what == ADD:
            if command.number >= 0:
                close(<int>command.number)
            free_line(command.line)
        elif command.what == OPENED and command.number >= 0:
            close(<int>command.number)
        elif command.what == REPLACE:
            free_line(command.line)
        done = command
        command = command.next
        free(done)
    for i in range(state.line_limit):
        if state.lines[i] != NULL:
            take_out(state, state.lines[i])
