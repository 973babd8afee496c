"""Simulated meter: what its registers say must be what its load has, in the meter's own words."""

import struct
from array import array
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.profile import Point, Table
from parkfleet.protocols.quality import Quality
from parkfleet.protocols.registers import column_of, decode
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.slots import integer_range, to_slot
from tests.simulators.models import EVERYTHING, GAS, HEAT, profile

NOW = 1_795_000_000.0


def everything() -> SimulatedMeter:
    return SimulatedMeter(profile(EVERYTHING), 5, load_of("power", 11), seed=11)


def shown(meter: SimulatedMeter, id: str, time: float = NOW) -> object:
    """A point's value as a reader decodes it."""
    point = next(point for point in meter.profile.points if point.id == id)
    slot, quality, text = decode(point, meter.read(point.table, point.address, point.count, time))
    assert quality == Quality.GOOD
    return column_of(point).value(slot, text)


def exception(meter: SimulatedMeter, request: bytes) -> int:
    """The exception code that a request gets; 0 for an answer."""
    reply = meter.answer(request, NOW)
    assert bool(reply.values) != bool(reply.pdu.function_code & 0x80)
    return reply.pdu.exception_code


@pytest.mark.parametrize(
    ("point", "quantity", "size", "resolution"),
    [
        ("voltage_l1", "voltage_l1", 1, 0.1),
        ("voltage_l2", "voltage_l2", 1, 0.1),
        ("power_l1", "power_l1", 1, 1),
        ("energy_import", "energy", 1000, 0.01),
        ("energy_l1", "energy_l1", 1, 1),
        ("energy_l2", "energy_l2", 1, 1),
        ("current_l1", "current_l1", 1, 1e-4),
        ("current_l2", "current_l2", 1, 1e-4),
        ("frequency", "frequency", 1, 0.01),
        ("reactive_power", "reactive", 1000, 1e-9),
        ("energy_bcd", "energy", 1000, 0.001),
        ("voltage_high", "voltage", 1, 1),
    ],
)
def test_point_shows_its_quantity(point: str, quantity: str, size: float, resolution: float) -> None:
    """Each type and order decodes to the load's value in the point's unit, to the point's resolution."""
    wanted = load_of("power", 11).quantities(NOW)[quantity] / size
    assert shown(everything(), point) == pytest.approx(wanted, abs=resolution)


def test_points_without_a_quantity_are_steady() -> None:
    """Strings, states, serial numbers and unknown units have plausible values that stay."""
    meter = everything()
    assert shown(meter, "model") == "everything"
    assert shown(meter, "serial_number") == meter.serial_number == shown(meter, "serial_number", NOW + 1000)
    assert (shown(meter, "relay"), shown(meter, "tamper"), shown(meter, "status_low")) == (0, 0, 0)
    assert shown(meter, "voltage_present") == 1


def test_values_avoid_the_not_available_codes() -> None:
    """90 and 89 mean "not available" to this point, so it shows 88."""
    assert shown(everything(), "far") == 88


def test_bit_fields_share_a_register() -> None:
    """Each keeps its own bits of a register that several points lie in."""
    (word,) = everything().read("holding", 35, 1, NOW)
    assert word & 0xF == 0
    assert word >> 4 == shown(everything(), "voltage_high")


@given(st.integers(0, 60), st.integers(1, 61))
def test_a_read_is_a_window_on_the_same_registers(address: int, count: int) -> None:
    """Any read, also one that cuts points apart, shows a part of the whole; gaps are 0."""
    count = min(count, 61 - address)
    meter = everything()
    whole = meter.read("holding", 0, 61, NOW)
    assert meter.read("holding", address, count, NOW) == whole[address : address + count]
    assert whole[40:60] == array("H", [0] * 20)


@pytest.mark.parametrize(
    ("request_pdu", "code"),
    [
        (struct.pack(">BHH", 3, 0, 61), 0),
        (struct.pack(">BHH", 3, 0, 64), 0),  # the span ends at 211, behind the hole
        (struct.pack(">BHH", 3, 0, 65), 3),  # more than the profile's max_registers
        (struct.pack(">BHH", 3, 0, 126), 3),
        (struct.pack(">BHH", 3, 0, 0), 3),
        (struct.pack(">BHH", 3, 190, 15), 2),  # touches the hole
        (struct.pack(">BHH", 3, 210, 1), 0),
        (struct.pack(">BHH", 3, 210, 2), 2),  # beyond the last point
        (struct.pack(">BHH", 3, 65535, 2), 2),
        (struct.pack(">BHH", 4, 6, 1), 2),  # before the first
        (struct.pack(">BHH", 4, 7, 2), 0),
        (struct.pack(">BHH", 1, 3, 1), 0),
        (struct.pack(">BHH", 1, 3, 2001), 3),
        (struct.pack(">BHH", 2, 10, 8), 0),
        (struct.pack(">BHH", 6, 0, 1), 1),
        (b"\x2b\x0e\x01\x00", 1),
        (b"\x03\x00", 3),
        (b"", 1),
    ],
)
def test_answer_or_exception(request_pdu: bytes, code: int) -> None:
    """What cannot be read gets the exception code that Modbus has for it."""
    assert exception(everything(), request_pdu) == code


@given(st.binary(max_size=12))
def test_any_request_gets_an_answer(request_pdu: bytes) -> None:
    """No bytes make a meter fall over."""
    everything().answer(request_pdu, NOW)


def test_counters_survive_a_clock_that_is_set_back() -> None:
    """A meter counts by its own time, which never goes back."""
    meter = everything()
    before = shown(meter, "energy_l1", NOW)
    assert shown(meter, "energy_l1", NOW - 3600) == before
    assert shown(meter, "energy_l1", NOW + 3600) > before  # type: ignore[operator]


@pytest.mark.parametrize("text", [HEAT, GAS])
def test_meters_of_other_media(text: str) -> None:
    """Each point of a heat and a gas meter follows its load."""
    model = profile(text)
    for point in model.points:
        meter = SimulatedMeter(model, 1, load_of(model.medium, 2))
        assert shown(meter, point.id) != shown(meter, point.id, NOW + 7200)


integer_points = st.builds(
    lambda type_, scale, offset: Point("x", type_, 0, scale=scale, offset=offset, registers=None),
    st.sampled_from(["int16", "uint16", "int32", "uint32", "int64", "uint64", "bcd"]),
    st.sampled_from(["1", "0.1", "0.001", "10", "2.5", "-1"]).map(Decimal),
    st.sampled_from(["0", "-40", "12.5"]).map(Decimal),
)


@given(integer_points, st.floats(-1e20, 1e20))
def test_slots_stay_in_the_range_of_their_type(point: Point, value: float) -> None:
    """Values beyond a type's range are clipped; within it they come back to half a step."""
    low, high = integer_range(point)
    slot = to_slot(point, value)
    assert low <= slot <= high
    if low < slot < high:
        step = abs(float(point.scale))
        assert point.factor.apply(slot) == pytest.approx(value, abs=step * 0.51, rel=1e-9)


def test_tables_without_points_are_not_there() -> None:
    """A meter without coils says so."""
    tables: dict[Table, int] = {"coil": 1, "discrete": 2, "input": 4}
    meter = SimulatedMeter(profile(GAS), 1, load_of("gas", 1))
    assert [exception(meter, struct.pack(">BHH", function, 0, 1)) for function in tables.values()] == [2, 2, 2]
