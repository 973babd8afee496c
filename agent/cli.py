"""Command group `parkfleet agent`: what is done on the gateway."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parkfleet.agent import buffer_cli, identity_cli, installer_cli, line_cli

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="On the gateway: check a configuration, run the agent."
)
app.add_typer(installer_cli.app)  # read, scan, wake, status
app.add_typer(buffer_cli.app)  # replay, buffer
app.add_typer(identity_cli.app)  # enroll, renew, identity
app.add_typer(line_cli.app, name="line")

ConfigFile = Annotated[Path, typer.Argument(help="The gateway's configuration.", metavar="GATEWAY.YAML")]

_EXAMPLE_CHECK = """Example:

    parkfleet agent check gateway.yaml

Prints every mistake at once as FILE:LINE:COLUMN: WHERE: WHAT, and how to mend it. Exit code 1 when there is one."""


@app.command(epilog=_EXAMPLE_CHECK)
def check(
    config: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts and editors.")] = False,
) -> None:
    """Check a configuration and the profiles it names, without touching a line or a broker."""
    from parkfleet.agent.configuration import load_configuration, remarks
    from parkfleet.agent.plan import make_plan
    from parkfleet.protocols.document import DocumentError

    try:
        configuration = load_configuration(config)
    except DocumentError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": [p._asdict() for p in error.problems]}, ensure_ascii=False))
        else:
            for problem in error.problems:
                typer.echo(str(problem), err=True)
            count = len(error.problems)
            typer.echo(f"{count} mistake{'s' if count > 1 else ''} in {config}", err=True)
        raise typer.Exit(1) from None
    plan = make_plan(configuration)
    lines = {line.config.id: round(line.load, 4) for line in plan.lines}
    gateway = configuration.gateway
    if as_json:
        facts = {"meters": len(gateway.meters), "line_load": lines, "remarks": list(remarks(configuration))}
        typer.echo(json.dumps({"ok": True, "problems": [], **facts}, ensure_ascii=False))
        return
    typer.echo(f"{config}: good. Park {gateway.park}, gateway {gateway.gateway}, {len(gateway.meters)} meters")
    for line in plan.lines:
        late = " - more than there is: raise intervals or split the line" if line.load > 1 else ""
        typer.echo(f"  line {line.config.id}: {len(line.meters)} meters need {line.load:.1%} of its time{late}")
    for remark in remarks(configuration):
        typer.echo(f"  {remark}")


_EXAMPLE_PLAN = """Example:

    parkfleet agent plan gateway.yaml

Wire times are computed from baud rate, frames and silences, with 10 ms for each meter's turnaround; no line is
touched. Exit codes: 0 every interval can be kept, 1 the configuration has mistakes, 3 some meters would be late."""


@app.command(epilog=_EXAMPLE_PLAN)
def plan(
    config: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of lines, for scripts.")] = False,
) -> None:
    """Show each line's load, its shortest possible cycle, and what would be late, before anything is wired."""
    from dataclasses import asdict

    from parkfleet.agent.configuration import load_configuration
    from parkfleet.agent.forecast import forecast
    from parkfleet.agent.plan import make_plan
    from parkfleet.agent.usb_serial import advice
    from parkfleet.protocols.document import DocumentError

    try:
        plans = make_plan(load_configuration(config)).lines
        lines = [forecast(line) for line in plans]
    except DocumentError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines]))
    for line, wired in zip(lines, plans, strict=True) if not as_json else ():
        typer.echo(f"line {line.id}: load {line.load:.1%}, shortest cycle {line.cycle_s:.3f} s")
        if told := advice(wired.address.device):
            typer.echo(f"  {told}")
        for meter in line.meters:
            late = f"  LATE: {meter.late:.0%} of its slots would pass" if meter.late else ""
            typer.echo(
                f"  {meter.id:20} every {meter.interval_s:g} s  {meter.requests} requests, {meter.registers} registers"
                f"  {1000 * meter.scan_s:.1f} ms  {meter.share:.2%}{late}"
            )
    if any(line.late for line in lines):
        raise typer.Exit(3)


