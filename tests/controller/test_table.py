"""The fleet as a person reads it."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from parkfleet.controller.table import age, change_line, note, print_gateways
from parkfleet.controller.view import GatewayView
from parkfleet.proto import common_pb2, fleet_pb2

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "controller.md"


def a_gateway(name: str = "gw-01", *, reason: str = "", lines: int = 2, told: str = "") -> GatewayView:
    """A gateway with some lines, the last of them down."""
    states = [
        common_pb2.LineStatus(id=f"bus{n}", load=0.4, up=n < lines, told="no answer") for n in range(1, lines + 1)
    ]
    message = fleet_pb2.Gateway(
        park="p1",
        gateway=name,
        state=fleet_pb2.Gateway.STATE_OFFLINE if reason else fleet_pb2.Gateway.STATE_ONLINE,
        offline_reason=reason,
        hello=common_pb2.Hello(agent_version="1.2.3", meters=8),
        heartbeat=common_pb2.Heartbeat(lines=states, meters_bad=1, broker=common_pb2.Broker(told=told)),
    )
    return GatewayView.of(message)


def printed(gateways: list[GatewayView], width: int) -> str:
    """The table on a terminal of that width."""
    screen = io.StringIO()
    print_gateways(gateways, Console(file=screen, width=width))
    return screen.getvalue()


def test_table_on_a_narrow_terminal() -> None:
    """Names stay whole; what there is no room for is left out."""
    text = printed([a_gateway(), a_gateway("gw-02", reason="the agent is stopping")], 80)
    assert "gw-01" in text and "offline" in text and "stopping" in text
    assert "VERSION" not in text
    assert "2 gateways, 1 online" in text


def test_table_on_a_wide_terminal() -> None:
    """Every column, and of many lines the first few."""
    text = printed([a_gateway(lines=6)], 200)
    assert "1.2.3" in text
    assert "bus1 40%, bus2 40%, bus3 40%, bus4 40%, +2" in text


def test_names_are_not_markup() -> None:
    """A version with brackets is shown as it is."""
    assert "[bold]" in printed([a_gateway("[bold]")], 200)


def test_note_names_every_trouble() -> None:
    """The broker first, for it holds back everything."""
    assert note(a_gateway(told="refused")) == "refused; line bus2 down: no answer; 1 meters do not answer"
    assert note(a_gateway(reason="gone", told="refused")) == "gone"


def test_change_line_says_where_from_or_why() -> None:
    """What an operator wants to know next."""
    assert change_line(a_gateway()).endswith("p1/gw-01  online  from , agent 1.2.3")
    assert change_line(a_gateway(reason="gone")).endswith("p1/gw-01  offline  gone")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0s"), (4.9, "4s"), (200, "3m 20s"), (7500, "2h 5m"), (522_000, "6d 1h")],
)
def test_age_in_its_two_largest_units(seconds: float, told: str) -> None:
    """A clock that runs ahead makes no negative age."""
    assert age(round(seconds * 1000)) == told


def test_every_json_key_stands_in_the_manual() -> None:
    """Each has its row, and each key within it is named there."""
    rows = {key: row for row in re.findall(r"^\|.*\|$", MANUAL.read_text("utf-8"), re.M) for key in keys_of(row)}
    for key, value in a_gateway().as_json().items():
        assert key in rows, key
        inner = value[0] if isinstance(value, list) else value
        for part in inner if isinstance(inner, dict) else ():
            assert f"`{part}`" in rows[key], (key, part)


def keys_of(row: str) -> list[str]:
    """Keys in the first column of a table's row."""
    return re.findall(r"`(\w+)`", row.split("|")[1])
