"""Command `parkfleet demo`: the whole way, from simulated meters to a consumer, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:

    parkfleet demo

    parkfleet demo --duration 30s --outage 8s --report demo.json

    parkfleet demo --broker mqtt://192.168.1.9:1883

Exit codes: 0 every reading that a meter answered arrived once and unchanged, 1 it did not, 2 the demo could not run."""


@app.command(epilog=_EXAMPLES)
def demo(
    duration: Annotated[str | None, typer.Option(help="Stop and judge after this long; default: until Ctrl-C.")] = None,
    outage: Annotated[str, typer.Option(help="Cut the link to the broker in the middle for so long.")] = "0s",
    report: Annotated[Path | None, typer.Option(help="Write the account as JSON to this file.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="Use this broker: mqtt://host:port. Default: one of our own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another park: other meters' values and turnarounds.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="Keep configuration, logs and buffer in this folder.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen (as in a pipe).")] = False,
) -> None:
    """Run a simulated park, a broker, a controller, an agent and a consumer, and judge what arrived."""
    import asyncio
    import sys

    from parkfleet.protocols.config import BrokerConfig
    from parkfleet.protocols.quantity import Duration
    from parkfleet.simulators.demo.run import DemoError, DemoOptions, run_demo

    try:
        options = DemoOptions(
            duration_s=None if duration is None else Duration.parse(duration),
            outage_s=Duration.parse(outage),
            report=report,
            broker=None if broker is None else BrokerConfig(broker),
            seed=seed,
            keep=keep,
            plain=plain or not sys.stdout.isatty(),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if options.duration_s is not None and options.outage_s >= options.duration_s:
        raise typer.BadParameter("the outage must be shorter than the duration")
    try:
        verdict = asyncio.run(run_demo(options))
    except DemoError as error:
        typer.echo(f"demo: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if verdict.ok else 1)
