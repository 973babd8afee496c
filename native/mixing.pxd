"""Mixing: the probability of a decision, from several adaptive cells by a logistic mix. Integers only. Pure C.

A cell is 22 bits of probability over 10 bits of count. `stretch` is ln(p / (1 - p)) in 1/256, `squash` its inverse.
Format: docs/payload.md; oracle: protocols/payload/chain/mixing.py. After Matt Mahoney's lpaq and paq8.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t

from parkfleet.native.rangecoder cimport Coder, decide

cdef extern from *:
    """
    static int16_t PF_STRETCH[4096];
    static uint16_t PF_SQUASH[4096];
    static int32_t PF_TRUST[1024];  /* in a cell by its count, in 1/256 */
    static int32_t PF_PACE[1024];  /* of a cell by its count: 65536 / (count + 1.5) */
    static const int32_t PF_KNOTS[33] = {  /* 65536 / (1 + e^-x), x from -8 to 8 by halves */
        22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911,
        53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514
    };
    """
    int16_t PF_STRETCH[4096]
    uint16_t PF_SQUASH[4096]
    int32_t PF_TRUST[1024]
    int32_t PF_PACE[1024]
    const int32_t PF_KNOTS[33]


cdef enum:
    CELLS_MIXED = 8
    INPUTS = CELLS_MIXED + 1  # of a mix: its cells, and a constant
    CONSTANT = 256
    LIMIT = 127  # of a cell's count: how far back it remembers
    KNOTS_REFINED = 17  # cells that refine one node's probabilities
    REFINED_LIMIT = 30
    MIX_RATE = 5
    MIX_SHIFT = 18
    LEAST = 32  # probability of a decision, in 1/65536


cdef inline void make_tables() noexcept nogil:
    cdef int at, knot, part, filled = 0
    for at in range(4096):
        knot, part = at >> 7, at & 127
        PF_SQUASH[at] = <uint16_t> ((PF_KNOTS[knot] * (128 - part) + PF_KNOTS[knot + 1] * part + 64) >> 7)
        while filled <= PF_SQUASH[at] >> 4:
            PF_STRETCH[filled] = <int16_t> (at - 2048)
            filled += 1
    while filled < 4096:
        PF_STRETCH[filled] = 2047
        filled += 1
    for at in range(1024):
        PF_TRUST[at] = 256 * (at + 1) // (at + 3)
        PF_PACE[at] = 131072 // (2 * at + 3)


cdef inline void update(uint32_t* cell, int bit, uint32_t limit=LIMIT) noexcept nogil:
    cdef int32_t p = <int32_t> (cell[0] >> 10)
    cdef uint32_t count = cell[0] & 1023
    p += <int32_t> ((<int64_t> ((bit << 22) - p) * PF_PACE[count]) >> 16)
    if p > 4194303:
        p = 4194303
    cell[0] = <uint32_t> p << 10 | (count + 1 if count < limit else count)


cdef inline int simple(Coder* c, uint32_t* cell, int bit) noexcept nogil:
    """A decision by one cell alone."""
    cdef uint32_t p = cell[0] >> 16
    bit = decide(c, LEAST if p < LEAST else 65536 - LEAST if p > 65536 - LEAST else p, bit)
    update(cell, bit)
    return bit


cdef inline int mixed(
    Coder* c, uint32_t** cells, int32_t* first, int32_t* second, uint32_t* refined, int node, int bit
) noexcept nogil:
    """A decision by the mix of cells[i][node]; first and second: two sets of INPUTS weights, in 1/65536, averaged;
    refined: KNOTS_REFINED cells: what came of such mixes."""
    cdef int32_t inputs[INPUTS]
    cdef int64_t dot = 0
    cdef int32_t error, step, p
    cdef int i, part
    for i in range(CELLS_MIXED):
        inputs[i] = (PF_STRETCH[cells[i][node] >> 20] * PF_TRUST[cells[i][node] & 1023]) >> 8
    inputs[CELLS_MIXED] = CONSTANT
    for i in range(INPUTS):
        dot += <int64_t> inputs[i] * (<int64_t> first[i] + second[i])
    dot >>= 17
    dot = 0 if dot < -2048 else 4095 if dot > 2047 else dot + 2048
    refined += dot >> 8
    part = dot & 255
    p = <int32_t> ((refined[0] >> 16) * (256 - part) + (refined[1] >> 16) * part) >> 8
    p = (p + PF_SQUASH[dot]) >> 1
    bit = decide(c, LEAST if p < LEAST else 65536 - LEAST if p > 65536 - LEAST else p, bit)
    update(refined + (part >> 7), bit, REFINED_LIMIT)
    error = ((bit << 16) - PF_SQUASH[dot]) * MIX_RATE
    for i in range(INPUTS):
        step = (inputs[i] * error + (1 << (MIX_SHIFT - 1))) >> MIX_SHIFT
        first[i] += step
        second[i] += step
    for i in range(CELLS_MIXED):
        update(&cells[i][node], bit)
    return bit
