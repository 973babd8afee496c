"""Command group `parkfleet fleet config`: change the layers of the fleet's configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller import config_query_cli
from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import (
    EXIT_CODES,
    DryRun,
    Json,
    Layer,
    Reason,
    author,
    echo_json,
    progress,
    told_problems,
    with_client,
)

if TYPE_CHECKING:
    from parkfleet.controller.config_client import ConfigClient
    from parkfleet.proto import config_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Change the gateways' configuration, and see who changed what.",
    epilog="Example: parkfleet fleet config set park/p1 buffer.flush=10s --dry-run",
)
app.add_typer(config_query_cli.app)  # show, diff, history, effective, validate, why


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet config list\n\n{EXIT_CODES}")
def list_layers(
    prefix: Annotated[str, typer.Argument(help="Only layers whose name begins so: park/, gateway/p1/.")] = "",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """List the layers with their newest revision."""
    from parkfleet.controller.config_client import info_json
    from parkfleet.controller.config_report import revision_line
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        answer = await client.call("ListLayers", pb.ListLayersRequest(prefix=prefix))
        if as_json:
            echo_json([info_json(info) for info in answer.layers])
        for info in answer.layers if not as_json else ():
            typer.echo(f"{info.layer:32} {revision_line(info)}")
        if not answer.layers and not as_json:
            typer.echo("No layer yet. Begin with `parkfleet fleet config edit region/NAME`.", err=True)

    with_client(controller, work)


_EXAMPLE_EDIT = f"""Examples:

    parkfleet fleet config edit park/p1

    parkfleet fleet config edit gateway/p1/gw-01 --file gateway.yaml --reason "new heat meters" --dry-run

Without --file, the layer opens in $EDITOR. What would change is shown for each gateway before it is stored; a mistake
is told with file, line and remedy, and nothing is stored.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_EDIT)
def edit(
    layer: Layer,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The whole layer, YAML; - reads it here.")] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Write a layer anew, from a file or in an editor."""
    from parkfleet.controller.config_files import edited, read_text
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        request = _change(layer, reason, dry_run)
        if file is not None:
            request.document, request.file = read_text(file), str(file)
        else:
            before = await client.call("GetLayer", pb.GetLayerRequest(layer=layer))
            path = edited(layer, before.document)
            if path is None:
                typer.echo("not changed")
                return
            request.base = before.info.revision
            request.document, request.file = path.read_text("utf-8"), str(path)
        if not request.reason and not dry_run:
            request.reason = _asked_reason()
        await _propose(client, request, as_json)
        if file is None:
            Path(request.file).unlink(missing_ok=True)

    with_client(controller, work)


_EXAMPLE_SET = f"""Examples:

    parkfleet fleet config set park/p1 buffer.flush=10s --reason "less data on 4G"

    parkfleet fleet config set gateway/p1/gw-01 'meters[m01].interval=1s' 'meters[m07]=null' --dry-run

    parkfleet fleet config set label/lte --unset buffer.flush --reason "tried enough"

Values are YAML; null removes what the layers below say, --unset lets them hold again.

{EXIT_CODES}"""


@app.command("set", epilog=_EXAMPLE_SET)
def set_values(
    layer: Layer,
    settings: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE", metavar="KEY=VALUE...")] = None,
    unset: Annotated[list[str] | None, typer.Option(help="A key of which the layer says nothing any more.")] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Change single values of a layer."""

    async def work(client: "ConfigClient") -> None:
        request = _change(layer, reason, dry_run)
        for setting in settings or ():
            key, _, value = setting.partition("=")
            request.settings.settings.add(key=key, value=value)
        for key in unset or ():
            request.settings.settings.add(key=key, unset=True)
        await _propose(client, request, as_json)

    if not settings and not unset:
        raise typer.BadParameter("nothing to change: add KEY=VALUE, or --unset KEY", param_hint="KEY=VALUE")
    for setting in settings or ():
        if "=" not in setting:
            raise typer.BadParameter(f"expected KEY=VALUE, got {setting!r}", param_hint="KEY=VALUE")
    with_client(controller, work)


_EXAMPLE_ROLLBACK = f"""Example:

    parkfleet fleet config rollback park/p1 41 --reason "meters at p1 went silent"

Rolling back is a new revision with the words of an old one: the history stays whole.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_ROLLBACK)
def rollback(
    layer: Layer,
    revision: Annotated[int, typer.Argument(help="The revision whose words shall hold again.", min=1)],
    reason: Reason = "",
    dry_run: DryRun = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Let a layer say again what it said in an old revision."""

    async def work(client: "ConfigClient") -> None:
        request = _change(layer, reason, dry_run)
        request.rollback = revision
        await _propose(client, request, as_json)

    with_client(controller, work)


def _change(layer: str, reason: str, dry_run: bool) -> "config_pb2.ChangeLayerRequest":
    """A change without what it changes."""
    from parkfleet.proto import config_pb2 as pb

    return pb.ChangeLayerRequest(layer=layer, author=author(), reason=reason, dry_run=dry_run)


async def _propose(client: "ConfigClient", request: "config_pb2.ChangeLayerRequest", as_json: bool) -> None:
    """Makes a change and tells what it does; exits with 3 when there are mistakes."""
    from parkfleet.controller.config_report import outcome_lines

    outcome = await client.change(request, progress)
    if as_json:
        echo_json(outcome.as_json())
    else:
        for line in outcome_lines(outcome, request.layer, request.dry_run):
            typer.echo(line)
    told_problems(outcome, "nothing was stored", as_json)


def _asked_reason() -> str:
    if not sys.stdin.isatty():
        return ""  # the controller tells that a reason is needed
    return str(typer.prompt("Reason (stands in the history for ever)"))
