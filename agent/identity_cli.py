"""Commands `parkfleet agent enroll|renew|identity`: how a box becomes a gateway of a fleet, and stays one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from parkfleet.agent.identity import Credentials, IdentityFolder

app = typer.Typer(add_completion=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration; it need not exist yet.")]
Folder = Annotated[
    Path | None, typer.Option("--identity", help="Folder of key and certificate. Default: identity beside --config.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]

_EXAMPLE_ENROLL = """Examples:

    parkfleet agent enroll pfj1_…

    parkfleet agent enroll pfj1_… --gateway hall-3 --config /etc/parkfleet/gateway.yaml

    parkfleet agent enroll - < token.txt

The token comes from `parkfleet fleet token create`; - reads it here, so that it stands in no list of processes. The
key is made on this box and never leaves it. Broken off, by Ctrl-C or by the link, the same command goes on.

Exit codes: 0 enrolled, 1 no controller answers or it is not the token's, 2 wrong usage, 3 the controller refused."""


@app.command(epilog=_EXAMPLE_ENROLL)
def enroll(
    token: Annotated[str, typer.Argument(help="The join token, or - to read it here.", metavar="TOKEN")],
    gateway: Annotated[str, typer.Option(help="Its name. Default: that in --config, else the host's.")] = "",
    config: Config = Path("gateway.yaml"),
    identity: Folder = None,
    again: Annotated[bool, typer.Option("--again", help="Although this box has a certificate already.")] = False,
    as_json: Json = False,
) -> None:
    """Trade a join token for this gateway's certificate."""
    import os
    import socket
    import sys

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a failed handshake is ours to tell
    from parkfleet.agent.enrolling import Wish, enrol, wished_name
    from parkfleet.agent.identity import IdentityFolder
    from parkfleet.protocols.join_token import JoinToken, TokenError

    try:
        parsed = JoinToken.parse(sys.stdin.read(4096) if token == "-" else token)
    except TokenError as error:
        raise typer.BadParameter(str(error), param_hint="TOKEN") from None
    data = _configured(config)
    park, configured = str(data.get("park", "")), str(data.get("gateway", ""))
    if gateway and configured and gateway != configured:
        told = f"{config} says {configured}: leave --gateway away, or correct the file"
        raise typer.BadParameter(told, param_hint="--gateway")
    folder = IdentityFolder(identity or _folder(config, data))
    _refuse_second(folder, again)
    wish = Wish(wished_name(gateway, configured, socket.gethostname()), park)
    enrolment = _run(enrol(parsed, wish, folder, lambda told: typer.echo(told, err=True)))
    named = _name_controller(config, data, enrolment.enrolled.controller)
    if as_json:
        typer.echo(json.dumps(_facts(folder, enrolment.credentials)))
        return
    who = f"{enrolment.enrolled.park}/{enrolment.enrolled.gateway}"
    typer.echo(f"enrolled as {who}; the certificate in {folder.folder} holds {enrolment.credentials.validity}")
    if not named:
        typer.echo("in gateway.yaml, say:")
        typer.echo(f"  park: {enrolment.enrolled.park}\n  gateway: {enrolment.enrolled.gateway}")
        typer.echo(f"  controller: {{url: '{enrolment.enrolled.controller}'}}")
    typer.echo(f"next: parkfleet agent run --config {config}")


_EXAMPLE_RENEW = """Examples:

    parkfleet agent renew

    parkfleet agent renew --new-key

A running agent renews its certificate by itself, and calls this when its box was off past the certificate's end. By
hand it is of use after the enrolment's address has moved (--enrolment), or for a new key. The agent takes the new
certificate with its next connections.

Exit codes: 0 renewed, 1 no controller answers or it is not the right one, 2 wrong usage, 3 the controller refused."""


@app.command(epilog=_EXAMPLE_RENEW)
def renew(
    config: Config = Path("gateway.yaml"),
    identity: Folder = None,
    enrolment: Annotated[str, typer.Option(help="HOST:PORT for boxes that enrol, if it has moved.")] = "",
    new_key: Annotated[bool, typer.Option("--new-key", help="For a new key; the old certificate must hold.")] = False,
    as_json: Json = False,
) -> None:
    """Get a further certificate, by proof of this gateway's key."""
    import os

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from parkfleet.agent.enrolling import reclaim, renew_with_a_new_key
    from parkfleet.agent.identity import IdentityFolder
    from parkfleet.protocols.address import split_address

    if enrolment:
        try:
            split_address(enrolment)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--enrolment") from None
    folder = IdentityFolder(identity or _folder(config, _configured(config)))
    work = renew_with_a_new_key(folder) if new_key else reclaim(folder, enrolment)
    credentials = _run(work, as_json)
    if as_json:
        typer.echo(json.dumps({"told": "", **_facts(folder, credentials)}))
    else:
        typer.echo(f"renewed: the certificate in {folder.folder} holds {credentials.validity}")


