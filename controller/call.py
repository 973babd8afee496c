"""Call: one call of the command line to a controller; its failure is a sentence and an exit code."""

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from parkfleet.controller.client import FleetClient
    from parkfleet.controller.logins import Login

Controller = Annotated[
    str,
    typer.Option(
        help="HOST:PORT of the controller. Default: the one signed in to last, else 127.0.0.1:7443.",
        envvar="PARKFLEET_CONTROLLER",
        show_default=False,
    ),
]

DEFAULT = ""
#: Where a controller stands that was started without options.
HERE = "127.0.0.1:7443"

#: Where the controller's authority stands, for all commands of a shell; --ca of the group sets it for one.
CA_VARIABLE = "PARKFLEET_CA"


def fleet_client(controller: str) -> "FleetClient":
    """A client for the controller of this command, signed in as far as this user is. Raises FleetError."""
    from parkfleet.controller.client import FleetClient, FleetError
    from parkfleet.controller.logins import LoginError, token_from_environment

    try:
        login = _login(controller)
        token = token_from_environment() or (login.token if login else "")
        return FleetClient(address_of(controller), token=token)
    except LoginError as error:
        raise FleetError(str(error)) from None


def address_of(controller: str) -> str:
    """HOST:PORT of the controller of this command. Raises LoginError."""
    login = None if controller else _login("")
    return controller or (login.address if login else HERE)


def ca_of(controller: str) -> bytes:
    """The certificate of its authority, PEM: the one named, else as it was at the first login; empty for none.

    Raises LoginError, OSError.
    """
    if path := os.environ.get(CA_VARIABLE):
        return Path(path).read_bytes()
    login = _login(controller)
    return login.ca.encode() if login else b""


def run_call(controller: str, work: Coroutine[Any, Any, None]) -> None:
    """Runs it; every failure becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.controller.client import FleetError, SignedOutError, UnreachableError
    from parkfleet.controller.server import split_address

    try:
        split_address(controller or HERE)
    except ValueError as error:
        work.close()
        raise typer.BadParameter(str(error), param_hint="--controller") from None
    try:
        asyncio.run(work)
    except FleetError as error:
        typer.echo(str(error), err=True)
        code = {UnreachableError: 1, SignedOutError: 4}.get(type(error), 3)
        raise typer.Exit(code) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _login(controller: str) -> "Login | None":
    """What is kept of a controller, or of the one signed in to last."""
    from parkfleet.controller.logins import Logins

    logins = Logins.mine()
    return logins.find(controller) if controller else logins.current()
