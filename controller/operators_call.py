"""Operators call: what the commands about people, tokens and audit have in common."""

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parkfleet.controller.call import fleet_client, run_call

if TYPE_CHECKING:
    from parkfleet.controller.operators_client import OperatorsClient

Json = Annotated[bool, typer.Option("--json", help="For scripts; times are milliseconds UTC.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; stands in the audit log for ever.")]


def _complete_grant(incomplete: str) -> list[str]:
    """What a shell offers for a grant: the roles, and the kinds of scopes."""
    offers = [f"{role}@{scope}" for role in ("viewer", "operator", "admin") for scope in ("fleet", "region/", "park/")]
    return [offer for offer in offers if offer.startswith(incomplete)]


Grants = Annotated[
    list[str] | None,
    typer.Option(
        "--grant",
        "-g",
        help="ROLE@SCOPE, such as operator@park/p1 or viewer@fleet. Repeatable.",
        autocompletion=_complete_grant,
    ),
]
GrantText = Annotated[
    str,
    typer.Argument(help="ROLE@SCOPE, such as viewer@region/north.", metavar="GRANT", autocompletion=_complete_grant),
]
Stdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input, a line.")]

EXIT_CODES = "Exit codes: 0 done, 1 no controller answers, 2 wrong usage, 3 refused, 4 nobody is signed in."


def with_operators(controller: str, work: Callable[["OperatorsClient"], Awaitable[Any]]) -> None:
    """Runs it with a connection; every failure becomes a sentence and an exit code."""
    from parkfleet.controller.operators_client import OperatorsClient

    async def connected() -> None:
        async with fleet_client(controller) as fleet:
            await work(OperatorsClient(fleet))

    run_call(controller, connected())


def echo_json(data: object) -> None:
    """For scripts."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """For people; into a pipe, a row stays one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        every = [headings, *rows]
        widths = [max(len(row[column]) for row in every) for column in range(len(headings))]
        for row in every:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # not str: a name with brackets must not be taken for markup
    console.print(table)


def ask_password(prompt: str, twice: bool = False, from_stdin: bool = False) -> str:
    """A password from the terminal, not shown; or a line of standard input. Never from an argument."""
    if from_stdin or not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise typer.BadParameter("standard input is empty: a password was to come from there")
        return line.removesuffix("\n").removesuffix("\r")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=twice))


def state(expires_ms: int, revoked_ms: int) -> str:
    """Until when something holds, or since when it does not."""
    import time

    from parkfleet.controller.config_report import moment_text

    if revoked_ms:
        return f"revoked {moment_text(revoked_ms)}"
    word = "until" if expires_ms > time.time() * 1000 else "expired"
    return f"{word} {moment_text(expires_ms)}"
