"""The forecast of a line: its arithmetic, and that it names who would be late."""

from pathlib import Path

import pytest

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.forecast import LineForecast, forecast
from parkfleet.agent.plan import make_plan
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.profile import Point, Profile
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


def test_earliest_deadline_goes_first_also_within_a_scan() -> None:
    """A meter due in the midst of its neighbours' scans is read between their requests, and not late."""
    url = "serial:///dev/ttyUSB0?baud=1200"
    scan = of(1.0, url=url).meters[0].scan_s
    assert of(1.2 * scan, 40 * scan, 40 * scan, url=url).late == []


def test_short_interval_behind_a_long_request() -> None:
    """A meter due more often than one request of its neighbours takes is named, though the load is below one."""
    url = "serial:///dev/ttyUSB0?baud=1200"
    long = Profile("long", {"en": "Long"}, "power", "test", [Point("text", "string", 0, registers=64)])
    short = Profile("short", {"en": "Short"}, "power", "test", [Point("a", "uint16", 0)])
    meters = [
        MeterConfig("quick", "bus", 1, "short", Duration(0.5)),
        MeterConfig("slow", "bus", 2, "long", Duration(60)),
    ]
    gateway = GatewayConfig("p", "g", BrokerConfig("mqtt://127.0.0.1:1"), [LineConfig("bus", url)], meters)
    (line,) = make_plan(Configuration(gateway, {"long": long, "short": short}, Path())).lines
    found = forecast(line)
    assert found.meters[1].scan_s > 1.0
    assert found.load < 1
    assert found.late == ["quick"]


def test_overload_of_mixed_intervals_starves_nobody() -> None:
    """The line is kept busy, and all of its time is shared out: what is read takes just that."""
    scan = of(1.0).meters[0].scan_s
    found = of(scan * 1.5, scan * 3, scan * 3)
    assert found.load == pytest.approx(4 / 3)
    assert all(0 < meter.late < 0.5 for meter in found.meters)
    assert sum(meter.share * (1 - meter.late) for meter in found.meters) == pytest.approx(1.0, rel=0.05)
