"""The counter guard: what a counter's reading can be beside the one before."""

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.counter_guard import Baseline, Judgement, Rule, judge
from parkfleet.protocols.payload.series import Column
from parkfleet.protocols.profile import Factor, Point

HOUR = 3_600_000
ENERGY = Rule(max_rate=100.0, step=0.01, range=42_949_672.96)


def judged(rule: Rule, *readings: tuple[float, float]) -> list[Judgement]:
    """The judgements of readings: (hours, value)."""
    found, baseline = [], None
    for hours, value in readings:
        judgement, baseline = judge(baseline, value, round(hours * HOUR), rule)
        found.append(judgement)
    return found


FITS, DOUBTFUL, ANEW, ROLLED = Judgement.FITS, Judgement.DOUBTFUL, Judgement.BEGAN_ANEW, Judgement.ROLLED_OVER


def test_growth_within_the_rating_fits() -> None:
    """Also none at all, and after a long silence a lot."""
    assert judged(ENERGY, (0, 5), (1, 5), (2, 105), (100, 9_000)) == [FITS] * 4


def test_jump_beyond_the_rating_is_doubtful_until_confirmed() -> None:
    """A torn reading once; a real jump stands three times, and is the baseline from then on."""
    assert judged(ENERGY, (0, 5), (1, 65_541), (2, 7)) == [FITS, DOUBTFUL, FITS]
    jumps = [(1.0, 65_541.0), (2.0, 65_542.0), (3.0, 65_543.0), (4.0, 65_600.0)]
    assert judged(ENERGY, (0, 5), *jumps) == [FITS, DOUBTFUL, DOUBTFUL, ANEW, FITS]


def test_doubtful_readings_that_contradict_each_other_confirm_nothing() -> None:
    """Noise is never believed, however long it lasts."""
    noise = [(hour, 1e6 * (1 + hour % 2)) for hour in range(1, 20)]
    assert set(judged(ENERGY, (0, 5), *noise)[1:]) == {DOUBTFUL}


def test_counter_that_falls_back() -> None:
    """A meter that was reset, or another one in its place: not in silence."""
    assert judged(ENERGY, (0, 5000), (1, 0), (2, 0.5), (3, 1), (4, 2)) == [FITS, DOUBTFUL, DOUBTFUL, ANEW, FITS]


def test_young_meter_that_was_reset_is_no_rollover() -> None:
    """No display ends at 100 or 1,000, and one that ends at 100,000 is not yet full at 98,000."""
    steps = Rule(max_rate=1e5, step=0.1)
    for before, after in ((98, 3), (950, 40), (98_000, 500)):
        assert judged(steps, (0, before), (1 / 60, after)) == [FITS, DOUBTFUL]
    assert judged(steps, (0, 99_990), (1 / 60, 5)) == [FITS, ROLLED]


def test_display_and_register_roll_over() -> None:
    """Six digits begin at 0 again; so does a register of 32 bits in hundredths."""
    assert judged(ENERGY, (0, 999_990), (1, 12)) == [FITS, ROLLED]
    assert judged(ENERGY, (0, 42_949_672.5), (1, 3.25)) == [FITS, ROLLED]
    assert judged(ENERGY, (0, 999_000), (1, 12)) == [FITS, DOUBTFUL]  # more than an hour's worth is missing


def test_float_noise_is_no_step_back() -> None:
    """The last digit of a large float32 may flicker."""
    rule = Rule(max_rate=100.0, is_float=True)
    assert judged(rule, (0, 8_000_000.5), (1, 8_000_000.0)) == [FITS, FITS]


def test_coarse_counter_may_step() -> None:
    """One count of 1 MWh within a second is no sign of 3,600 MW."""
    assert judged(Rule(max_rate=100.0, step=1.0), (0, 7), (1 / 3600, 8)) == [FITS, FITS]


def test_rule_of_a_column() -> None:
    """Resolution and range out of its factor and register, the rating out of its unit where nothing is said."""
    column = Column("energy", "kWh", "int", "counter", Factor(1, 2))
    rule = Rule.of(column, Point("energy", "uint32", 0, unit="kWh"), None)
    assert (rule.step, rule.max_rate, rule.range) == (0.01, 1e5, 42_949_672.96)
    assert Rule.of(column, None, 50.0) == Rule(50.0, 0.01)
    bcd = Rule.of(column, Point("energy", "bcd", 0, registers=2, unit="kWh"), None)
    assert bcd.range == 1_000_000.0


@given(
    st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0, 1e6),
    st.floats(0.1, 1e5),
)
def test_no_false_alarm(steps: list[tuple[float, float]], start: float, rate: float) -> None:
    """Whatever grows within its rating fits, at any intervals."""
    hours, value, readings = 0.0, start, [(0.0, start)]
    for span, share in steps:
        hours, value = hours + span, value + span * share * rate * 0.999
        readings.append((hours, value))
    assert set(judged(Rule(max_rate=rate, step=0.01), *readings)) == {FITS}


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e12, 1e12)), max_size=30))
def test_any_readings_get_a_judgement(readings: list[tuple[float, float]]) -> None:
    """Times and values in any order."""
    baseline: Baseline | None = None
    for hours, value in readings:
        _, baseline = judge(baseline, value, round(hours * HOUR), ENERGY)
        assert baseline.doubts < 3
