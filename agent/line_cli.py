"""Command group `parkfleet agent line`: what the agent knows of its lines and meters beyond their configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from parkfleet.agent.installer_cli import (
    DEFAULT,
    AsJson,
    Config,
    MeterId,
    duration_option,
    failed,
    run_command,
    usable_configuration,
)

if TYPE_CHECKING:
    from parkfleet.agent.configuration import Configuration
    from parkfleet.agent.control_client import ControlClient
    from parkfleet.agent.line_messages import LineFacts

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What is known of lines and meters, and what goes over the wire: show, export, forget, capture.",
    epilog="Example:\n\n    parkfleet agent line show bus1",
)

#: The agent keeps a megabyte of what went over a line: two seconds of the busiest. Seconds.
CAPTURE_EVERY_S: Final = 0.25

_EXAMPLE_SHOW = """Example:

    parkfleet agent line show bus1

Asks the running agent; without one, shows what learned.db beside the buffer has. Shares are of the line's time:
planned, and measured over the last minute and the last 15 minutes.

Exit codes: 0 shown, 1 the configuration has mistakes or no such line."""


@app.command(epilog=_EXAMPLE_SHOW)
def show(
    line: Annotated[str | None, typer.Argument(help="Only this line.", metavar="[LINE]")] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show each meter's share of its line, its time-outs, and what was learned of it, with the evidence."""
    configuration = usable_configuration(config)
    facts, is_live = run_command(_facts(configuration, line))
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(facts).decode())
        return
    from rich.console import Console

    from parkfleet.agent.line_view import lines_table

    if not is_live:
        typer.echo("no agent runs here: this is what was learned before\n")
    Console(highlight=False).print(lines_table(facts, is_live))


_EXAMPLE_CAPTURE = """Example:

    parkfleet agent line capture bus1 --seconds 30s --output bus1.pcapng

Writes what the running agent sends and hears on a line to a file that Wireshark opens: every request and answer, taken
apart; the bytes of an RTU frame as they were, and what is no whole frame, in the packet's comment. Polling goes on as
ever. Ctrl-C ends it early; what was captured is in the file.

Exit codes: 0 captured, 1 no such line, or not one that can be, 3 no agent runs here, 4 nothing went over the line."""


@app.command(epilog=_EXAMPLE_CAPTURE)
def capture(
    line: Annotated[str, typer.Argument(help="The line's id in gateway.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .pcapng.")],
    seconds: Annotated[str, typer.Option(help="How long.")] = "30s",
    config: Config = DEFAULT,
) -> None:
    """Write down what goes over a line, for Wireshark."""
    from parkfleet.agent.control_client import connected
    from parkfleet.agent.control_messages import socket_path

    lasting = duration_option(seconds, "--seconds", 0.1, 3600)
    path = socket_path(usable_configuration(config))

    async def work() -> int:
        async with connected(path) as client:
            first = await client.capture(line)
            with output.open("wb") as file:
                typer.echo(f"capturing line {line} for {seconds}; Ctrl-C ends it early", err=True)
                return await _captured(client, line, file, first, lasting)

    try:
        packets = run_command(work())
    except OSError as error:
        raise failed(f"{output} cannot be written: {error.strerror}", 1) from None
    typer.echo(f"written: {output}, {packets} bytes off the wire and what Wireshark needs beside them")
    if not packets:
        raise typer.Exit(4)


async def _captured(client: "ControlClient", line: str, file: BinaryIO, first: bytes, seconds: float) -> int:
    """Writes until the time is over or the person has seen enough; bytes beyond the file's header."""
    import asyncio
    import contextlib
    import signal

    enough = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, enough.set)
    file.write(first)
    written = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not enough.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CAPTURE_EVERY_S):
                        await enough.wait()
                written += file.write(await client.capture(line))
    written += file.write(await client.capture(line, last=True))
    return written


