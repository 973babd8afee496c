"""Buffer verbs of `parkfleet agent`: what waits on the gateway's disk, and how to have it sent again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.agent.installer_cli import DEFAULT, AsJson, Config, failed, run_command, usable_configuration

if TYPE_CHECKING:
    from parkfleet.agent.inspection import Inspection

_EXAMPLE_BUFFER = """Examples:

    parkfleet agent buffer stats

    parkfleet agent buffer export --csv readings.csv --from 24h"""

app = typer.Typer(add_completion=False)
buffer = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look into the buffer, also while the agent runs.",
    epilog=_EXAMPLE_BUFFER,
)
app.add_typer(buffer, name="buffer")

_MOMENTS = """Moments are 2026-11-23, 2026-11-23T10:30 (this box's time zone), 2026-11-23T10:30Z, or 2h: so long ago."""

Since = Annotated[str, typer.Option("--from", help="From this moment on: 2026-11-23T10:30, or 2h for so long ago.")]
Until = Annotated[str, typer.Option("--to", help="Up to this moment; default: now.")]

_EXAMPLE_REPLAY = f"""Examples:

    parkfleet agent replay --from 2h

    parkfleet agent replay --from 2026-11-23T10:30 --to 2026-11-23T12:00

The running agent sends the acknowledged batches of that time once more, behind everything that waits, marked as
replayed. It has them for `retain`. {_MOMENTS}

Exit codes: 0 batches will be sent, 1 the options or the configuration have mistakes, 3 no agent runs with it,
4 it has none of that time."""


@app.command(epilog=_EXAMPLE_REPLAY)
def replay(since: Since, until: Until = "0s", config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Have batches sent again that the broker had already acknowledged."""
    import msgspec

    from parkfleet.agent.control_client import connected
    from parkfleet.agent.control_messages import socket_path
    from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest

    path, (first, last) = socket_path(usable_configuration(config)), _times(since, until)

    async def work() -> ReplayAnswer:
        async with connected(path) as client:
            return await client.replay(ReplayRequest(since=first, until=last))

    answer = run_command(work())
    if as_json:
        typer.echo(msgspec.json.encode({"batches": answer.batches}).decode())
    else:
        typer.echo(f"{answer.batches} batches will be sent again")
    if not answer.batches:
        raise typer.Exit(4)


_EXAMPLE_STATS = """Example:

    parkfleet agent buffer stats --json

Exit codes, of all buffer commands: 0 done, 1 the configuration has mistakes, or there is no such buffer."""


@buffer.command(epilog=_EXAMPLE_STATS)
def stats(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Count what waits, what is kept for replay, and what was dropped."""
    from dataclasses import asdict
    from json import dumps

    from parkfleet.agent.inspection import iso

    with _inspection(config) as inspection:
        found = inspection.store.stats()
    if as_json:
        typer.echo(dumps(asdict(found)))
        return
    typer.echo(f"waiting  {found.batches} batches, {found.readings} readings, {found.bytes} bytes")
    typer.echo(f"         the oldest reading is of {iso(found.oldest_ts) if found.batches else '-'}")
    typer.echo(f"kept     {found.kept_batches} batches, {found.kept_bytes} bytes, acknowledged, for replay")
    typer.echo(f"thinned  {found.thinned_readings} readings, for want of room")
    typer.echo(f"dropped  {found.dropped_batches} batches, {found.dropped_readings} readings, for want of room")
    typer.echo(f"in use   {found.used} of {found.limit} bytes")
    typer.echo(f"epoch    {found.epoch}, the last batch was {found.last_seq}")


_EXAMPLE_SHOW = """Example:

    parkfleet agent buffer show --last 20"""


@buffer.command(epilog=_EXAMPLE_SHOW)
def show(
    config: Config = DEFAULT,
    last: Annotated[int, typer.Option(min=1, help="Only so many of the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List batches with their times and sizes, and when the broker took them."""
    from collections import deque
    from dataclasses import asdict
    from json import dumps

    with _inspection(config) as inspection:
        rows = deque(inspection.rows(), last)
    if as_json:
        typer.echo(dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        seqs = f"{row.seq}" if row.count == 1 else f"{row.seq}-{row.seq + row.count - 1}"
        state = f"acknowledged {row.acknowledged}" if row.acknowledged else "waits"
        typer.echo(f"{seqs:>12}  {row.first}  {row.last}  {row.readings:6} readings {row.bytes:7} bytes  {state}")


_EXAMPLE_EXPORT = f"""Example:

    parkfleet agent buffer export --csv readings.csv --from 24h

- stands for the standard output. {_MOMENTS}"""


@buffer.command(epilog=_EXAMPLE_EXPORT)
def export(
    to_csv: Annotated[str, typer.Option("--csv", help="File to write; - for the standard output.")],
    since: Since = "1970-01-01T00:00Z",
    until: Until = "0s",
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Write the readings that are on the disk, also those the broker has, to a file for a spreadsheet."""
    from json import dumps

    from parkfleet.agent.inspection import write_csv
    from parkfleet.protocols.payload.errors import PayloadError

    first, last = _times(since, until)
    with _inspection(config) as inspection:
        try:
            if to_csv == "-":
                count = write_csv(inspection.readings(first, last), sys.stdout)
            else:
                with Path(to_csv).open("w", newline="", encoding="utf-8") as file:
                    count = write_csv(inspection.readings(first, last), file)
        except OSError as error:
            raise failed(f"cannot write {to_csv}: {error.strerror}", 1) from None
        except PayloadError as error:
            raise failed(f"a batch is damaged ({error}): `parkfleet agent buffer verify` says which", 1) from None
    told = dumps({"readings": count, "file": to_csv}) if as_json else f"{count} readings in {to_csv}"
    typer.echo(told, err=to_csv == "-")


_EXAMPLE_VERIFY = """Example:

    parkfleet agent buffer verify

Exit codes: 0 all is well, 1 the configuration has mistakes, or there is no such buffer, 4 something is damaged."""


@buffer.command(epilog=_EXAMPLE_VERIFY)
def verify(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Check the file's structure, and decode every batch in it."""
    from dataclasses import asdict
    from json import dumps

    with _inspection(config) as inspection:
        found = inspection.verify()
    if as_json:
        typer.echo(dumps(asdict(found)))
    else:
        for problem in found.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{found.batches} batches, {found.readings} readings: {len(found.problems) or 'no'} problems")
    if found.problems:
        raise typer.Exit(4)


_EXAMPLE_VACUUM = """Example:

    parkfleet agent buffer vacuum

The file keeps the size it once needed: room that is free in it is used again. This gives it back to the disk. A
running agent does it itself, and keeps what it reads meanwhile in memory; a power cut in these seconds costs that."""


@buffer.command(epilog=_EXAMPLE_VACUUM)
def vacuum(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Give the room that is free in the file back to the disk."""
    import msgspec

    from parkfleet.agent.control_client import NoAgentError, connected
    from parkfleet.agent.control_messages import Vacuumed, socket_path
    from parkfleet.agent.store import Store, StoreError

    configuration = usable_configuration(config)
    settings = configuration.gateway.buffer
    path = configuration.path(settings.path)

    async def work() -> Vacuumed:
        try:
            async with connected(socket_path(configuration)) as client:
                return await client.vacuum()
        except NoAgentError:
            if not path.exists():
                raise ValueError(f"there is no buffer {path}") from None
            store = Store.open(path, settings.retain, settings.max_bytes)
            try:
                return Vacuumed(*store.vacuum())
            finally:
                store.close()

    try:
        done = run_command(work())
    except StoreError as error:
        raise failed(str(error), 1) from None
    told = f"{done.before} bytes before, {done.after} after"
    typer.echo(msgspec.json.encode(done).decode() if as_json else told)


@contextmanager
def _inspection(config: Path) -> "Iterator[Inspection]":
    from parkfleet.agent.inspection import Inspection
    from parkfleet.agent.store import StoreError

    configuration = usable_configuration(config)
    settings = configuration.gateway.buffer
    path = configuration.path(settings.path)
    try:
        if not path.exists():
            raise StoreError(f"there is no buffer {path}: has the agent run with this configuration?")
        inspection = Inspection(path, settings.max_bytes, settings.min_free)
    except StoreError as error:
        raise failed(str(error), 1) from None
    try:
        yield inspection
    finally:
        inspection.close()


def _times(since: str, until: str) -> tuple[int, int]:
    """Both moments in ms UTC."""
    first, last = _moment(since, "--from"), _moment(until, "--to")
    if first > last:
        raise failed("--from is after --to", 1)
    return first, last


def _moment(text: str, option: str) -> int:
    import time
    from datetime import datetime

    from parkfleet.protocols.quantity import Duration

    try:
        return max(round(1000 * (time.time() - float(Duration.parse(text)))), 0)
    except ValueError:
        pass
    try:
        return max(round(1000 * datetime.fromisoformat(text).timestamp()), 0)
    except (ValueError, OverflowError):
        raise failed(f"{option}: expected a time as 2026-11-23T10:30, or 2h for so long ago; got {text!r}", 1) from None