_EXAMPLE_IDENTITY = """Example:

    parkfleet agent identity --json | jq .certificate_ends

Exit codes: 0 it holds, 1 it does not hold now, 3 this box has not enrolled, or its files are damaged."""


@app.command("identity", epilog=_EXAMPLE_IDENTITY)
def show(config: Config = Path("gateway.yaml"), identity: Folder = None, as_json: Json = False) -> None:
    """Show as whom this box is enrolled, and until when its certificate holds."""
    import time

    from parkfleet.agent.identity import IdentityError, IdentityFolder

    folder = IdentityFolder(identity or _folder(config, _configured(config)))
    try:
        credentials, enrolled = folder.credentials(), folder.enrolled()
    except IdentityError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(3) from None
    if credentials is None or enrolled is None:
        typer.echo(f"no gateway's identity in {folder.folder}: parkfleet agent enroll TOKEN", err=True)
        raise typer.Exit(3)
    holds = credentials.validity.holds(time.time())
    if as_json:
        typer.echo(json.dumps(_facts(folder, credentials)))
    else:
        typer.echo(f"{enrolled.park}/{enrolled.gateway}, controller {enrolled.controller}")
        typer.echo(f"certificate: {credentials.validity}{'' if holds else ' - it does not hold now'}")
    if not holds:
        raise typer.Exit(1)


def _run(work: Any, as_json: bool = False) -> Any:
    """Runs it; every failure becomes a sentence and an exit code."""
    import asyncio

    from parkfleet.agent.enrolling import EnrolError, UnreachableError

    try:
        return asyncio.run(work)
    except EnrolError as error:
        if as_json:
            typer.echo(json.dumps({"told": str(error)}))
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(1 if isinstance(error, UnreachableError) else 3) from None
    except KeyboardInterrupt:
        typer.echo("broken off; the same command goes on", err=True)
        raise typer.Exit(1) from None


def _configured(config: Path) -> dict[str, Any]:
    """What gateway.yaml says, as far as it can be read: it need be neither there nor complete. Ends the command if it
    is no YAML."""
    from parkfleet.protocols.document import Document, DocumentError

    if not config.exists():
        return {}
    try:
        data = Document.read(config).data
    except DocumentError as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None
    return data if isinstance(data, dict) else {}


def _folder(config: Path, data: dict[str, Any]) -> Path:
    """The identity's folder, as gateway.yaml says."""
    controller = data.get("controller")
    named = controller.get("identity") if isinstance(controller, dict) else None
    return config.resolve().parent / (named if isinstance(named, str) else "identity")


def _refuse_second(folder: "IdentityFolder", again: bool) -> None:
    """A box that has a certificate keeps it unless it is told otherwise."""
    from parkfleet.agent.identity import IdentityError

    try:
        enrolled = folder.enrolled() if folder.credentials() is not None else None
    except IdentityError:
        return  # damaged: enrolling anew is the remedy
    if enrolled is not None and not again:
        typer.echo(
            f"this box is enrolled already, as {enrolled.park}/{enrolled.gateway} ({folder.folder}): to enrol it anew, "
            "add --again",
            err=True,
        )
        raise typer.Exit(2)


def _name_controller(config: Path, data: dict[str, Any], controller: str) -> bool:
    """Has gateway.yaml name the controller where it names none; whether it names it now."""
    from parkfleet.protocols.document import Document, DocumentError
    from parkfleet.protocols.files import write_durably

    section = data.get("controller")
    if isinstance(section, dict):
        return bool(section.get("url") == controller)
    if not data or section is not None:
        return False
    try:
        text = config.read_text("utf-8")
        text += f"{'' if text.endswith(chr(10)) else chr(10)}controller: {{url: '{controller}'}}\n"
        if Document("", text).data != {**data, "controller": {"url": controller}}:
            return False  # a file in another style: its owner adds the line
        write_durably(config, text.encode(), config.stat().st_mode & 0o777)
    except (OSError, DocumentError):
        return False
    return True


def _facts(folder: "IdentityFolder", credentials: "Credentials") -> dict[str, Any]:
    """As they stand in --json; times in ms UTC."""
    enrolled = folder.enrolled()
    return {
        "park": enrolled.park if enrolled else "",
        "gateway": enrolled.gateway if enrolled else "",
        "controller": enrolled.controller if enrolled else "",
        "enrolment": enrolled.enrolment if enrolled else "",
        "identity": str(folder.folder),
        "certificate_begins": int(credentials.validity.begin * 1000),
        "certificate_ends": int(credentials.validity.end * 1000),
    }
