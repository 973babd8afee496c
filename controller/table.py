"""Tables: the fleet as a person reads it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parkfleet.controller.view import GatewayView

#: Into a pipe, a row stays one line. Characters.
PIPE_WIDTH: Final = 250
#: A terminal at least so wide gets all columns. Characters.
WIDE: Final = 120


def print_gateways(gateways: Sequence[GatewayView], console: Console | None = None) -> None:
    """One row a gateway, and how many are online."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=PIPE_WIDTH)
    if not gateways:
        console.print("The controller has seen no gateway since it started.")
        console.print("A gateway finds it by `controller: {url: HOST:PORT}` in its gateway.yaml.")
        return
    columns = COLUMNS if console.width >= WIDE else [column for column in COLUMNS if not column.wide]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=column.heading != "NOTE")
    now_ms = time.time_ns() // 1_000_000
    for gateway in gateways:
        table.add_row(*(column.cell(gateway, now_ms) for column in columns))
    console.print(table)
    online = sum(gateway.online for gateway in gateways)
    many = "gateway" if len(gateways) == 1 else "gateways"
    console.print(Text(f"{len(gateways)} {many}, {online} online", style="dim"))


def change_line(gateway: GatewayView) -> str:
    """One line about a gateway's state."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(gateway.since / 1000))
    why = f"from {gateway.peer}, agent {gateway.version}" if gateway.online else gateway.reason
    return f"{when}  {gateway.park}/{gateway.gateway}  {gateway.state}  {why}"


def age(ms: int) -> str:
    """A time span in ms as its two largest units: 4s, 3m 20s, 2h 5m, 6d 1h."""
    seconds = max(0, ms) // 1000
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // small}{small_unit}"
    return f"{seconds}s"


def note(gateway: GatewayView) -> str:
    """What is wrong with it, the worst first; empty when nothing is known to be."""
    if not gateway.online:
        return gateway.reason
    troubles = []
    if gateway.drift == "rolled back":
        troubles.append(f"went back from configuration {gateway.desired_revision}: {gateway.drift_reason}")
    if gateway.broker_told:
        troubles.append(gateway.broker_told)
    troubles += [f"line {line.id} down: {line.told}" for line in gateway.lines if not line.up]
    if gateway.meters_bad:
        troubles.append(f"{gateway.meters_bad} meters do not answer")
    return "; ".join(troubles)


def loads(gateway: GatewayView, most: int = 4) -> str:
    """Its lines with their load: bus1 41%, bus2 down."""
    shown = [f"{line.id} {f'{line.load:.0%}' if line.up else 'down'}" for line in gateway.lines[:most]]
    if len(gateway.lines) > most:
        shown.append(f"+{len(gateway.lines) - most}")
    return ", ".join(shown)


def configuration(gateway: GatewayView) -> str:
    """What it runs, and on the way to what it is."""
    runs = f"{gateway.configuration_revision}" if gateway.configuration_revision else "local"
    match gateway.drift:
        case "in sync":
            return runs
        case "unmanaged":
            return "local"
        case state:
            return f"{runs}, {gateway.desired_revision} {state}"


_STYLES: Final = {"rolled back": "bold red", "applying": "yellow", "pending": "yellow"}


@dataclass(frozen=True)
class Column:
    """One column. Cells are Text, not str: a name with brackets must not be taken for markup."""

    heading: str
    cell: Callable[[GatewayView, int], Text]  # of a gateway, at a time (ms UTC)
    justify: Literal["left", "right"] = "left"
    wide: bool = False  # only where there is room


COLUMNS: Final = (
    Column("PARK", lambda gateway, _: Text(gateway.park)),
    Column("GATEWAY", lambda gateway, _: Text(gateway.gateway)),
    Column("STATE", lambda gateway, _: Text(gateway.state, style="green" if gateway.online else "bold red")),
    Column("SINCE", lambda gateway, now_ms: Text(age(now_ms - gateway.since)), "right"),
    Column("SEEN", lambda gateway, now_ms: Text(age(now_ms - gateway.last_seen)), "right"),
    Column("VERSION", lambda gateway, _: Text(gateway.version), wide=True),
    Column("CONFIG", lambda gateway, _: Text(configuration(gateway), style=_STYLES.get(gateway.drift, ""))),
    Column("METERS", lambda gateway, _: Text(f"{gateway.meters_ok}/{gateway.meters}"), "right"),
    Column("BUFFER", lambda gateway, _: Text(f"{gateway.buffer_batches}"), "right"),
    Column("DELIVERED", lambda gateway, _: Text(f"{gateway.delivered_readings}"), "right", wide=True),
    Column("LINES", lambda gateway, _: Text(loads(gateway)), wide=True),
    Column("NOTE", lambda gateway, _: Text(note(gateway), style="yellow")),
)