_EXAMPLE_EXPORT = """Example, for all meters of the model:

    parkfleet agent line export m01 > profiles/eastron-sdm630.yaml

Prints the meter's profile with max_registers, max_bits, min_gap and holes as they were found; comments and order are
kept. Put it into a folder named by `profiles:` in gateway.yaml.

Exit codes: 0 printed, 1 the configuration has mistakes or no such meter, 4 nothing was learned that a profile says."""


@app.command(epilog=_EXAMPLE_EXPORT)
def export(meter: MeterId, config: Config = DEFAULT) -> None:
    """Print a meter's profile with what was learned filled in."""
    from parkfleet.agent.installer import find_meter
    from parkfleet.agent.profile_text import with_learned_facts
    from parkfleet.protocols.library import profile_path

    configuration = usable_configuration(config)

    async def work() -> tuple["LineFacts", str]:
        line, plan = find_meter(configuration, meter)
        facts, _ = await _facts(configuration, line.config.id)
        return facts[0], plan.config.profile

    facts, profile = run_command(work())
    learned = next(own.learned for own in facts.meters if own.meter == meter)
    folders = [configuration.path(name) for name in configuration.gateway.profiles]
    before = profile_path(profile, folders).read_text("utf-8")
    after = with_learned_facts(before, learned)
    if after.endswith(before):  # comments at most
        typer.echo(f"nothing was learned of {meter} that a profile says; see `parkfleet agent line show`", err=True)
        raise typer.Exit(4)
    typer.echo(after, nl=False)


_EXAMPLE_FORGET = """Example, after another meter was put in its place:

    parkfleet agent line forget m01

The meter is polled as its profile says, at once when an agent runs, and learned anew.

Exit codes: 0 forgotten, 1 the configuration has mistakes or no such meter, 3 it could not be removed from the disk."""


@app.command(epilog=_EXAMPLE_FORGET)
def forget(meter: MeterId, config: Config = DEFAULT) -> None:
    """Forget what was learned of a meter."""
    from parkfleet.agent.control_client import NoAgentError, connected
    from parkfleet.agent.control_messages import socket_path
    from parkfleet.agent.installer import find_meter

    configuration = usable_configuration(config)

    async def work() -> bool:
        find_meter(configuration, meter)
        try:
            async with connected(socket_path(configuration)) as client:
                return (await client.forget(meter)).kept
        except NoAgentError:
            from parkfleet.agent.learned_store import STORE_NAME, LearnedStore
            from parkfleet.agent.learner import meter_keys
            from parkfleet.protocols.learned import Learned

            key = dict(zip((own.id for own in configuration.gateway.meters), meter_keys(configuration), strict=True))
            folder = configuration.path(configuration.gateway.buffer.path).parent
            return LearnedStore(folder / STORE_NAME).save(key[meter], Learned())

    if not run_command(work()):
        typer.echo(f"{meter}: cannot be removed from learned.db; it comes back when the agent starts", err=True)
        raise typer.Exit(3)
    typer.echo(f"{meter}: forgotten")


async def _facts(configuration: "Configuration", line: str | None) -> tuple[list["LineFacts"], bool]:
    """What is known, and whether a running agent said it. Raises UnknownNameError, ControlError."""
    from parkfleet.agent.control_client import NoAgentError, connected
    from parkfleet.agent.control_messages import socket_path
    from parkfleet.agent.installer import find_line

    if line is not None:
        find_line(configuration, line)
    try:
        async with connected(socket_path(configuration)) as client:
            return await client.lines(line), True
    except NoAgentError:
        from parkfleet.agent.learned_store import STORE_NAME, LearnedStore
        from parkfleet.agent.learner import known_facts
        from parkfleet.agent.line_messages import line_facts
        from parkfleet.agent.plan import make_plan

        folder = configuration.path(configuration.gateway.buffer.path).parent
        plan = make_plan(configuration, known_facts(configuration, LearnedStore(folder / STORE_NAME)))
        chosen = [own for own in plan.lines if line in (None, own.config.id)]
        return [line_facts(own, list(own.meters), {}, {}) for own in chosen], False
