"""Commands `parkfleet fleet logs|scan|read|replay|restart|capture`: an operator's hands on a gateway."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parkfleet.controller.call import DEFAULT, Controller, fleet_client, run_call

if TYPE_CHECKING:
    from parkfleet.proto.remote_pb2 import RemoteCall

app = typer.Typer(no_args_is_help=True, add_completion=False)

Gateway = Annotated[str, typer.Argument(help="PARK/GATEWAY.", metavar="PARK/GATEWAY")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the audit log and in the gateway's own log.")]
Within = Annotated[str, typer.Option(help="It is ended after so long, done or not.")]
Json = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]

_CODES = "Exit codes: 0 done, 1 no controller answers, 2 wrong usage, 3 the controller or the gateway refused."

_EXAMPLE_LOGS = f"""Example:

    parkfleet fleet logs p1/gw-01 --since 1h --reason "meter m07 is silent"

The gateway keeps the newest two megabytes of its log, across restarts.

{_CODES}"""


@app.command(epilog=_EXAMPLE_LOGS)
def logs(
    gateway: Gateway,
    reason: Reason = "",
    since: Annotated[str, typer.Option(help="From so long ago.")] = "1h",
    lines: Annotated[int, typer.Option(min=0, help="The newest so many; 0: all.")] = 0,
    within: Within = "1m",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what a gateway's agent has written into its log."""
    from datetime import UTC, datetime

    call = _call(gateway, reason, within)
    call.logs.since_ms = int((time.time() - _seconds(since, "--since")) * 1000)
    call.logs.lines = lines

    def show(entry: dict[str, Any]) -> None:
        at = datetime.fromtimestamp(entry["ts"] / 1000, UTC).isoformat(timespec="milliseconds")
        typer.echo(f"{at.removesuffix('+00:00')}Z {entry['level']:7} {entry['text']}")

    _lines(controller, "Logs", call, as_json, show)


_EXAMPLE_READ = f"""Example:

    parkfleet fleet read p1/gw-01 m07 --reason "is it alive?"

{_CODES}"""


