"""Health: what is learned of each unit, when a silent one is asked again, and what that may cost the line.

Time-out: smoothed turnaround + 4 deviations (RFC 6298's estimator), at least 20 ms (a setting) above the turnaround,
at most the configured one. A unit that is well gets at least 300 ms (a meter that saves its counters, or a machine that
was busy, is no dead meter), as long as such waits in vain cost the line no more than one part in BUDGET_SHARE of its
time: beyond that it has what was learned.

Silent units are probed with one request after a backoff that doubles with jitter up to a minute. All probes of a line
together are paid from a budget of one part in BUDGET_SHARE of its time: when that is spent they wait, whoever was asked
longest ago goes first. It is not asked for
  - the second try, soon after the first miss: that was likely a frame lost to noise. It waits twice as long as was learned;
  - a line on which nobody answers: there is nobody to be kept waiting;
  - the first probe after one came back: what silenced it may have silenced others, and those that answer cost nothing.
So that many dead meters can be asked often, a probe waits as long as was learned; of a unit that never answered, as long
as the slowest of the line would be waited for. Each eighth has the configured time-out, for meters that became slow;
those of different units do not fall together.
"""

from libc.stdint cimport int64_t, uint64_t

from parkfleet.native.model cimport RTU_TCP, SAMPLES, SERIAL, Line, State, Unit

cdef enum:
    BUDGET_SHARE = 50               # one part in fifty: 2 %
    GOODWILL_NS = 300000000         # patience with a unit that is well
    PATIENT_EVERY = 8               # one probe in so many waits as long as is configured

cdef extern from *:
    """
    #define PF_MS 1000000LL
    #define PF_S 1000000000LL
    #define PF_NEVER 0x3fffffffffffffffLL
    #define PF_BACKOFF_MOST (57 * PF_S)     /* with the probe itself a minute */
    #define PF_BUDGET_MOST (120 * PF_S / 50) /* two minutes' worth */
    """
    const int64_t PF_MS
    const int64_t PF_S
    const int64_t PF_NEVER
    const int64_t PF_BACKOFF_MOST
    const int64_t PF_BUDGET_MOST


cdef inline uint64_t next_random(State *state) noexcept nogil:
    """xorshift64*: jitter needs no better."""
    state.random ^= state.random >> 12
    state.random ^= state.random << 25
    state.random ^= state.random >> 27
    return state.random * <uint64_t>2685821657736338717


cdef inline int64_t jittered(State *state, int64_t span) noexcept nogil:
    """From three quarters of a span to the whole."""
    return span - <int64_t>(next_random(state) >> 11) % (span // 4 + 1)


cdef inline int64_t learned_patience(const Line *line, const Unit *unit) noexcept nogil:
    """As its answers have taught; 0: there were none yet."""
    # A meter of constant turnaround has no deviation, but the machines between it and us have.
    return unit.turnaround + max(line.least_timeout, 4 * unit.deviation) if unit.turnaround else 0


cdef inline int64_t longest_patience(const Line *line) noexcept nogil:
    """With any unit that has answered; 0: none has."""
    cdef int i
    cdef int64_t longest = 0
    for i in range(line.unit_count):
        longest = max(longest, learned_patience(line, &line.units[i]))
    return longest


cdef inline int64_t patience(const Line *line, const Unit *unit) noexcept nogil:
    """How long to wait for a unit's answer to begin."""
    cdef int64_t wait = learned_patience(line, unit)
    if unit.misses and wait == 0:
        wait = longest_patience(line)
    if wait == 0 or (unit.misses >= PATIENT_EVERY and (unit.misses + unit.id) % PATIENT_EVERY == 0):
        return line.timeout
    if unit.misses == 1:
        wait *= 2
    elif unit.misses == 0 and line.goodwill > 0:
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
    """Budget and goodwill grow with time, up to two minutes' worth. A line of several lanes has as much more of it."""
    cdef int64_t lanes = line.connection_count * line.outstanding
    cdef int64_t earned = min((now - line.budget_at) * lanes // BUDGET_SHARE, PF_BUDGET_MOST * lanes)
    line.budget = min(line.budget + earned, PF_BUDGET_MOST * lanes)
    line.goodwill = min(line.goodwill + earned, PF_BUDGET_MOST * lanes)
    line.budget_at = now


cdef inline void open_budgets(Line *line, int64_t now) noexcept nogil:
    """A new line: goodwill to all of its units, and nothing yet for dead ones."""
    line.budget = 0
    line.goodwill = PF_BUDGET_MOST
    line.budget_at = line.rally_at = now


cdef inline int64_t probe_time(const Line *line, const Unit *unit) noexcept nogil:
    """When a silent unit may be asked, by its backoff and the line's budget as they stand."""
    cdef int64_t at = unit.next_probe
    cdef int64_t lanes = line.connection_count * line.outstanding
    if unit.misses > 1 and line.budget <= 0 and line.dead_count < line.unit_count:
        at = max(at, line.budget_at + (1 - line.budget) * BUDGET_SHARE // lanes + 1)
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
        pause = jittered(state, min(unit.base_ns << min(unit.misses, 20), PF_BACKOFF_MOST))
        line.counters.dead_busy_ns += state.now - sent
        line.budget -= state.now - sent
        if unit.misses == 1:  # many that fall silent at once are not to be given up for more than a minute
            line.budget = max(line.budget, -PF_BUDGET_MOST // 2)
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


cdef inline void rally(Line *line, int64_t now) noexcept nogil:
    """One is back: the other silent units are asked now. At most once a minute."""
    cdef int i
    if now < line.rally_at:
        return
    line.rally_at = now + 60 * PF_S
    line.budget = max(line.budget, 1)
    for i in range(line.unit_count):
        line.units[i].next_probe = min(line.units[i].next_probe, now)


cdef inline void answered_well(Line *line, Unit *unit, int64_t now) noexcept nogil:
    """First good answer: the unit is alive at once."""
    if unit.misses:
        if unit.misses > 1:
            rally(line, now)
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
