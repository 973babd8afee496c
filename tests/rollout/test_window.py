"""When a gateway may download and switch, by its park's clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.rollout_window import Calendar, Window, WindowError, minute_of_day


def at_ms(text: str, zone: str = "Asia/Shanghai") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("01:00-05:00", ["2026-11-25 01:00", "2026-11-25 04:59:59"], ["2026-11-25 00:59", "2026-11-25 05:00"]),
        ("22:00-04:00", ["2026-11-25 23:00", "2026-11-26 03:59"], ["2026-11-25 12:00", "2026-11-26 04:00"]),
        ("fri 22:00-04:00", ["2026-11-27 22:30", "2026-11-28 03:00"], ["2026-11-27 03:00", "2026-11-28 22:30"]),
        ("sat,sun 00:00-24:00", ["2026-11-28 00:00", "2026-11-29 23:59"], ["2026-11-27 23:59", "2026-11-30 00:00"]),
        ("fri-mon 00:00-24:00", ["2026-11-27 12:00", "2026-11-30 12:00"], ["2026-12-01 12:00"]),
        ("", ["2026-11-25 12:00"], []),
    ],
)
def test_window_holds(window: str, inside: list[str], outside: list[str]) -> None:
    """By the local clock, over midnight too, on the day it begins."""
    parsed = Window.parse(window)
    assert all(parsed.holds(datetime.fromisoformat(time)) for time in inside)
    assert not any(parsed.holds(datetime.fromisoformat(time)) for time in outside)


@pytest.mark.parametrize("text", ["1-5", "25:00-26:00", "01:60-02:00", "03:00-03:00", "24:00-04:00", "xyz 01:00-02:00"])
def test_window_refused(text: str) -> None:
    """What is no window is refused with an example."""
    with pytest.raises(WindowError):
        Window.parse(text)


@given(st.text(max_size=40))
def test_window_any_text(text: str) -> None:
    """Any text is a window or a sentence."""
    for parse in (Window.parse, minute_of_day):
        try:
            parse(text)
        except WindowError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("time", "why"),
    [
        ("2026-11-25 02:07:00", ""),
        ("2026-11-25 02:14:00", "demand"),
        ("2026-11-25 02:15:20", "demand"),
        ("2026-11-25 02:15:40", ""),
        ("2026-11-30 12:07:00", "month"),
        ("2026-11-30 11:07:00", ""),
        ("2026-12-01 05:07:00", "month"),
        ("2026-12-01 06:07:00", ""),
        ("2026-11-25 08:07:10", "tariff"),
    ],
)
def test_calendar_keeps_switches_from_what_is_billed(time: str, why: str) -> None:
    """Month ends, tariffs and demand intervals are the park's own, by its clock."""
    calendar = Calendar("Asia/Shanghai", (minute_of_day("08:07"),))
    assert why in calendar.told_against_switching(at_ms(time))
    assert bool(why) == bool(calendar.told_against_switching(at_ms(time)))
