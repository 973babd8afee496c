"""Command group `parkfleet fleet audit`: what was done at a controller, by whom; and whether that is all of it."""

import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import past_ms
from parkfleet.controller.operators_call import EXIT_CODES, Json, echo_json, print_table, with_operators

if TYPE_CHECKING:
    from parkfleet.controller.audit_chain import Head
    from parkfleet.controller.operators_client import OperatorsClient

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The audit log: every change and every refused attempt, in a chain that shows what was tampered with.",
    epilog="Example: parkfleet fleet audit list --since 1d --park p1",
)

#: The most entries that one `list` fetches; `export` has all.
MOST: Final = 5000

_EXAMPLE_LIST = f"""Examples:

    parkfleet fleet audit list --since 1d --park p1

    parkfleet fleet audit list --result refused --json | jq -r '.[] | "\\(.peer) \\(.action) \\(.detail)"'

The newest first. RESULT is done, failed (allowed, but not done), refused, or begun (nobody knows how it ended: the
controller stopped in the middle).

{EXIT_CODES}"""


@app.command("list", epilog=_EXAMPLE_LIST)
def list_entries(
    since: Annotated[str, typer.Option(help="2026-11-23T14:00, or 2h for ago.")] = "",
    user: Annotated[str, typer.Option(help="Only what this user did.")] = "",
    park: Annotated[str, typer.Option(help="Only what was done to this park.")] = "",
    action: Annotated[str, typer.Option(help="Its beginning: FleetConfiguration/, Operators/SignIn.")] = "",
    result: Annotated[str, typer.Option(help="done, failed, refused or begun.")] = "",
    limit: Annotated[int, typer.Option(help="So many entries, the newest.", min=1, max=MOST)] = 50,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """List what was done or refused, the newest first."""
    from parkfleet.proto import operators_pb2 as pb

    request = pb.ListEntriesRequest(
        since_ms=past_ms(since, "--since") if since else 0, user=user, park=park, action=action, result=result
    )

    async def work(client: "OperatorsClient") -> None:
        found: list[Any] = []
        while len(found) < limit:
            request.limit = min(50, limit - len(found))
            entries = (await client.call("ListEntries", request)).entries
            found.extend(entries)
            if len(entries) < request.limit:
                break
            request.before = entries[-1].number
        if as_json:
            echo_json([{field.name: getattr(one, field.name) for field in one.DESCRIPTOR.fields} for one in found])
            return
        print_table(("TIME", "WHO", "FROM", "ACTION", "RESULT", "OF", "WHY"), map(_row, found))

    with_operators(controller, work)


@app.command(
    epilog=f"Example:\n\n    parkfleet fleet audit head >> /mnt/elsewhere/parkfleet-audit-heads\n\n{EXIT_CODES}"
)
def head(controller: Controller = DEFAULT) -> None:
    """Print the end of the log, NUMBER:HASH. Kept elsewhere, it shows later whether anything before it was changed."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("GetHead", pb.GetHeadRequest())
        typer.echo(f"{answer.number}:{answer.hash}")

    with_operators(controller, work)


_EXAMPLE_EXPORT = f"""Examples:

    parkfleet fleet audit export audit.jsonl

    parkfleet fleet audit export - --after 5000 | gzip > audit-from-5001.jsonl.gz

One JSON object a line, in order; docs/operators.md says how its hash is made.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_EXPORT)
def export(
    file: Annotated[Path, typer.Argument(help="A new file; - writes here.", metavar="FILE")],
    after: Annotated[int, typer.Option(help="Only entries after this number.", min=0)] = 0,
    controller: Controller = DEFAULT,
) -> None:
    """Write the log as JSON lines."""
    if str(file) != "-" and file.exists():
        raise typer.BadParameter(f"{file} is there already: choose another name", param_hint="FILE")

    async def work(client: "OperatorsClient") -> None:
        if str(file) == "-":
            async for line in client.export(after):
                typer.echo(line)
            return
        partial = file.with_name(f"{file.name}.partial")
        count = 0
        with partial.open("w", encoding="utf-8") as output:
            async for line in client.export(after):
                output.write(f"{line}\n")
                count += 1
        partial.rename(file)
        typer.echo(f"{count} entries in {file}")

    with_operators(controller, work)


_EXAMPLE_VERIFY = f"""Examples:

    parkfleet fleet audit verify

    parkfleet fleet audit verify --heads /mnt/elsewhere/parkfleet-audit-heads

    parkfleet fleet audit verify audit.jsonl

Fetches every entry and reckons each hash here, without the controller's help. A chain alone does not show that its end
was cut off, or that somebody wrote all of it anew: heads that were kept elsewhere do, one a line as `audit head` prints
them.

{EXIT_CODES.replace("3 refused", "3 refused, or the log is not whole")}"""


@app.command(epilog=_EXAMPLE_VERIFY)
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(help="An export from its first entry on; without it, the controller.", metavar="FILE"),
    ] = None,
    heads: Annotated[Path | None, typer.Option(help="File with heads that were kept; - reads them here.")] = None,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Check the log's chain, and tell the first entry that is wrong."""
    from parkfleet.controller.audit_chain import BrokenChainError

    kept = _heads(heads)
    broken: list[str] = []
    end: list[Head] = []

    async def work(client: "OperatorsClient | None") -> None:
        try:
            end.append(await _checked(_lines(file) if client is None or file else client.export(), kept))
        except BrokenChainError as error:
            broken.append(str(error))

    if file is not None:
        import asyncio

        asyncio.run(work(None))
    else:
        with_operators(controller, work)
    if as_json:
        number, digest = end[0] if end else (None, None)
        echo_json({"whole": not broken, "entries": number, "hash": digest, "problem": broken[0] if broken else None})
    elif broken:
        typer.echo(f"NOT whole: {broken[0]}", err=True)
    else:
        more = f", and {len(kept)} kept heads are in it" if kept else "; keep its head elsewhere: `fleet audit head`"
        typer.echo(f"whole: {end[0].number} entries, to {end[0]}{more}")
    if broken:
        raise typer.Exit(3)


async def _checked(lines: AsyncIterable[str], kept: "list[Head]") -> "Head":
    """Raises BrokenChainError."""
    from parkfleet.controller.audit_chain import BrokenChainError, ChainCheck

    check = ChainCheck(kept)
    async for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            raise BrokenChainError(f"entry {check.head.number + 1} is the first that is wrong: no JSON") from None
        check.take(record)
        if check.head.number % 5000 == 0 and sys.stderr.isatty():
            typer.echo(f"{check.head.number} entries\r", err=True, nl=False)
    return check.finish()


async def _lines(file: Path | None) -> AsyncIterator[str]:
    assert file is not None
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield line
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no export: it is not UTF-8 text", param_hint="FILE") from None


def _heads(file: Path | None) -> "list[Head]":
    from parkfleet.controller.audit_chain import Head
    from parkfleet.controller.config_files import read_text

    if file is None:
        return []
    try:
        return [Head.parse(line) for line in read_text(file).splitlines() if line.strip()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--heads") from None


def _row(entry: Any) -> tuple[str, ...]:
    from parkfleet.controller.config_report import moment_text

    why = "; ".join(word for word in (entry.reason, entry.detail) if word)
    return moment_text(entry.at_ms), entry.actor, entry.peer, entry.action, entry.result, entry.target, why