_EXAMPLE_RUN = """Example:

    parkfleet agent run --config gateway.yaml

Stop it with Ctrl-C or SIGTERM: the open batch goes into the buffer, and it leaves within 5 s.

Exit codes: 0 stopped as asked, 1 the configuration has mistakes, 3 another agent runs with it already."""


@app.command(epilog=_EXAMPLE_RUN)
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration.")] = Path("gateway.yaml"),
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Poll the meters, keep their readings, forward them. Runs until stopped."""
    from parkfleet.agent.lean import become
    from parkfleet.protocols.logs import LEVELS

    if log_level not in LEVELS:
        raise typer.BadParameter(f"expected {', '.join(LEVELS)}, got {log_level!r}", param_hint="--log-level")
    become("parkfleet.agent.process", str(config), log_level)


_EXAMPLE_PROFILES = """Examples:

    parkfleet agent profiles

    parkfleet agent profiles schneider energy_import

    parkfleet agent profiles --medium heat --json

Exit code 1: nothing matches, or a profile in your folders has mistakes."""


@app.command(epilog=_EXAMPLE_PROFILES)
def profiles(
    words: Annotated[
        list[str] | None, typer.Argument(help="Only those in whose name, title, medium or points each word is.")
    ] = None,
    medium: Annotated[str, typer.Option(help="Only power, water, heat, gas or other.")] = "",
    folder: Annotated[list[Path] | None, typer.Option(help="Your own folders, searched first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for scripts.")] = False,
) -> None:
    """List and search the meter models that can be read."""
    from typing import get_args

    from parkfleet.protocols.document import DocumentError
    from parkfleet.protocols.library import load_profile, profile_names
    from parkfleet.protocols.profile import Medium

    if medium and medium not in get_args(Medium):
        raise typer.BadParameter(f"expected {', '.join(get_args(Medium))}, got {medium!r}", param_hint="--medium")
    folders, found, broken = folder or [], [], False
    for name in profile_names(folders):
        try:
            profile = load_profile(name, folders)
        except DocumentError as error:
            typer.echo(str(error), err=True)
            broken = True
            continue
        ids = [own.id for own in profile.quantities]
        text = " ".join([profile.profile, profile.medium, *profile.title.values(), *ids]).lower()
        if medium in ("", profile.medium) and all(word.lower() in text for word in words or ()):
            found.append(profile)
    if as_json:
        keys = ("profile", "medium", "title", "source", "notes", "identity")
        rows = [{key: getattr(profile, key) for key in keys} | {"points": profile.delivered} for profile in found]
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        for profile in found:
            title = profile.title.get("en", "")
            typer.echo(f"{profile.profile:28} {profile.medium:6} {len(profile.delivered):3} points  {title}")
        if not found:
            what = " ".join([*(words or ()), medium]).strip()
            typer.echo(f"no profile matches {what!r}; docs/profiles.md tells how to write one", err=True)
    if broken or not found:
        raise typer.Exit(1)


_EXAMPLE_SCHEMA = """Example, with an editor that knows JSON Schema (first line of gateway.yaml):

    parkfleet agent schema gateway > gateway.schema.json

    # yaml-language-server: $schema=./gateway.schema.json"""


@app.command(epilog=_EXAMPLE_SCHEMA)
def schema(
    document: Annotated[str, typer.Argument(help="gateway or profile.")] = "gateway",
) -> None:
    """Print the JSON Schema of gateway.yaml or of a profile."""
    from parkfleet.protocols.config import GatewayConfig
    from parkfleet.protocols.document import json_schema
    from parkfleet.protocols.profile import Profile

    if document not in ("gateway", "profile"):
        raise typer.BadParameter(f"expected gateway or profile, got {document!r}")
    typer.echo(
        json.dumps(json_schema(GatewayConfig if document == "gateway" else Profile), indent=2, ensure_ascii=False)
    )
