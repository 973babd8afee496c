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
    learn_errors,
    look_ahead,
    loudness,
)
from parkfleet.protocols.payload.chain.guess import GUESSES, RETURNED, STAYED, WENT_ON, guess_change, learn_return
from parkfleet.protocols.payload.chain.mixing import INPUTS, KNOTS_REFINED, Mix, Tables, mixed
from parkfleet.protocols.payload.chain.numbers import HALF, SIGNED, signed, signed_number
from parkfleet.protocols.payload.chain.rangecoder import Coder

COUNTER: Final = 0  # kinds; 1: gauge, 2: state
KINDS: Final = 3
QUANTITIES: Final = 32  # what a prior knows: the three kinds in general, then kind, unit and decimals
NODES: Final = 76  # decisions of an error
SETS: Final = 6  # of contexts, by kind
CONTEXTS: Final = 128  # of each
SIZES: Final = 16
#: Where cells begin: a series' own as they are at first; contexts by kind; sizes by quantity; first numbers; what
#: refines mixes, by kind. All but first numbers twice: for numbers that follow one another, and for the first ones
#: after a pause.
OWN: Final = 0
SHARED: Final = OWN + 2 * QUANTITIES * NODES
SIZED: Final = SHARED + 2 * SETS * KINDS * CONTEXTS * NODES
FIRSTS: Final = SIZED + 2 * QUANTITIES * SIZES * NODES
REFINED: Final = FIRSTS + QUANTITIES * 2 * SIGNED
VALUE_CELLS: Final = REFINED + 2 * KINDS * NODES * KNOTS_REFINED
#: Weights: by kind, young series of a kind, a kind after a pause; by quantity, and after a pause; then habits.
HABITS: Final = (3 * KINDS + 2 * QUANTITIES) * NODES * INPUTS
#: Costs 0 to 4, drift 7, size 8, how often learned 9, taps from 10 on; costs of guesses from 16 on, size after a
#: pause 21, how often learned 22.
HABIT: Final = 24
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


def first_value(c: Coder, t: Tables, s: Series, quantity: int, row: Beside, expected: int, value: int) -> int:
    """The first number of a series since the key; expected: that of the same column of the meter before, or 0."""
    cells = FIRSTS + (2 * quantity + (expected != 0)) * SIGNED
    value = signed(expected + signed_number(c, t.cells, cells, signed(value - expected)))
    habit = t.weights[HABITS + quantity * HABIT : HABITS + (quantity + 1) * HABIT]
    s.seen, s.last, s.first, s.first_ts, s.mean = 1, value, value, row.ts, value
    s.costs = habit[:FORECASTS]
    s.drift, s.near.size = habit[7], habit[8]
    s.taps = habit[10 : 10 + TAPS]
    s.guess_costs = habit[16 : 16 + GUESSES]
    s.far.size = habit[21]
    row.pass_by(0, value, 0)
    return value


def _mix(s: Series, kind: int, quantity: int, row: Beside, o: Outlook) -> Mix:
    """The cells and weights that see this error: the series' own, six contexts of its kind, its quantity's sizes.

    After a pause, others than otherwise.
    """
    away, best, e = s.away, o.best, s.far if s.away else s.near
    size = min(e.size >> 4 if e.size < 128 else 4 + (e.size >> 5), 15)
    seen = s.returns + 1 if away else s.seen
    age = 0 if seen < 2 else 1 if seen < 3 else 2 if seen < 6 else 3
    if away:
        other = STAYED if best else WENT_ON if kind == COUNTER else RETURNED
        part = min(abs(row.gap).bit_length() // 3, 7)
    else:
        other = STAYS if best else DRIFT if kind == COUNTER else BESIDE
        part = ((o.rate_sum if best == RATE else o.drift_sum) + HALF_ONE) >> 13 & 7
    apart = signed(o.changes[other] - o.changes[best])
    run = min(e.quiet.bit_length(), 7)
    zero = s.last == 0
    contexts = (
        size * 8 + age * 2 + zero,
        GRADES[e.length1] * 16 + GRADES[e.length2] * 2 + e.down,
        GRADES[row.length1] * 16 + min(row.moved, 3) * 4 + (size >> 2),
        run * 16 + (row.length1 > 0) * 8 + (row.length2 > 0) * 4 + zero * 2 + (e.length2 > 0),
        part * 16 + best * 2 + (e.length1 > 0),
        GRADES[loudness(apart) >> 2] * 16 + (apart < 0) * 8 + (size >> 1),
    )
    first_set = SETS if away else 0
    shared = [
        SHARED + ((index * KINDS + kind) * CONTEXTS + context) * NODES
        for index, context in enumerate(contexts, first_set)
    ]
    known = (QUANTITIES if away else 0) + quantity
    return Mix(
        [s.own + (NODES if away else 0), *shared, SIZED + (known * SIZES + size) * NODES],
        ((2 * KINDS if away else 0 if age == 3 else KINDS) + kind) * NODES * INPUTS,
        (3 * KINDS + known) * NODES * INPUTS,
        REFINED + ((KINDS if away else 0) + kind) * NODES * KNOTS_REFINED,
    )


def next_value(c: Coder, t: Tables, s: Series, kind: int, quantity: int, row: Beside, value: int) -> int:
    """A further number of a series."""
    o = guess_change(s, row) if s.away else look_ahead(s, row)
    forecast = o.changes[o.best]
    error = coded_error(c, t, _mix(s, kind, quantity, row, o), signed(value - s.last - forecast))
    change = signed(forecast + error)
    if s.away:
        learn_return(s, o, change, error)
    else:
        learn_change(s, o, change)
        s.last = signed(s.last + change)
        learn_errors(s.near, error)
    row.pass_by(change, s.last, abs(error).bit_length())
    return s.last
