"""Command group `parkfleet controller`: what is done in the control room."""

from pathlib import Path
from typing import Annotated

import typer

from parkfleet.controller import broker_cli, recover_cli

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(broker_cli.app)  # broker-config
app.add_typer(recover_cli.app)  # password


@app.callback()
def group() -> None:
    """In the control room: run the fleet controller."""


_EXAMPLE_RUN = """Examples:

    parkfleet controller run --data /var/lib/parkfleet --listen 0.0.0.0:7443 --name fleet.example.org

    parkfleet controller run --data /var/lib/parkfleet --database postgresql://parkfleet@db.example.org/parkfleet

    parkfleet controller run

With --data it is a controller for a fleet: on an empty folder it makes its certificate authority, and then listens
on three ports: for gateways (mutual TLS), for boxes that enrol with a join token (port + 1), for operators
(port + 2). Without, it serves everything on one plain port of this machine, for a try. Metrics and health are shown
to this machine alone (port + 3), unless --web says otherwise.

Several controllers on one PostgreSQL share a fleet: each gateway may come to any of them. Its password is never an
argument, which every user of the machine can read: it comes from --database-password-file, PGPASSFILE or ~/.pgpass.

Prints `controller listening on HOST:PORT` once it takes connections. Stop it with Ctrl-C or SIGTERM: it says goodbye
to every agent, and agents come back by themselves.

Exit codes: 0 stopped as asked, 1 it could not listen or its data cannot be used, 2 wrong usage."""


@app.command(epilog=_EXAMPLE_RUN)
def run(
    listen: Annotated[str, typer.Option(help="HOST:PORT for gateways; port 0 takes a free one.")] = "127.0.0.1:7443",
    heartbeat: Annotated[
        str, typer.Option(help="How often agents report. Three missed ones: the gateway is offline.")
    ] = "30s",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of what outlives the process: authority, gateways, configuration, history."),
    ] = None,
    database: Annotated[
        str,
        typer.Option(
            help="postgresql://USER@HOST/NAME, for several controllers. Default: SQLite, in the folder of --data.",
            envvar="PARKFLEET_DATABASE",
        ),
    ] = "",
    database_password_file: Annotated[
        Path | None, typer.Option(help="File with the database's password; else PGPASSFILE or ~/.pgpass.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which gateways reach it; the first stands in join tokens. Repeatable."),
    ] = None,
    enrolment: Annotated[
        str, typer.Option(help="HOST:PORT for boxes that enrol. Default: that of --listen, port + 1.")
    ] = "",
    operators: Annotated[str, typer.Option(help="HOST:PORT for operators. Default: that of --listen, port + 2.")] = "",
    operators_mutual: Annotated[
        str, typer.Option(help="HOST:PORT for operators who show a certificate (mutual TLS). Default: none.")
    ] = "",
    web: Annotated[
        str, typer.Option(help="HOST:PORT of /metrics and /healthz, or off. Default: 127.0.0.1, port + 3.")
    ] = "",
    web_certificate: Annotated[Path | None, typer.Option(help="PEM file: /metrics and /healthz by HTTPS.")] = None,
    web_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    certificate_life: Annotated[
        str, typer.Option(help="How long a gateway's certificate holds; it renews itself at two thirds.")
    ] = "90d",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the fleet controller until stopped."""
    import asyncio
    import os
    import sys

    # gRPC prints a failure to bind as well as raising it; before it is imported: ours is the sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from parkfleet.controller.run_options import DatabaseOptions, OptionError, WebOptions, parse_options
    from parkfleet.protocols.logs import LEVELS, configure_logging

    if log_level not in LEVELS:
        raise typer.BadParameter(f"expected {', '.join(LEVELS)}, got {log_level!r}", param_hint="--log-level")
    if any("postgres" in argument and _has_password(argument) for argument in sys.argv):
        told = "every user of this machine can read a command's arguments: put the password into a file, and name it"
        raise typer.BadParameter(f"{told} with --database-password-file", param_hint="--database")
    try:
        options = parse_options(
            listen,
            heartbeat,
            data,
            name or [],
            enrolment,
            operators,
            certificate_life,
            DatabaseOptions(database, database_password_file),
            WebOptions(web, web_certificate, web_key),
            operators_mutual,
        )
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from None
    configure_logging(log_level)
    from parkfleet.controller.run import StartError, run_controller

    try:
        asyncio.run(run_controller(options, typer.echo))
    except StartError as error:
        typer.echo(f"not started: {error}", err=True)
        raise typer.Exit(1) from None


def _has_password(url: str) -> bool:
    from urllib.parse import parse_qs, urlsplit

    found = urlsplit(url.partition("=")[2] if url.startswith("--") else url)
    return found.password is not None or "password" in parse_qs(found.query)
