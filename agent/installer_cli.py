"""Installer verbs of `parkfleet agent`: what is done in front of the cabinet, with or without a running agent."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from parkfleet.agent.configuration import Configuration

T = TypeVar("T")

app = typer.Typer(add_completion=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]
MeterId = Annotated[str, typer.Argument(help="The meter's id in gateway.yaml.", metavar="METER")]
DEFAULT = Path("gateway.yaml")

_EXAMPLE_READ = """Example:

    parkfleet agent read m01 --watch

Asks the running agent, which goes on polling; without one, opens the line itself.

Exit codes: 0 the meter answered, 1 the configuration has mistakes or no such meter, 3 the meter or its line is
silent."""


@app.command(epilog=_EXAMPLE_READ)
def read(
    meter: MeterId,
    config: Config = DEFAULT,
    watch: Annotated[bool, typer.Option("--watch", help="Read again and again, until Ctrl-C.")] = False,
    interval: Annotated[str, typer.Option(help="How often, with --watch.")] = "2s",
    points: Annotated[str, typer.Option(help="Show these only: voltage*,energy_import; default: all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read every point of a meter now, with its raw registers."""
    from functools import partial

    from parkfleet.agent.installer import reader
    from parkfleet.agent.installer import watch as watch_for_ever
    from parkfleet.agent.installer_view import Screen

    configuration = usable_configuration(config)
    pause = duration_option(interval, "--interval", 0.1)
    screen = Screen(as_json, [pattern.strip() for pattern in points.split(",") if pattern.strip()])

    async def work() -> bool:
        async with reader(configuration, meter) as read_now:
            if watch:
                with screen:
                    await watch_for_ever(read_now, partial(screen.show, again=True), pause)
            reading = await read_now()
            with screen:
                screen.show(reading)
            return reading.answered

    if not run_command(work()):
        raise typer.Exit(3)


_EXAMPLE_SCAN = """Examples:

    parkfleet agent scan --line serial:///dev/ttyUSB0 --quick --write gateway-part.yaml

    parkfleet agent scan --line serial:///dev/ttyUSB0 --units 5 --display 1234.5kWh --display 230.1V

    parkfleet agent scan --line bus1 --config gateway.yaml

Only reads. Whoever answers at all is found; what he is, is judged by FC 43/14, FC 17 and the library's profiles.

Exit codes: 0 found somebody, 1 the options or the configuration have mistakes, 3 the line is away or in use,
4 nobody answered, 130 stopped by Ctrl-C (what was found so far is shown and written)."""


@app.command(epilog=_EXAMPLE_SCAN)
def scan(
    line: Annotated[str, typer.Option(help="serial:///dev/ttyUSB0, tcp://host:502, or a line's id in gateway.yaml.")],
    units: Annotated[str, typer.Option(help="Unit ids to try: 1-247, or 1,5,20-30.")] = "1-247",
    baud: Annotated[str, typer.Option(help="Baud rates to try, likeliest first; default: all usual ones.")] = "",
    parity: Annotated[str, typer.Option(help="Parities to try, out of N,E,O.")] = "",
    timeout: Annotated[str, typer.Option(help="How long to wait for an answer to begin.")] = "200ms",
    quick: Annotated[bool, typer.Option("--quick", help="Stop after the first setting at which anybody answers.")] = (
        False
    ),
    display: Annotated[list[str] | None, typer.Option(help="What the meter's display shows, such as 230.1V.")] = None,
    profiles: Annotated[list[Path] | None, typer.Option(help="Your own folders of profiles, searched first.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="gateway.yaml, for a line's id.")] = None,
    as_json: AsJson = False,
    write: Annotated[Path | None, typer.Option(help="Write lines and meters as a part of gateway.yaml.")] = None,
) -> None:
    """Find who answers on a line, at which settings, and what each meter is."""
    from parkfleet.agent.display import Shown
    from parkfleet.agent.scan_command import ScanOptions, run_scan
    from parkfleet.agent.scan_options import parse_units

    line = f"serial://{line}" if line.startswith("/dev/") else line
    configuration = usable_configuration(config or DEFAULT) if config or "://" not in line else None
    own = [configuration.path(name) for name in configuration.gateway.profiles] if configuration else []
    try:
        options = ScanOptions(
            line=line,
            configuration=configuration,
            units=parse_units(units),
            bauds=baud,
            parities=parity,
            timeout=duration_option(timeout, "--timeout", 0.01, 5),
            quick=quick,
            shown=tuple(Shown.parse(text) for text in display or ()),
            folders=(*(profiles or ()), *own),
            as_json=as_json,
            write=write,
        )
    except ValueError as error:
        raise failed(str(error), 1) from None
    if code := run_command(run_scan(options)):
        raise typer.Exit(code)


_EXAMPLE_WAKE = """Example:

    parkfleet agent wake m01

The meter is asked at once, however long it was silent, and polled again at its interval.

Exit codes: 0 it answers, 1 the configuration has mistakes or no such meter, 3 it does not answer, or no agent runs."""


@app.command(epilog=_EXAMPLE_WAKE)
def wake(meter: MeterId, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Have the running agent ask a meter again that it has taken for dead."""
    from parkfleet.agent.control_client import connected
    from parkfleet.agent.control_messages import Woken, socket_path

    path = socket_path(usable_configuration(config))

    async def work() -> Woken:
        async with connected(path) as client:
            return await client.wake(meter)

    woken = run_command(work())
    _echo(woken) if as_json else typer.echo(f"{woken.meter}: {woken.told} ({woken.took_ms:g} ms)")
    if not woken.answered:
        raise typer.Exit(3)


_EXAMPLE_STATUS = """Example:

    parkfleet agent status --json

Exit codes: 0 the agent runs, 1 the configuration has mistakes, 3 no agent runs with it."""


@app.command(epilog=_EXAMPLE_STATUS)
def status(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show lines, meters, buffer and broker as the running agent sees them."""
    from rich.console import Console

    from parkfleet.agent.control_client import connected
    from parkfleet.agent.control_messages import Status, socket_path
    from parkfleet.agent.installer_view import status_table

    path = socket_path(usable_configuration(config))

    async def work() -> Status:
        async with connected(path) as client:
            return await client.status()

    told = run_command(work())
    _echo(told) if as_json else Console(highlight=False).print(status_table(told))


def usable_configuration(path: Path) -> "Configuration":
    from parkfleet.agent.configuration import load_configuration
    from parkfleet.protocols.document import DocumentError

    try:
        return load_configuration(path)
    except DocumentError as error:
        raise failed(str(error), 1) from None


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command to its end; what an installer can mend becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.agent.control_client import ControlError, NoAgentError
    from parkfleet.agent.installer import UnknownNameError
    from parkfleet.agent.transport import LineDownError

    try:
        return asyncio.run(work)
    except (UnknownNameError, ControlError, ValueError) as error:
        raise failed(str(error), 1) from None
    except (NoAgentError, LineDownError) as error:
        raise failed(str(error), 3) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def failed(told: str, code: int) -> typer.Exit:
    typer.echo(told, err=True)
    return typer.Exit(code)


def duration_option(text: str, option: str, least: float, most: float = 86400) -> float:
    from parkfleet.protocols.quantity import Duration

    try:
        seconds = float(Duration.parse(text))
    except ValueError as error:
        raise failed(f"{option}: {error}", 1) from None
    if not least <= seconds <= most:
        raise failed(f"{option} must be from {Duration(least)} to {Duration(most)}", 1)
    return seconds


def _echo(message: object) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(message).decode())
