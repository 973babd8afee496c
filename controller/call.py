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
        help="HOST:PORT of the controller, for operators. Default: the one signed in to last, else 127.0.0.1:7443.",
        envvar="PARKFLEET_CONTROLLER",
        show_default=False,
    ),
]

#: The controller that was signed in to last, else HERE.
DEFAULT = ""
#: Where a controller stands that was started for a try.
HERE = "127.0.0.1:7443"

#: Where the controller's authority stands, for all commands of a shell; --ca of the group sets it for one.
CA_VARIABLE = "PARKFLEET_CA"
#: File with key and certificate of an operator, for the controller's port for those.
CERTIFICATE_VARIABLE = "PARKFLEET_CERTIFICATE"


def fleet_client(controller: str) -> "FleetClient":
    """A client for the controller of this command, signed in as far as this user is. Raises FleetError."""
    from parkfleet.controller.client import FleetClient, FleetError
    from parkfleet.controller.logins import LoginError, token_from_environment
    from parkfleet.protocols.address import is_loopback, split_address

    try:
        address, ca, login, own = address_of(controller), ca_of(controller), _login(controller), _certificate()
        token = token_from_environment() or (login.token if login and own is None else "")
    except LoginError as error:
        raise FleetError(str(error)) from None
    if not ca and not is_loopback(split_address(address)[0]):
        told = "give the certificate of its authority, ca.pem of its data folder: parkfleet fleet --ca ca.pem …"
        raise FleetError(f"{address} is another machine: {told}")
    return FleetClient(address, token=token, ca=ca or None, own=own)


def address_of(controller: str, otherwise: str = HERE) -> str:
    """HOST:PORT of the controller of this command: the one named, else that of the last login. Raises LoginError."""
    login = None if controller else _login("")
    return controller or (login.address if login else otherwise)


def ca_of(controller: str) -> bytes:
    """The certificate of its authority, PEM: the one named, else as it was at the first login; empty for none.

    Raises LoginError.
    """
    from parkfleet.controller.logins import LoginError

    if path := os.environ.get(CA_VARIABLE):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise LoginError(f"cannot read {path}: {error.strerror}") from None
    login = _login(controller)
    return login.ca.encode() if login else b""


def _certificate() -> tuple[bytes, bytes] | None:
    """The operator's own key and certificate, if a file is named. Raises LoginError."""
    from parkfleet.controller.logins import LoginError
    from parkfleet.protocols.certificate import CertificateError, certificates, private_key

    path = os.environ.get(CERTIFICATE_VARIABLE)
    if not path:
        return None
    try:
        pem = Path(path).read_bytes()
        return private_key(pem), certificates(pem)[0]
    except OSError as error:
        raise LoginError(f"cannot read {path}: {error.strerror}") from None
    except CertificateError as error:
        raise LoginError(f"{path}, which {CERTIFICATE_VARIABLE} names: {error}") from None


def run_call(controller: str, work: Coroutine[Any, Any, None]) -> None:
    """Runs it; every failure becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.controller.client import FleetError, SignedOutError, UnreachableError
    from parkfleet.controller.logins import LoginError
    from parkfleet.protocols.address import split_address

    try:
        split_address(controller or HERE)
    except ValueError as error:
        work.close()
        raise typer.BadParameter(str(error), param_hint="--controller") from None
    try:
        asyncio.run(work)
    except (FleetError, LoginError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(
            1 if isinstance(error, UnreachableError) else 4 if isinstance(error, SignedOutError) else 3
        ) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _login(controller: str) -> "Login | None":
    """What is kept of a controller, or of the one signed in to last. Raises LoginError."""
    from parkfleet.controller.logins import Logins

    logins = Logins.mine()
    return logins.find(controller) if controller else logins.current()
