"""The forecast of a line: its arithmetic, and that it names who would be late."""

from pathlib import Path

import pytest

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.forecast import LineForecast, forecast
from parkfleet.agent.plan import make_plan
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.quantity import Duration
from tests.agent.conftest import SMALL


def of(
    *intervals: float, url: str = "serial:///dev/ttyUSB0?baud=9600", connections: int = 1, outstanding: int = 1
) -> LineForecast:
    """The forecast of a line with one small meter for each interval."""
    gateway = GatewayConfig(
        park="p",
        gateway="g",
        broker=BrokerConfig("mqtt://127.0.0.1:1"),
        lines=[LineConfig("bus", url, connections=connections, outstanding=outstanding)],
        meters=[MeterConfig(f"m{n}", "bus", n + 1, "small", Duration(s)) for n, s in enumerate(intervals)],
    )
    (line,) = make_plan(Configuration(gateway, {"small": SMALL}, Path())).lines
    return forecast(line)


def test_load_is_the_wire_time() -> None:
    """Two requests of 8 + 5 bytes beside 8 and 4 bytes of values, 10 ms turnaround and two t3.5 each."""
    byte = 10 / 9600
    scan = 2 * (13 * byte + 2 * 3.5 * byte + 0.010) + 12 * byte
    found = of(1.0, 2.0)
    assert found.meters[0].scan_s == pytest.approx(scan)
    assert found.load == pytest.approx(scan / 1 + scan / 2)
    assert found.cycle_s == pytest.approx(2 * scan)
    assert found.late == []


def test_requests_under_way_at_once_share_the_load() -> None:
    """Four at once take a quarter of the time."""
    one, four = of(1.0, 1.0, url="tcp://h"), of(1.0, 1.0, url="tcp://h", connections=2, outstanding=2)
    assert four.load == pytest.approx(one.load / 4)
    assert four.cycle_s == pytest.approx(one.cycle_s / 4)


def test_overload_is_told_and_shared() -> None:
    """A line asked for twice what it can do: every meter misses about half of its slots, none starves."""
    count = 30
    scan = of(1.0).meters[0].scan_s
    found = of(*[scan * count / 2] * count)
    assert found.load == pytest.approx(2.0)
    assert len(found.late) == count
    assert all(0.3 < meter.late < 0.7 for meter in found.meters)


def test_short_interval_behind_a_long_scan() -> None:
    """A meter due more often than its neighbours' scans allow is named, though the load is below one."""
    scan = of(1.0, url="serial:///dev/ttyUSB0?baud=1200").meters[0].scan_s
    found = of(1.2 * scan, 40 * scan, 40 * scan, url="serial:///dev/ttyUSB0?baud=1200")
    assert found.load < 1
    assert found.late == ["m0"]
