"""Command `parkfleet controller password`: lets somebody in again who rules the controller's own machine."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_EXAMPLE = """Example:

    sudo -u parkfleet parkfleet controller password admin --data /var/lib/parkfleet --reason "lost it"

For the day on which nobody can sign in any more. Works on the database itself, beside a controller that runs; prints
the new password once, enables the user, ends all of their sessions, and stands in the audit log.

Exit codes: 0 done, 1 the database cannot be used, 2 wrong usage, 3 there is no such user."""


@app.command(epilog=_EXAMPLE)
def password(
    user: Annotated[str, typer.Argument(help="Who gets a new password.", metavar="USER")],
    data: Annotated[Path | None, typer.Option(help="Folder of the controller, where the database is there.")] = None,
    database: Annotated[str, typer.Option(help="postgresql://USER@HOST/NAME instead.")] = "",
    database_password_file: Annotated[Path | None, typer.Option(help="File with PostgreSQL's password.")] = None,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why; stands in the audit log for ever.")] = "",
) -> None:
    """Give a user a new password, on the controller's own machine."""
    import asyncio

    from parkfleet.controller.errors import DatabaseError
    from parkfleet.controller.run_options import DatabaseOptions

    try:
        from parkfleet.controller.operators import recover
    except ModuleNotFoundError as error:
        told = "this needs the controller's own packages"
        typer.echo(f"{told} ({error.name} is missing): pip install 'parkfleet[controller]'", err=True)
        raise typer.Exit(1) from None

    url = database
    if not database:
        if data is None or not (data / "controller.db").is_file():
            raise typer.BadParameter("say the controller's folder, or its --database", param_hint="--data")
        url = f"sqlite:///{(data / 'controller.db').resolve()}"
    try:
        secret = DatabaseOptions(url, database_password_file).password()
        made = asyncio.run(recover(url, secret, user, reason))
    except (DatabaseError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if made is None:
        typer.echo(f"there is no user {user!r}", err=True)
        raise typer.Exit(3)
    typer.echo(f"password of {user}, shown this once: {made}")
