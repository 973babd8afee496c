"""Commands of `parkfleet fleet config` that only ask: show, diff, history, effective, validate, why."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import (
    EXIT_CODES,
    At,
    GatewayName,
    Json,
    Layer,
    echo_json,
    moment_message,
    progress,
    split_gateway,
    told_problems,
    with_client,
)

if TYPE_CHECKING:
    from parkfleet.controller.config_client import ConfigClient

app = typer.Typer()


@app.command(epilog=f"Example:\n\n    parkfleet fleet config show park/p1 --at 2026-11-01\n\n{EXIT_CODES}")
def show(layer: Layer, at: At = "", controller: Controller = DEFAULT) -> None:
    """Print a layer, now or at a past moment, as it can be edited."""
    from parkfleet.controller.config_report import revision_line
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        answer = await client.call("GetLayer", pb.GetLayerRequest(layer=layer, moment=moment_message(at)))
        info = answer.info
        typer.echo(f"# {layer}, {revision_line(info) if info.revision else 'nothing was ever said here'}")
        typer.echo(answer.document, nl=False)

    with_client(controller, work)


@app.command(epilog=f"Example:\n\n    parkfleet fleet config diff park/p1 41 47\n\n{EXIT_CODES}")
def diff(
    layer: Layer,
    before: Annotated[int, typer.Argument(help="Revision; default: the one before AFTER.", min=0)] = 0,
    after: Annotated[int, typer.Argument(help="Revision; default: the one that holds.", min=0)] = 0,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what changed in a layer between two revisions; by default with its last one."""
    from parkfleet.controller.config_client import change_json, info_json
    from parkfleet.controller.config_report import change_line, revision_line
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        answer = await client.call("DiffLayer", pb.DiffLayerRequest(layer=layer, before=before, after=after))
        if as_json:
            ends = {"before": info_json(answer.before), "after": info_json(answer.after)}
            echo_json({**ends, "changes": [change_json(change) for change in answer.changes]})
            return
        typer.echo(f"from {revision_line(answer.before) if answer.before.revision else 'nothing'}")
        typer.echo(f"to   {revision_line(answer.after)}")
        for change in answer.changes:
            typer.echo(f"  {change_line(change)}")

    with_client(controller, work)


@app.command(epilog=f"Example:\n\n    parkfleet fleet config history gateway/p1/gw-01\n\n{EXIT_CODES}")
def history(
    layer: Layer,
    limit: Annotated[int, typer.Option(help="So many revisions, the newest.", min=1, max=200)] = 20,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Show who changed a layer, when, why and what, the newest first."""
    from parkfleet.controller.config_client import change_json, info_json
    from parkfleet.controller.config_report import change_line, revision_line
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        answer = await client.call("GetHistory", pb.GetHistoryRequest(layer=layer, limit=limit))
        if as_json:
            entries = answer.entries
            echo_json([{**info_json(e.info), "changes": [change_json(c) for c in e.changes]} for e in entries])
            return
        for entry in answer.entries:
            typer.echo(revision_line(entry.info))
            for change in entry.changes:
                typer.echo(f"  {change_line(change)}")
        if not answer.entries:
            typer.echo(f"{layer} has no revision yet", err=True)

    with_client(controller, work)


_EXAMPLE_EFFECTIVE = f"""Examples:

    parkfleet fleet config effective p1/gw-01

    parkfleet fleet config effective p1/gw-01 --at 2026-11-01T12:00 --json

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_EFFECTIVE)
def effective(gateway: GatewayName, at: At = "", controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """Print what a gateway should run, what it is made of, and what it reports; now or at a past moment."""
    from parkfleet.controller.config_client import info_json, problem_of
    from parkfleet.controller.config_report import moment_text, revision_line
    from parkfleet.proto import config_pb2 as pb

    park, name = split_gateway(gateway)

    async def work(client: "ConfigClient") -> None:
        request = pb.GetEffectiveRequest(park=park, gateway=name, moment=moment_message(at))
        answer = await client.call("GetEffective", request)
        reported = answer.reported if answer.HasField("reported") else None
        if as_json:
            import yaml

            keys = ("at_ms", "revision", "hash", "state", "reason")
            echo_json(
                {
                    "managed": answer.managed,
                    "desired": {"revision": answer.revision, "hash": answer.hash},
                    "document": yaml.safe_load(answer.document) if answer.managed else None,
                    "layers": [info_json(info) for info in answer.layers],
                    "problems": [problem_of(problem)._asdict() for problem in answer.problems],
                    "reported": reported and {key: getattr(reported, key) for key in keys},
                }
            )
            return
        if not answer.managed:
            typer.echo(f"# {gateway} is not managed: it has no layer gateway/{gateway}, and runs its local file")
        for info in answer.layers:
            typer.echo(f"# {info.layer}, {revision_line(info)}")
        if reported:
            why = f": {reported.reason}" if reported.reason else ""
            said = f"revision {reported.revision}" if reported.revision else "its local file"
            typer.echo(f"# reported {moment_text(reported.at_ms)}: {said}, {reported.state}{why}")
        typer.echo(answer.document, nl=False)
        for problem in answer.problems:
            typer.echo(f"{'warning: ' if problem.warning else ''}{problem_of(problem)}", err=True)

    with_client(controller, work)


_EXAMPLE_WHY = f"""Example:

    parkfleet fleet config why p1/gw-01 'meters[m01].interval'

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_WHY)
def why(
    gateway: GatewayName,
    key: Annotated[str, typer.Argument(help="buffer.flush, meters[m01].interval, broker")],
    at: At = "",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Tell which layer, revision, author and reason a value comes from, and what it overrules."""
    from parkfleet.controller.config_client import info_json
    from parkfleet.controller.config_report import why_lines
    from parkfleet.proto import config_pb2 as pb

    park, name = split_gateway(gateway)

    async def work(client: "ConfigClient") -> None:
        request = pb.ExplainRequest(park=park, gateway=name, key=key, moment=moment_message(at))
        answer = await client.call("Explain", request)
        if as_json:
            sayings = [{**info_json(one.info), "value": json.loads(one.value)} for one in answer.sayings]
            echo_json({"sayings": sayings, "default": json.loads(answer.model_default or "null")})
            return
        for line in why_lines(answer, gateway, key):
            typer.echo(line)

    with_client(controller, work)


_EXAMPLE_VALIDATE = f"""Examples:

    parkfleet fleet config validate

    parkfleet fleet config validate p1/gw-01

    parkfleet fleet config validate park/p1 --file p1.yaml

With --file, it is what `config edit --dry-run` would say of mistakes.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_VALIDATE)
def validate(
    what: Annotated[str, typer.Argument(help="PARK, PARK/GATEWAY, or with --file a LAYER.", metavar="WHAT")] = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A layer to check as if it were stored.")] = None,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Check documents by the agent's own rules: of gateways as they are, or as a file would make them."""
    from parkfleet.controller.config_files import read_text
    from parkfleet.proto import config_pb2 as pb

    async def work(client: "ConfigClient") -> None:
        if file is not None:
            request = pb.ChangeLayerRequest(layer=what, dry_run=True, document=read_text(file), file=str(file))
            outcome = await client.change(request, progress)
        else:
            park, _, name = what.partition("/")
            outcome = await client.validate(park, name, progress)
        if as_json:
            echo_json(outcome.as_json())
        for warning in outcome.warnings if not as_json else ():
            typer.echo(f"warning: {warning}")
        if outcome.good and not as_json:
            typer.echo(f"{outcome.result.gateways} gateways checked: good")
        told_problems(outcome, "mend them", as_json)

    with_client(controller, work)
