"""Command group `parkfleet fleet user`: who may do what at a controller."""

from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller import certificate_cli
from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.operators_call import (
    EXIT_CODES,
    Grants,
    GrantText,
    Json,
    Reason,
    Stdin,
    ask_password,
    echo_json,
    print_table,
    with_operators,
)

if TYPE_CHECKING:
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto import operators_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="People: who may see, change and decide what at a controller.",
    epilog="Example: parkfleet fleet user add bob --grant operator@park/p1 --reason 'new in the team'",
)

app.add_typer(certificate_cli.app, name="certificate")

Name = Annotated[str, typer.Argument(help="Small letters, digits, '_', '.', '@' or '-'.", metavar="USER")]

_EXAMPLE_ADD = f"""Examples:

    parkfleet fleet user add bob --grant operator@park/p1 --grant viewer@fleet --reason "new in the team"

    pass show parkfleet/bob | parkfleet fleet user add bob --grant viewer@fleet --password-stdin

Roles: viewer sees; operator changes configurations, enrols gateways and works on them from afar; admin decides on
people and secrets and reads the audit log. Scopes: fleet, region/NAME, park/NAME. Without --password-stdin the
controller makes a password, which is shown once: give it to bob, who chooses another with `fleet user password`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_ADD)
def add(
    name: Name,
    grants: Grants = None,
    reason: Reason = "",
    password_stdin: Stdin = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Add a user."""
    from parkfleet.proto import operators_pb2 as pb

    password = ask_password("", from_stdin=True) if password_stdin else ""
    request = pb.AddUserRequest(user=name, password=password, grants=grants or (), reason=reason)

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("AddUser", request)
        if as_json:
            echo_json({**user_json(answer.user), "password": answer.password or None})
            return
        typer.echo(user_line(answer.user))
        _tell_password(answer.password)

    with_operators(controller, work)


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet user list --json\n\n{EXIT_CODES}")
def list_users(controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """List the users whom you may manage, in part at least."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("ListUsers", pb.ListUsersRequest())
        if as_json:
            echo_json([user_json(user) for user in answer.users])
            return
        rows = ((one.name, "yes" if one.enabled else "disabled", ", ".join(one.grants)) for one in answer.users)
        print_table(("USER", "ENABLED", "GRANTS"), rows)

    with_operators(controller, work)


@app.command(
    epilog=f"Example:\n\n    parkfleet fleet user grant bob operator@region/north --reason nights\n\n{EXIT_CODES}"
)
def grant(name: Name, grant: GrantText, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Give a user a role in a scope; it holds from the next call on."""
    _change_grant(name, grant, reason, controller, revoke=False)


@app.command(
    "revoke-grant",
    epilog=f"Example:\n\n    parkfleet fleet user revoke-grant bob operator@park/p1 --reason moved\n\n{EXIT_CODES}",
)
def revoke_grant(name: Name, grant: GrantText, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Take a role in a scope away; it is gone from the next call on, also for the user's API tokens."""
    _change_grant(name, grant, reason, controller, revoke=True)


@app.command(epilog=f"Example:\n\n    parkfleet fleet user disable bob --reason 'left the company'\n\n{EXIT_CODES}")
def disable(name: Name, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Let a user in no longer, by no session and no API token. Users are never removed: the history names them."""
    _enable(name, False, reason, controller)


@app.command(epilog=f"Example:\n\n    parkfleet fleet user enable bob --reason 'is back'\n\n{EXIT_CODES}")
def enable(name: Name, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Let a user in again."""
    _enable(name, True, reason, controller)


_EXAMPLE_PASSWORD = f"""Examples:

    parkfleet fleet user password

    parkfleet fleet user password bob --reason "forgot it"

Without a name it is your own, and asks for the one that holds and for the new one (with --password-stdin: two lines).
With a name the controller makes one, which is shown once; that takes admin over all that the user may do. All other
sessions of the user end.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_PASSWORD)
def password(
    name: Annotated[str, typer.Argument(help="Somebody else's; without it, your own.", metavar="USER")] = "",
    reason: Reason = "",
    password_stdin: Stdin = False,
    controller: Controller = DEFAULT,
) -> None:
    """Change your password, or give somebody a new one."""
    from parkfleet.proto import operators_pb2 as pb

    request = pb.SetPasswordRequest(user=name, reason=reason)
    if not name:
        request.current = ask_password("Password that holds", from_stdin=password_stdin)
        request.password = ask_password("New password", twice=True, from_stdin=password_stdin)
    elif password_stdin:
        request.password = ask_password("", from_stdin=True)

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("SetPassword", request)
        typer.echo(f"the password of {name} was changed" if name else "your password was changed")
        _tell_password(answer.password)

    with_operators(controller, work)


def user_json(user: "operators_pb2.User") -> dict[str, object]:
    """A user, as it stands in --json."""
    words = {"user": user.name, "enabled": user.enabled, "grants": list(user.grants)}
    return {**words, "created_at": user.created_ms}


def user_line(user: "operators_pb2.User") -> str:
    """A user in one line."""
    held = ", ".join(user.grants) or "may do nothing yet: `parkfleet fleet user grant`"
    return f"{user.name}{'' if user.enabled else ' (disabled)'}: {held}"


def _change_grant(name: str, grant: str, reason: str, controller: str, revoke: bool) -> None:
    from parkfleet.proto import operators_pb2 as pb

    request = pb.ChangeGrantRequest(user=name, grant=grant, revoke=revoke, reason=reason)

    async def work(client: "OperatorsClient") -> None:
        typer.echo(user_line(await client.call("ChangeGrant", request)))

    with_operators(controller, work)


def _enable(name: str, enabled: bool, reason: str, controller: str) -> None:
    from parkfleet.proto import operators_pb2 as pb

    request = pb.EnableUserRequest(user=name, enabled=enabled, reason=reason)

    async def work(client: "OperatorsClient") -> None:
        typer.echo(user_line(await client.call("EnableUser", request)))

    with_operators(controller, work)


def _tell_password(made: str) -> None:
    if made:
        typer.echo(f"password, shown this once: {made}")
