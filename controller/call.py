"""Call: one call of the command line to a controller; its failure is a sentence and an exit code."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from parkfleet.controller.client import FleetClient

Controller = Annotated[str, typer.Option(help="HOST:PORT of the controller.", envvar="PARKFLEET_CONTROLLER")]

DEFAULT = "127.0.0.1:7443"

#: Where the controller's authority stands, for all commands of a shell; --ca of the group sets it for one.
CA_VARIABLE = "PARKFLEET_CA"


def fleet_client(controller: str) -> "FleetClient":
    """A client for the controller of this command. Raises FleetError."""
    import os
    from pathlib import Path

    from parkfleet.controller.client import FleetClient, FleetError
    from parkfleet.protocols.address import is_loopback, split_address

    ca = os.environ.get(CA_VARIABLE)
    if not ca:
        if not is_loopback(split_address(controller)[0]):
            told = "give the certificate of its authority, ca.pem of its data folder: parkfleet fleet --ca ca.pem …"
            raise FleetError(f"{controller} is another machine: {told}")
        return FleetClient(controller)
    try:
        return FleetClient(controller, ca=Path(ca).read_bytes())
    except OSError as error:
        raise FleetError(f"cannot read {ca}: {error.strerror}") from None


def run_call(controller: str, work: Coroutine[Any, Any, None]) -> None:
    """Runs it; every failure becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.controller.client import FleetError, UnreachableError
    from parkfleet.protocols.address import split_address

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
