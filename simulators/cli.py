"""Command group `parkfleet sim`: simulated meters and lines, for tests and demonstrations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.simulators.fleet import cli as fleet_cli

if TYPE_CHECKING:
    from parkfleet.simulators.endpoint import TcpEndpoint
    from parkfleet.simulators.line import SerialLine

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Simulated meters, lines and fleets.")
app.add_typer(fleet_cli.app)  # fleet


@app.callback()
def sim() -> None:
    """Simulated meters, lines and fleets, for tests and demonstrations."""


_EXAMPLE = """Example: a park to point an agent of your own at.

    parkfleet sim park --directory /tmp/park --broker mqtt://127.0.0.1:1883

    parkfleet agent run --config /tmp/park/gateway.yaml"""


@app.command(epilog=_EXAMPLE)
def park(
    directory: Annotated[Path, typer.Option(help="Where the lines' devices and gateway.yaml appear.")] = Path("park"),
    broker: Annotated[str, typer.Option(help="The broker to write into gateway.yaml.")] = "mqtt://127.0.0.1:1883",
    seed: Annotated[int, typer.Option(help="Another park: other values and turnarounds.")] = 1,
    record: Annotated[Path | None, typer.Option(help="At the end, write what was answered, as JSON lines.")] = None,
) -> None:
    """Run the demo's park alone: two RS-485 lines, a Modbus TCP endpoint, 28 meters. Until Ctrl-C."""
    import asyncio

    asyncio.run(_run(directory, broker, seed, record))


async def _run(directory: Path, broker: str, seed: int, record: Path | None) -> None:
    import asyncio
    import signal

    import yaml

    from parkfleet.simulators.park import demo_park

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory.mkdir(parents=True, exist_ok=True)
    async with demo_park(seed, directory.resolve()) as running:
        document = {"park": "demo", "gateway": "gw-01", "broker": {"url": broker}, **running.configuration()}
        config = directory / "gateway.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
        for wire in running.wires:
            typer.echo(f"{wire.id}: {wire.url}, {len(wire.meters)} meters")
        typer.echo(f"{config} reads them; Ctrl-C ends", nl=True)
        await stop.wait()
    if record:
        running.record.save(record)
        typer.echo(f"{len(running.record)} answers in {record}")


_EXAMPLE_LINE = """Examples: meters of any models, made from their profiles, to scan and read without a cabinet.

    parkfleet sim line 1=eastron-sdm630 12=tuf-2000m --device /tmp/bus --baud 19200 --parity E

    parkfleet sim line 1=abb-b23 --tcp 1502

Exit code 1: an option or a profile is wrong."""


@app.command(epilog=_EXAMPLE_LINE)
def line(
    meters: Annotated[list[str], typer.Argument(help="UNIT=PROFILE, again for each meter.", metavar="UNIT=PROFILE…")],
    device: Annotated[Path, typer.Option(help="Where the bus appears as a serial device.")] = Path("bus"),
    baud: Annotated[int, typer.Option(help="The bus's rate: others are not understood.")] = 9600,
    parity: Annotated[str, typer.Option(help="N, E or O: others are not understood.")] = "N",
    tcp: Annotated[int, typer.Option(help="Instead: a Modbus TCP port on this machine; 0 chooses one.")] = -1,
    folder: Annotated[list[Path] | None, typer.Option(help="Your own folders of profiles, searched first.")] = None,
    seed: Annotated[int, typer.Option(help="Other values, turnarounds and serial numbers.")] = 1,
) -> None:
    """Run simulated meters of the models you name on one line. Until Ctrl-C."""
    import asyncio

    from parkfleet.protocols.document import DocumentError
    from parkfleet.protocols.library import UnknownProfileError
    from parkfleet.simulators.bench import bench

    try:
        wire = bench(meters, folder or [], seed, device.absolute(), baud, parity, tcp)
        asyncio.run(_serve(wire))
    except (ValueError, UnknownProfileError, DocumentError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


async def _serve(wire: "SerialLine | TcpEndpoint") -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with wire:
        typer.echo(f"{wire.url}: units {', '.join(map(str, sorted(wire.meters)))}; Ctrl-C ends")
        await stop.wait()
