"""Command group `parkfleet sim`: simulated meters and lines, for tests and demonstrations."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Simulated meters and lines.")


@app.callback()
def sim() -> None:
    """Simulated meters and lines, for tests and demonstrations."""


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
