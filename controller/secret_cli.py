"""Command group `parkfleet fleet secret`: what a configuration refers to as ${secret:NAME}."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import EXIT_CODES, Json, Reason, author, echo_json, with_client

if TYPE_CHECKING:
    from parkfleet.controller.config_client import ConfigClient
    from parkfleet.proto import config_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Secrets that a configuration refers to as ${secret:NAME}; nobody can read them back.",
    epilog="Example: parkfleet fleet secret set mqtt --file password.txt --reason login",
)

Name = Annotated[str, typer.Argument(help="1 to 64 letters, digits, '_' or '-'.", metavar="NAME")]

_EXAMPLE_SET = f"""Examples:

    parkfleet fleet secret set mqtt --file password.txt --reason "new broker"

    pass show broker | parkfleet fleet secret set mqtt --file - --reason "new broker"

The value never stands on a command line. A line's end at the end of the file is left away. Gateways that use the
secret get the new one at once, on trial like any other change.

{EXIT_CODES}"""


@app.command("set", epilog=_EXAMPLE_SET)
def set_secret(
    name: Name,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="File with the value; - reads it here.")] = None,
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """Keep a secret, encrypted; asks for it without --file."""
    from parkfleet.controller.config_files import read_bytes
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        value = str(typer.prompt("Value", hide_input=True)).encode() if file is None else read_bytes(file)
        value = value.removesuffix(b"\n").removesuffix(b"\r")
        request = pb.SetSecretRequest(name=name, value=value, author=author(), reason=reason)
        typer.echo(_line(await client.call("SetSecret", request)))

    with_client(controller, work)


@app.command(epilog=f"Example:\n\n    parkfleet fleet secret remove mqtt --reason unused\n\n{EXIT_CODES}")
def remove(name: Name, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Forget a secret."""
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        request = pb.SetSecretRequest(name=name, remove=True, author=author(), reason=reason)
        typer.echo(_line(await client.call("SetSecret", request)))

    with_client(controller, work)


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet secret list --json\n\n{EXIT_CODES}")
def list_secrets(controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """List the secrets that are there, without their values."""
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        answer = await client.call("ListSecrets", pb.ListSecretsRequest())
        if as_json:
            keys = ("name", "revision", "author", "reason")
            echo_json([{**{key: getattr(one, key) for key in keys}, "at": one.at_ms} for one in answer.secrets])
        for one in answer.secrets if not as_json else ():
            typer.echo(_line(one))
        if not answer.secrets and not as_json:
            typer.echo("no secret yet", err=True)

    with_client(controller, work)


def _line(info: "config_pb2.SecretInfo") -> str:
    from parkfleet.controller.config_report import moment_text

    return f"{info.name:24} revision {info.revision}  {moment_text(info.at_ms)}  {info.author}: {info.reason}"
