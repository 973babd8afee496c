"""Health: what is learned of each unit, when a silent one is asked again, and what that may cost the line.

Time-out: smoothed turnaround + 4 deviations (RFC 6298's estimator), at least 20 ms (a setting) above the turnaround,
at most the configured one; doubled at each miss. A unit that is well gets at least 300 ms (a meter that saves its
counters, or a machine that was busy, is no dead meter), as long as such waits in vain cost the line no more than one
part in BUDGET_SHARE of its time: beyond that it has what was learned. Silent units are probed with one request after a backoff that
doubles with jitter up to a minute; all probes of a line together are paid from a budget of one part in BUDGET_SHARE of
its time, except that each unit is asked once a minute come what may, and once soon after its first miss: that was
likely a frame lost to noise.
"""

from libc.stdint cimport int64_t, uint64_t

from parkfleet.native.model cimport RTU_TCP, SAMPLES, SERIAL, Line, State, Unit

cdef enum:
    BUDGET_SHARE = 50               # one part in fifty: 2 %
    GOODWILL_NS = 300000000         # patience with a unit that is well

cdef extern from *:
    """
    #define PF_MS 1000000LL
    #define PF_S 1000000000LL
    #define PF_NEVER 0x3fffffffffffffffLL
    """
    const int64_t PF_MS
    const int64_t PF_S
    const int64_t PF_NEVER


cdef inline uint64_t next_random(State *state) noexcept nogil:
    """xorshift64*: jitter needs no better."""
    state.random ^= state.random >> 12
    state.random ^= state.random << 25
    state.random ^= state.random >> 27
    return state.random * <uint64_t>2685821657736338717


cdef inline int64_t jittered(State *state, int64_t span) noexcept nogil:
    """From three quarters of a span to the whole."""
    return span - <int64_t>(next_random(state) >> 11) % (span // 4 + 1)


cdef inline int64_t patience(const Line *line, const Unit *unit) noexcept nogil:
    """How long to wait for a unit's answer to begin."""
    cdef int64_t wait = line.timeout
    if unit.turnaround:
        # A meter of constant turnaround has no deviation, but the machines between it and us have.
        wait = unit.turnaround + max(line.least_timeout, 4 * unit.deviation)
        wait <<= min(unit.misses, 12)
        if unit.misses == 0 and line.goodwill > 0:
            wait = max(wait, GOODWILL_NS)
    return min(wait, line.timeout)


cdef inline void learn(Unit *unit, int64_t sample) noexcept nogil:
    """One more answer: how long it took to begin."""
    cdef int64_t off
    sample = max(sample, 1)
    unit.samples[unit.sample_count % SAMPLES] = sample
    unit.sample_count += 1
    if unit.turnaround == 0:
        unit.turnaround = sample
        unit.deviation = sample // 2
        return
    off = sample - unit.turnaround
    unit.deviation += ((off if off > 0 else -off) - unit.deviation) // 4
    unit.turnaround = max(1, unit.turnaround + off // 8)


cdef inline void refill(Line *line, int64_t now) noexcept nogil:
    """Budget and goodwill grow with time, up to a minute's worth."""
    cdef int64_t most = 60 * PF_S // BUDGET_SHARE
    cdef int64_t earned = min((now - line.budget_at) // BUDGET_SHARE, most)
    line.budget = min(line.budget + earned, most)
    line.goodwill = min(line.goodwill + earned, most)
    line.budget_at = now


cdef inline void open_budgets(Line *line, int64_t now) noexcept nogil:
    """A new line: goodwill to all of its units, and nothing yet for dead ones."""
    line.budget = 0
    line.goodwill = 60 * PF_S // BUDGET_SHARE
    line.budget_at = now


cdef inline int64_t probe_time(const Line *line, const Unit *unit) noexcept nogil:
    """When a silent unit may be asked, by its backoff and the line's budget as they stand."""
    cdef int64_t at = unit.next_probe
    if unit.misses > 1 and line.budget <= 0:
        at = max(at, line.budget_at + (1 - line.budget) * BUDGET_SHARE)
        at = min(at, max(unit.next_probe, unit.last_probe + 57 * PF_S))
    return max(at, unit.not_before)


cdef inline void plan_probes(Line *line) noexcept nogil:
    """Sets the time before which no silent unit of the line is to be asked."""
    cdef int i
    line.next_probe = PF_NEVER
    if line.dead_count == 0:
        return
    for i in range(line.unit_count):
        if line.units[i].misses:
            line.next_probe = min(line.next_probe, probe_time(line, &line.units[i]))


cdef inline void missed(State *state, Line *line, Unit *unit, int cause, int64_t sent, int64_t wire) noexcept nogil:
    """A request ran into its time-out.

    RTU has no transaction id: until twice the configured time-out has passed the answer may still come, and the unit
    is asked nothing for which it could be taken. Other units go on; their answers bear another unit id.
    """
    cdef int64_t pause = unit.base_ns // 2
    refill(line, state.now)
    if unit.misses == 0:
        line.dead_count += 1
        line.goodwill -= state.now - sent
    else:
        pause = min(unit.base_ns << min(unit.misses, 20), 57 * PF_S)
        pause = jittered(state, pause)
        line.counters.dead_busy_ns += state.now - sent
        line.budget -= state.now - sent
    unit.misses += 1
    unit.cause = <unsigned char>cause
    unit.last_probe = state.now
    unit.next_probe = state.now + pause
    if line.kind == SERIAL or line.kind == RTU_TCP:
        unit.late = 1
        unit.late_sent = sent
        unit.late_wire = wire
        unit.not_before = max(unit.not_before, sent + wire + 2 * line.timeout)
    plan_probes(line)


cdef inline void answered_well(Line *line, Unit *unit) noexcept nogil:
    """First good answer: the unit is alive at once."""
    if unit.misses:
        unit.misses = 0
        line.dead_count -= 1
        plan_probes(line)


cdef inline void came_late(State *state, Line *line, Unit *unit) noexcept nogil:
    """A frame of a unit whose request was given up: that is its answer, no other can follow."""
    if unit.late:
        unit.late = 0
        unit.not_before = min(unit.not_before, state.now)
        unit.next_probe = min(unit.next_probe, state.now)  # it is there, only slower than was believed
        learn(unit, state.now - unit.late_sent - unit.late_wire)
        plan_probes(line)
