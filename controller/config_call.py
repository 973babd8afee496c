"""Config call: what the commands of the configuration have in common: arguments, connection, how mistakes are told."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parkfleet.controller.call import fleet_client, run_call

if TYPE_CHECKING:
    from parkfleet.controller.config_client import ConfigClient, Outcome
    from parkfleet.proto import config_pb2

Layer = Annotated[str, typer.Argument(help="region/NAME, park/NAME, label/NAME or gateway/PARK/NAME.", metavar="LAYER")]
GatewayName = Annotated[str, typer.Argument(help="PARK/NAME.", metavar="GATEWAY")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change for each gateway; store nothing.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; stands in the history for ever.")]
At = Annotated[str, typer.Option("--at", help="A past moment: 2026-11-23T14:00, a revision number, or 2h for ago.")]

EXIT_CODES = "Exit codes: 0 done, 1 no controller answers, 2 wrong usage, 3 refused, or the configuration has mistakes."


def told_problems(outcome: "Outcome", consequence: str, as_json: bool) -> None:
    """Tells the mistakes, if there are any, and exits with 3."""
    if outcome.good:
        return
    if not as_json:
        for problem in outcome.problems:
            typer.echo(str(problem), err=True)
        count = outcome.result.problems
        typer.echo(f"{count} mistake{'s' if count > 1 else ''}: {consequence}", err=True)
    raise typer.Exit(3)


def progress(done: int, of: int) -> None:
    """On a terminal, for what takes longer than a moment."""
    if sys.stderr.isatty() and of > 100:
        end = "\r" if done < of else "\n"
        typer.echo(f"{done} of {of} gateways{end}", err=True, nl=False)


def author() -> str:
    """Who we are here; a controller at which people sign in takes that name instead."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def echo_json(data: object) -> None:
    """For scripts."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def with_client(controller: str, work: Callable[["ConfigClient"], Awaitable[Any]]) -> None:
    """Runs it with a connection; every failure becomes a sentence and an exit code."""
    from parkfleet.controller.config_client import ConfigClient

    async def connected() -> None:
        async with fleet_client(controller) as fleet:
            await work(ConfigClient(fleet))

    run_call(controller, connected())


def split_gateway(name: str) -> tuple[str, str]:
    """(park, gateway) of PARK/NAME. Ends the command when it is none."""
    park, slash, gateway = name.partition("/")
    if not slash or not park or not gateway or "/" in gateway:
        raise typer.BadParameter(f"expected PARK/NAME such as p1/gw-01, got {name!r}", param_hint="GATEWAY")
    return park, gateway


def moment_message(at: str) -> "config_pb2.Moment":
    """A moment as people write it: a time, a revision's number, or how long ago. Ends the command when it is none."""
    from parkfleet.proto import config_pb2 as pb

    if not at:
        return pb.Moment()
    if at.isascii() and at.isdigit() and len(at) < 10:
        return pb.Moment(revision=int(at))
    return pb.Moment(at_ms=past_ms(at, "--at", ", a revision's number"))


def past_ms(text: str, option: str, otherwise: str = "") -> int:
    """A past time as people write it, ms UTC: a time, or how long ago. Ends the command when it is none."""
    import time
    from datetime import datetime

    from parkfleet.protocols.quantity import Duration

    try:
        return max(0, int((time.time() - Duration.parse(text)) * 1000))
    except ValueError:
        pass
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        told = f"expected a time such as 2026-11-23T14:00{otherwise}, or 2h for two hours ago, got {text!r}"
        raise typer.BadParameter(told, param_hint=option) from None
