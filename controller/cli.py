"""Command group `parkfleet controller`: what is done in the control room."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def group() -> None:
    """In the control room: run the fleet controller."""


_EXAMPLE_RUN = """Examples:

    parkfleet controller run

    parkfleet controller run --data /var/lib/parkfleet --listen 127.0.0.1:0 --heartbeat 5s

Prints `controller listening on HOST:PORT` once it takes connections. Gateways reach it with
`controller: {url: HOST:PORT}` in their gateway.yaml; see them with `parkfleet fleet list`.
Stop it with Ctrl-C or SIGTERM: it says goodbye to every agent, and agents come back by themselves.

Exit codes: 0 stopped as asked, 1 it could not listen, 2 wrong usage."""


@app.command(epilog=_EXAMPLE_RUN)
def run(
    listen: Annotated[
        str, typer.Option(help="HOST:PORT for agents and operators; port 0 takes a free one.")
    ] = "127.0.0.1:7443",
    heartbeat: Annotated[
        str, typer.Option(help="How often agents report. Three missed ones: the gateway is offline.")
    ] = "10s",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the gateways' configuration and its history; without it none is managed."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on the network although nothing is encrypted yet.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the fleet controller until stopped."""
    import asyncio
    import os

    # gRPC prints a failure to bind as well as raising it; before it is imported: ours is the sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from parkfleet.controller.config_secrets import SecretError
    from parkfleet.controller.errors import DatabaseError
    from parkfleet.controller.run import run_controller
    from parkfleet.controller.server import BindError, is_loopback, split_address
    from parkfleet.proto import limits
    from parkfleet.protocols.logs import LEVELS, configure_logging
    from parkfleet.protocols.quantity import Duration

    try:
        host, _ = split_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if not is_loopback(host) and not insecure:
        raise typer.BadParameter(
            f"{host} can be reached from the network, and connections are neither encrypted nor authenticated yet: "
            "anyone there could pose as a gateway. Listen on 127.0.0.1, or add --insecure on a network you trust",
            param_hint="--listen",
        )
    try:
        interval = Duration.parse(heartbeat)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--heartbeat") from None
    low, high = map(Duration, limits.HEARTBEAT_S)
    if not low <= interval <= high:
        raise typer.BadParameter(f"must be from {low} to {high}, got {interval}", param_hint="--heartbeat")
    if log_level not in LEVELS:
        raise typer.BadParameter(f"expected {', '.join(LEVELS)}, got {log_level!r}", param_hint="--log-level")
    configure_logging(log_level)
    try:
        asyncio.run(run_controller(listen, interval, typer.echo, data))
    except BindError as error:
        typer.echo(f"not started: {error}. Choose another with --listen HOST:PORT", err=True)
        raise typer.Exit(1) from None
    except (SecretError, DatabaseError, OSError) as error:
        typer.echo(f"not started: {error}", err=True)
        raise typer.Exit(1) from None