@app.command(epilog=_EXAMPLE_READ)
def read(
    gateway: Gateway,
    meter: Annotated[str, typer.Argument(help="The meter's id in the gateway's configuration.")],
    reason: Reason = "",
    within: Within = "1m",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Read every point of a meter now, with its raw registers."""
    call = _call(gateway, reason, within)
    call.read.meter = meter

    def show(reading: dict[str, Any]) -> None:
        typer.echo(f"{gateway} {meter}")
        for point in reading["points"]:
            registers = " ".join(f"{word:04x}" for word in point.get("registers") or ())
            value = "" if point.get("value") is None else point["value"]
            typer.echo(
                f"  {point['point']:28} {value!s:>16} {point.get('unit') or '':6} {point['quality']:10} {registers}"
            )

    _lines(controller, "Read", call, as_json, show)


_EXAMPLE_SCAN = f"""Example:

    parkfleet fleet scan p1/gw-01 bus1 --units 1-20 --reason "new meters were wired"

The agent goes on polling, and lets the scan have up to half of the line's time.

{_CODES}"""


@app.command(epilog=_EXAMPLE_SCAN)
def scan(
    gateway: Gateway,
    line: Annotated[str, typer.Argument(help="The line's id in the gateway's configuration.")],
    units: Annotated[str, typer.Option(help="Unit ids to ask.")] = "1-247",
    reason: Reason = "",
    within: Within = "1h",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Find who answers on a line of a gateway, and what each meter is."""
    call = _call(gateway, reason, within)
    call.scan.line, call.scan.units = line, units

    def show(said: dict[str, Any]) -> None:
        if "findings" not in said:
            typer.echo(f"{said['progress']}; found: {said['found']}", err=True)
            return
        for finding in said["findings"]:
            best = next(iter(finding["candidates"]), None)
            model = f"{best['profile']} {best['score']:.0f} %" if best else "unknown model"
            typer.echo(f"unit {finding['unit']['unit']:3}  {model}")

    _lines(controller, "Scan", call, as_json, show)


_EXAMPLE_REPLAY = f"""Example:

    parkfleet fleet replay p1/gw-01 --from 6h --to 5h --reason "the platform lost an hour"

Batches that the broker had acknowledged, and that the gateway still keeps, are sent again, marked as replayed.

{_CODES}"""


@app.command(epilog=_EXAMPLE_REPLAY)
def replay(
    gateway: Gateway,
    begin: Annotated[str, typer.Option("--from", help="From so long ago.")],
    end: Annotated[str, typer.Option("--to", help="Until so long ago.")] = "0s",
    reason: Reason = "",
    within: Within = "2m",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Have a gateway send readings again."""
    call = _call(gateway, reason, within)
    now = time.time()
    call.replay.from_ms = int((now - _seconds(begin, "--from")) * 1000)
    call.replay.to_ms = int((now - _seconds(end, "--to")) * 1000)
    _lines(controller, "Replay", call, as_json, lambda said: typer.echo(f"{said.get('batches', 0)} batches go again"))


_EXAMPLE_RESTART = f"""Example:

    parkfleet fleet restart p1/gw-01 --reason "after the clock was mended"

The agent ends in order (open readings go into its buffer) and begins anew; done when it is back.

{_CODES}"""


@app.command(epilog=_EXAMPLE_RESTART)
def restart(
    gateway: Gateway,
    reason: Reason = "",
    within: Within = "3m",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Restart a gateway's agent."""
    call = _call(gateway, reason, within)
    call.restart.SetInParent()

    def show(said: dict[str, Any]) -> None:
        typer.echo(f"{gateway} ends and begins anew" if said["restarting"] else f"{gateway} is back", err=True)

    _lines(controller, "Restart", call, as_json, show)


_EXAMPLE_CAPTURE = f"""Example:

    parkfleet fleet capture p1/gw-01 bus1 --seconds 30 --output bus1.pcapng --reason "for the meter's maker"

Wireshark opens the file and takes each request and answer apart. Ctrl-C ends it early; what came is in the file.

{_CODES}"""


@app.command(epilog=_EXAMPLE_CAPTURE)
def capture(
    gateway: Gateway,
    line: Annotated[str, typer.Argument(help="The line's id in the gateway's configuration.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .pcapng.")],
    seconds: Annotated[int, typer.Option(min=1, max=3000, help="How long.")] = 30,
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """Write down what goes over a line of a gateway, for Wireshark."""
    call = _call(gateway, reason, f"{seconds + 30}s")
    call.capture.line, call.capture.seconds = line, seconds

    async def work() -> None:
        written = 0
        with output.open("wb") as file:
            try:
                async for data in _said(controller, "Capture", call):
                    written += file.write(data)
            finally:
                typer.echo(f"{output}: {written} bytes", err=True)

    try:
        run_call(controller, work())
    except OSError as error:
        typer.echo(f"{output} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(2) from None


def _call(gateway: str, reason: str, within: str) -> "RemoteCall":
    """The beginning of a call. Asks for a reason where there is none and somebody to ask."""
    import sys

    from parkfleet.proto.remote_pb2 import RemoteCall

    park, slash, name = gateway.partition("/")
    if not (slash and park and name):
        raise typer.BadParameter(f"expected PARK/GATEWAY, got {gateway!r}")
    if not reason and sys.stdin.isatty():
        reason = typer.prompt("Why? (it stands in the audit log)", err=True)
    return RemoteCall(park=park, gateway=name, reason=reason, within_s=round(_seconds(within, "--within")))


def _seconds(text: str, option: str) -> float:
    from parkfleet.protocols.quantity import Duration

    try:
        return float(Duration.parse(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _lines(
    controller: str, method: str, call: "RemoteCall", as_json: bool, show: Callable[[dict[str, Any]], None]
) -> None:
    """Calls, and shows each line of JSON that comes."""

    async def work() -> None:
        rest = b""
        async for data in _said(controller, method, call):
            *whole, rest = (rest + data).split(b"\n")
            for line in filter(None, whole):
                if as_json:
                    typer.echo(line.decode())
                else:
                    show(json.loads(line))

    run_call(controller, work())


async def _said(controller: str, method: str, call: "RemoteCall") -> AsyncIterator[bytes]:
    """What a gateway says, as it comes. Raises FleetError."""
    from grpc import aio

    from parkfleet.proto.remote_pb2_grpc import RemoteHandsStub

    async with fleet_client(controller) as fleet:
        stream = getattr(RemoteHandsStub(fleet.channel), method)(call)
        try:
            async for output in stream:
                yield output.data
        except aio.AioRpcError as error:
            raise fleet.told(error) from None
        finally:
            stream.cancel()
