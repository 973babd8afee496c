"""Command `parkfleet controller broker-config`: has a broker know gateways by their certificates."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_EXAMPLE = """Examples:

    sudo install -d -o mosquitto -m 0700 /etc/mosquitto/parkfleet

    sudo parkfleet controller broker-config mosquitto --data /var/lib/parkfleet --out /etc/mosquitto/parkfleet
    --name broker.example.org --consumer tsdb > /etc/mosquitto/conf.d/parkfleet.conf

    sudo systemctl restart mosquitto

Writes certificate, access list, list of revoked certificates and configuration into --out, and prints the
configuration. Call it again after a revocation, and `systemctl reload mosquitto`; docs/enrolment.md has a timer for it.
A broker on another machine: write into a folder here, and copy that to the same path there.

Exit codes: 0 done, 1 the controller's data cannot be used or the files not be written, 2 wrong usage."""


@app.command("broker-config", epilog=_EXAMPLE)
def broker_config(
    broker: Annotated[str, typer.Argument(help="mosquitto.", metavar="BROKER")],
    data: Annotated[Path, typer.Option(help="The controller's data folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the broker's files. Default: broker in --data.")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which the broker is reached. Repeatable. Default: this host's."),
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT for gateways.")] = "0.0.0.0:8883",
    consumer: Annotated[
        list[str] | None, typer.Option(help="User name of a consumer, who signs in with a password. Repeatable.")
    ] = None,
    consumers_at: Annotated[str, typer.Option(help="HOST:PORT for consumers.")] = "0.0.0.0:8884",
) -> None:
    """Make a broker know gateways by their certificates, each held to its own topics."""
    import socket
    import time

    from parkfleet.protocols.address import split_address

    if broker != "mosquitto":
        raise typer.BadParameter(f"expected mosquitto, got {broker!r}", param_hint="BROKER")
    for option, address in (("--listen", listen), ("--consumers-at", consumers_at)):
        try:
            split_address(address)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=option) from None
    try:
        from parkfleet.controller.authority import AuthorityError, check_server_name
        from parkfleet.controller.broker_config import BrokerSetup, is_consumer, mosquitto_config, write_setup
    except ModuleNotFoundError as error:
        typer.echo(f"this needs the controller's own packages ({error.name}): pip install 'parkfleet[controller]'")
        raise typer.Exit(1) from None
    names = [*(name or [socket.gethostname()]), "localhost", "127.0.0.1"]
    try:
        for one in names:
            check_server_name(one)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from None
    for one in consumer or []:
        if not is_consumer(one):
            told = f"a consumer's name is 1 to 64 letters, digits, '_', '.' or '-', got {one!r}"
            raise typer.BadParameter(told, param_hint="--consumer")
    folder = (out or data / "broker").resolve()
    setup = BrokerSetup(folder, list(dict.fromkeys(names)), listen, consumer or [], consumers_at)
    try:
        dates = write_setup(setup, data, time.time())
    except (AuthorityError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(mosquitto_config(setup), nl=False)
    typer.echo(f"files for mosquitto are in {folder}; the broker's certificate holds {dates}", err=True)
    for one in consumer or []:
        typer.echo(f"give {one} a password: mosquitto_passwd {folder}/passwords {one}", err=True)
