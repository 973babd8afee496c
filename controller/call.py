"""Call: one call of the command line to a controller; its failure is a sentence and an exit code."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

Controller = Annotated[str, typer.Option(help="HOST:PORT of the controller.", envvar="PARKFLEET_CONTROLLER")]

DEFAULT = "127.0.0.1:7443"


def run_call(controller: str, work: Coroutine[Any, Any, None]) -> None:
    """Runs it; every failure becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.controller.client import FleetError, UnreachableError
    from parkfleet.controller.server import split_address

    try:
        split_address(controller)
    except ValueError as error:
        work.close()
        raise typer.BadParameter(str(error), param_hint="--controller") from None
    try:
        asyncio.run(work)
    except FleetError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1 if isinstance(error, UnreachableError) else 3) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
