"""Values: one number of a series in its context, both ways. Oracle of native/values.pxd."""

from typing import Final

from parkfleet.protocols.payload.chain.forecast import (
    BESIDE,
    DRIFT,
    FORECASTS,
    HALF_ONE,
    RATE,
    STAYS,
    TAPS,
    Beside,
    Outlook,
    Series,
    learn_change,
    look_ahead,
    loudness,
)
from parkfleet.protocols.payload.chain.mixing import INPUTS, Mix, Tables, mixed
from parkfleet.protocols.payload.chain.numbers import HALF, SIGNED, signed, signed_number
from parkfleet.protocols.payload.chain.rangecoder import Coder

COUNTER: Final = 0  # kinds; 1: gauge, 2: state
KINDS: Final = 3
QUANTITIES: Final = 32  # what a prior knows: the three kinds in general, then kind, unit and decimals
NODES: Final = 76  # decisions of an error
SETS: Final = 6  # of contexts, by kind
CONTEXTS: Final = 128  # of each
SIZES: Final = 16
#: Where cells begin: a series' own as they are at first; contexts by kind; sizes by quantity; first numbers.
OWN: Final = 0
SHARED: Final = OWN + QUANTITIES * NODES
SIZED: Final = SHARED + SETS * KINDS * CONTEXTS * NODES
FIRSTS: Final = SIZED + QUANTITIES * SIZES * NODES
VALUE_CELLS: Final = FIRSTS + QUANTITIES * 2 * SIGNED
#: Weights: by kind, by kind for young series, by quantity; then habits.
HABITS: Final = (2 * KINDS + QUANTITIES) * NODES * INPUTS
HABIT: Final = 16  # costs 0 to 4, drift 7, size 8, how often learned 9, taps from 10 on
WEIGHTS: Final = HABITS + QUANTITIES * HABIT
#: A bit length in eight steps.
GRADES: Final = (0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, *[7] * 54)


def coded_error(c: Coder, t: Tables, m: Mix, error: int) -> int:
    """Zero or not, sign, bit length in unary, two bits below the first by context, the others as they are."""
    if not mixed(c, t, m, 0, error != 0):
        return 0
    negative = mixed(c, t, m, 1, error < 0)
    size = abs(error)
    length, known = size.bit_length(), 1
    while known < 64 and mixed(c, t, m, 1 + known if known < 22 else 23, length > known):
        known += 1
    at, found = known - 1, 1
    if at > 0:
        at -= 1
        bit = mixed(c, t, m, 24 + min(at, 17), size >> at & 1)
        found = 2 | bit
        if at > 0:
            at -= 1
            found = found << 1 | mixed(c, t, m, 42 + 2 * min(at, 16) + bit, size >> at & 1)
    while at > 0:
        at -= 1
        found = found << 1 | c.decide(HALF, size >> at & 1)
    return signed(-found if negative else found)


def first_value(c: Coder, t: Tables, s: Series, quantity: int, expected: int, value: int) -> int:
    """The first number of a series since the key; expected: that of the same column of the meter before, or 0."""
    cells = FIRSTS + (2 * quantity + (expected != 0)) * SIGNED
    value = signed(expected + signed_number(c, t.cells, cells, signed(value - expected)))
    habit = t.weights[HABITS + quantity * HABIT : HABITS + (quantity + 1) * HABIT]
    s.seen, s.last = 1, value
    s.costs = habit[:FORECASTS]
    s.drift, s.size = habit[7], habit[8]
    s.taps = habit[10 : 10 + TAPS]
    return value


def _mix(s: Series, kind: int, quantity: int, row: Beside, o: Outlook) -> Mix:
    """The cells and weights that see this error: the series' own, six contexts of its kind, its quantity's sizes."""
    best = o.best
    size = min(s.size >> 4 if s.size < 128 else 4 + (s.size >> 5), 15)
    age = 0 if s.seen < 2 else 1 if s.seen < 3 else 2 if s.seen < 6 else 3
    other = STAYS if best else DRIFT if kind == COUNTER else BESIDE
    apart = signed(o.changes[other] - o.changes[best])
    part = ((o.rate_sum if best == RATE else o.drift_sum) + HALF_ONE) >> 13 & 7
    run = min(s.quiet.bit_length(), 7)
    zero = s.last == 0
    contexts = (
        size * 8 + age * 2 + zero,
        GRADES[s.length1] * 16 + GRADES[s.length2] * 2 + s.down,
        GRADES[row.length1] * 16 + min(row.moved, 3) * 4 + (size >> 2),
        run * 16 + (row.length1 > 0) * 8 + (row.length2 > 0) * 4 + zero * 2 + (s.length2 > 0),
        part * 16 + best * 2 + (s.length1 > 0),
        GRADES[loudness(apart) >> 2] * 16 + (apart < 0) * 8 + (size >> 1),
    )
    shared = [SHARED + ((index * KINDS + kind) * CONTEXTS + context) * NODES for index, context in enumerate(contexts)]
    return Mix(
        [s.own, *shared, SIZED + (quantity * SIZES + size) * NODES],
        (kind if age == 3 else KINDS + kind) * NODES * INPUTS,
        (2 * KINDS + quantity) * NODES * INPUTS,
    )


def next_value(c: Coder, t: Tables, s: Series, kind: int, quantity: int, row: Beside, value: int) -> int:
    """A further number of a series."""
    o = look_ahead(s, row)
    m = _mix(s, kind, quantity, row, o)
    forecast = o.changes[o.best]
    error = coded_error(c, t, m, signed(value - s.last - forecast))
    change = signed(forecast + error)
    learn_change(s, o, change)
    s.last = signed(s.last + change)
    length = abs(error).bit_length()
    s.size += (32 * length - s.size) >> 2
    s.length2, s.length1, s.down = s.length1, length, int(error < 0)
    s.quiet = 0 if error else min(s.quiet + 1, 255)
    row.pass_by(change, s.last, length)
    return s.last
