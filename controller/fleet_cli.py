"""Command group `parkfleet fleet`: ask the controller about the fleet's gateways."""

from pathlib import Path
from typing import Annotated

import typer

from parkfleet.controller import (
    api_token_cli,
    audit_cli,
    config_cli,
    gateway_cli,
    remote_cli,
    secret_cli,
    sign_in_cli,
    token_cli,
    user_cli,
)
from parkfleet.controller.call import CA_VARIABLE, DEFAULT, Controller, fleet_client, run_call

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback(epilog="Example: parkfleet fleet --ca /var/lib/parkfleet/ca.pem list --controller fleet.example.org:7445")
def group(
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificate of the controller's authority: ca.pem of its data folder.", envvar=CA_VARIABLE),
    ] = None,
) -> None:
    """Ask the controller about the fleet's gateways."""
    import os

    if ca is not None:
        os.environ[CA_VARIABLE] = str(ca)


app.add_typer(config_cli.app, name="config")
app.add_typer(gateway_cli.app, name="gateway")
app.add_typer(secret_cli.app, name="secret")
app.add_typer(sign_in_cli.app)  # login, logout, whoami
app.add_typer(user_cli.app, name="user")
app.add_typer(api_token_cli.app, name="api-token")
app.add_typer(audit_cli.app, name="audit")
app.add_typer(token_cli.app, name="token")
app.add_typer(remote_cli.app)  # logs, scan, read, replay, restart, capture

Park = Annotated[str, typer.Option(help="Only this park's gateways.")]

_EXIT_CODES = "Exit codes: 0 done, 1 no controller answers, 2 wrong usage, 3 the controller refused."

_EXAMPLE_LIST = f"""Examples:

    parkfleet fleet list

    parkfleet fleet list --controller 127.0.0.1:7443 --park demo

    parkfleet fleet list --json | jq -r '.[] | select(.state == "offline") | .gateway'

With --json, times are milliseconds UTC; docs/controller.md lists the keys.

{_EXIT_CODES}"""


@app.command("list", epilog=_EXAMPLE_LIST)
def list_gateways(
    controller: Controller = DEFAULT,
    park: Park = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for scripts.")] = False,
) -> None:
    """List the gateways the controller has seen since it started."""
    import json

    async def ask() -> None:
        async with fleet_client(controller) as fleet:
            gateways = await fleet.list_gateways(park)
        if as_json:
            typer.echo(json.dumps([gateway.as_json() for gateway in gateways], ensure_ascii=False))
            return
        from parkfleet.controller.table import print_gateways

        print_gateways(gateways)

    run_call(controller, ask())


_EXAMPLE_WATCH = f"""Examples:

    parkfleet fleet watch

    parkfleet fleet watch --park demo --json

One line for each gateway as it is, then one whenever it comes, goes, or (with --json) reports. Ends with Ctrl-C.

{_EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_WATCH)
def watch(
    controller: Controller = DEFAULT,
    park: Park = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, also for every heartbeat.")] = False,
) -> None:
    """Watch gateways come and go, as it happens."""
    import json

    from parkfleet.controller.table import change_line

    async def follow() -> None:
        states: dict[tuple[str, str], tuple[str, int]] = {}
        async with fleet_client(controller) as fleet:
            async for gateway in fleet.watch(park):
                state = (gateway.state, gateway.since)
                if as_json:
                    typer.echo(json.dumps(gateway.as_json(), ensure_ascii=False))
                elif states.get((gateway.park, gateway.gateway)) != state:
                    typer.echo(change_line(gateway))
                states[gateway.park, gateway.gateway] = state

    run_call(controller, follow())
