"""Commands `parkfleet fleet login`, `logout`, `whoami`: who this user is at a controller."""

from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller.call import DEFAULT, Controller, address_of, ca_of, fleet_client, run_call
from parkfleet.controller.operators_call import (
    EXIT_CODES,
    Json,
    Stdin,
    ask_password,
    echo_json,
    with_operators,
)

if TYPE_CHECKING:
    from parkfleet.controller.operators_client import OperatorsClient

app = typer.Typer()

#: Where operators reach a controller that was started with `--data` and no other options.
LOGIN_HERE = "127.0.0.1:7445"

_EXAMPLE_LOGIN = f"""Examples:

    parkfleet fleet login --user alice

    parkfleet fleet --ca ca.pem login --user alice --controller fleet.example.org:7445

    pass show parkfleet | parkfleet fleet login --user alice --password-stdin

Keeps the session for twelve hours in ~/.config/parkfleet/logins.json, readable for you alone, with the controller's
address and the certificate of its authority: commands after it need neither. Scripts use API tokens instead:
`parkfleet fleet api-token create --help`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_LOGIN)
def login(
    user: Annotated[str, typer.Option("--user", "-u", help="Your name at the controller.", prompt="User")],
    controller: Controller = DEFAULT,
    password_stdin: Stdin = False,
) -> None:
    """Sign in at a controller."""
    from parkfleet.controller.logins import Login, Logins
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto import operators_pb2 as pb

    password = ask_password("Password", from_stdin=password_stdin)

    async def work() -> None:
        address = address_of(controller, LOGIN_HERE)
        async with fleet_client(address) as fleet:
            request = pb.SignInRequest(user=user.strip(), password=password)
            answer = await OperatorsClient(fleet).call("SignIn", request)
        person = answer.person
        Logins.mine().keep(Login(address, person.user, answer.token, person.expires_ms, ca_of(address).decode()))
        held = ", ".join(person.grants) or "nothing: ask an admin for a grant"
        typer.echo(f"{person.user} is signed in at {address}: {held}")

    run_call(controller, work())


_EXAMPLE_LOGOUT = f"""Example:

    parkfleet fleet logout

The session is ended at the controller and forgotten here. The address and the authority's certificate are kept.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_LOGOUT)
def logout(controller: Controller = DEFAULT) -> None:
    """End the session at a controller."""
    from dataclasses import replace

    from parkfleet.controller.client import SignedOutError, UnreachableError
    from parkfleet.controller.logins import Logins
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto import operators_pb2 as pb

    async def work() -> None:
        logins, address = Logins.mine(), address_of(controller)
        login = logins.find(address)
        if login is None or not login.token:
            typer.echo(f"you were not signed in at {address}")
            return
        try:
            async with fleet_client(address) as fleet:
                await OperatorsClient(fleet).call("SignOut", pb.SignOutRequest())
        except SignedOutError:
            pass  # it had ended already
        except UnreachableError as error:
            typer.echo(f"{error}\nThe session is forgotten here, and ends there by itself within 12 hours.", err=True)
        logins.keep(replace(login, token="", expires_ms=0))
        typer.echo(f"signed out at {address}")

    run_call(controller, work())


_EXAMPLE_WHOAMI = f"""Examples:

    parkfleet fleet whoami

    parkfleet fleet whoami --json | jq -r '.grants[]'

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_WHOAMI)
def whoami(controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """Tell who you are at a controller, and what you may do."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        person = await client.call("WhoAmI", pb.WhoAmIRequest())
        if as_json:
            lists = {"grants": list(person.grants), "cap": list(person.cap)}
            words = {"user": person.user, "via": person.via, "label": person.label}
            echo_json({**words, **lists, "expires_at": person.expires_ms or None})
            return
        from parkfleet.controller.config_report import moment_text

        until = f", until {moment_text(person.expires_ms)}" if person.expires_ms else ""
        label = f" {person.label}" if person.label else ""
        typer.echo(f"{person.user} at {address_of(controller)}, by {person.via}{label}{until}")
        for grant in person.grants:
            typer.echo(f"  {grant}")
        if person.cap:
            typer.echo(f"but no more than: {', '.join(person.cap)}")

    with_operators(controller, work)
