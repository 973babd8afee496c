"""Command `parkfleet sim fleet`: many gateways on one controller, to see what it bears."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from parkfleet.simulators.fleet.crowd import Crowd, CrowdState

app = typer.Typer(no_args_is_help=True, add_completion=False)

#: How exact the times in the report are. Seconds.
LOOK_S: Final = 0.1

_EXAMPLE = """Examples, on the controller's own machine:

    parkfleet controller run --data /tmp/controller --listen 127.0.0.1:7443

    parkfleet sim fleet --gateways 1000 --data /tmp/controller --controller 127.0.0.1:7443

Each gateway has a key, a certificate signed by the authority in the controller's folder, a connection with mutual TLS
and the agent's own session code on it; it takes configurations and confirms them. Its meters are made up. Parks are
p01 and on, gateways gw-00000 and on; --first begins elsewhere, for a second process. Ctrl-C ends it; --report then has
when each gateway connected, and when it confirmed each revision.

Exit codes: 0 ended as asked, 1 the controller's folder cannot be used, 2 wrong usage."""


@app.command(epilog=_EXAMPLE)
def fleet(
    gateways: Annotated[int, typer.Option(min=1, max=20_000, help="How many.")] = 100,
    controller: Annotated[str, typer.Option(help="HOST:PORT for sessions.")] = "127.0.0.1:7443",
    data: Annotated[
        Path | None, typer.Option(help="The controller's folder; without it connections are plain.")
    ] = None,
    parks: Annotated[int, typer.Option(min=1, max=99, help="Parks that they are dealt over.")] = 56,
    first: Annotated[int, typer.Option(min=0, help="Number of the first.")] = 0,
    trial: Annotated[str, typer.Option(help="A new configuration is confirmed after so long.")] = "0s",
    report: Annotated[Path | None, typer.Option(help="At the end, write what they saw, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Each second an object, for scripts.")] = False,
) -> None:
    """Run many simulated gateways, each with a session of its own. Until Ctrl-C."""
    import asyncio
    import logging

    import msgspec

    from parkfleet.controller.authority import AuthorityError
    from parkfleet.protocols.quantity import Duration
    from parkfleet.simulators.fleet.crowd import Crowd, names

    try:
        trial_s = float(Duration.parse(trial))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--trial") from None
    logging.disable(logging.WARNING)  # thousands say the same; the state has it once, with its count
    _raise_descriptors(gateways)
    typer.echo(f"making {gateways} keys and certificates" if data else f"{gateways} plain connections", err=True)
    try:
        crowd = Crowd(names(gateways, parks, first), controller, data, trial_s)
    except (AuthorityError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None

    def tell(state: "CrowdState") -> None:
        if as_json:
            typer.echo(msgspec.json.encode(state).decode())
        else:
            away = "; ".join(f"{count} {told}" for told, count in state.told.items())
            typer.echo(f"{state.connected} of {state.gateways} connected, {state.heartbeats} heartbeats  {away}")

    asyncio.run(_run(crowd, tell))
    if report is not None:
        report.write_bytes(msgspec.json.encode(crowd.report))
        typer.echo(f"written: {report}", err=True)


async def _run(crowd: "Crowd", tell: "Callable[[CrowdState], None]") -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await crowd.run(stop, LOOK_S, tell)
    crowd.look()


def _raise_descriptors(gateways: int) -> None:
    """A session takes a descriptor, and a connection that is being made another."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * gateways + 256
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            typer.echo(f"only {hard} open files are allowed: {gateways} gateways need {wanted} (ulimit -n)", err=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
