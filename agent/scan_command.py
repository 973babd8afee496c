"""Scan command: one survey on a terminal, with its progress, its end and what it leaves behind."""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control_client import ControlError
from parkfleet.agent.control_messages import socket_path
from parkfleet.agent.display import SIGNIFICANT, Shown
from parkfleet.agent.findings import Part, settings_of
from parkfleet.agent.installer import agent_runs, find_line, profiles_in, through_agent
from parkfleet.agent.installer_view import findings_list
from parkfleet.agent.scan import Open, ScanPlan, Step, Unit
from parkfleet.agent.scan_options import announcement, settings_for, span_text
from parkfleet.agent.survey import Survey
from parkfleet.agent.transport import LineDownError
from parkfleet.agent.wire import opened
from parkfleet.protocols.config import LineAddress, parse_line_url

FOUND: Final = 0
LINE_DOWN: Final = 3
NOBODY: Final = 4
STOPPED: Final = 130  # as every program that Ctrl-C ends


@dataclass(frozen=True)
class ScanOptions:
    """What was typed, each valid in itself."""

    line: str  # a url, or the id of a configured line
    configuration: Configuration | None  # of an id, or where there is one
    units: tuple[int, ...]
    bauds: str
    parities: str
    timeout: float  # seconds
    quick: bool
    shown: tuple[Shown, ...]
    folders: tuple[Path, ...]
    as_json: bool
    write: Path | None


@dataclass(frozen=True)
class Target:
    """The line that is scanned, and the way to it."""

    settings: tuple[LineAddress, ...]
    open_line: Open
    line: str  # its id where it is configured
    agent: bool


async def target_of(options: ScanOptions) -> Target:
    """Raises UnknownNameError, ControlError, ValueError."""
    if "://" in options.line:
        address = parse_line_url(options.line)
        return Target(settings_for(address, options.line, options.bauds, options.parities), opened, "", False)
    if options.configuration is None:
        raise ValueError(f"expected a url such as serial:///dev/ttyUSB0 or tcp://host:502, got {options.line!r}")
    plan = find_line(options.configuration, options.line)
    path = socket_path(options.configuration)
    if await agent_runs(path):
        if options.bauds or options.parities:
            raise ValueError("the agent runs, and keeps its settings: stop it, or leave --baud and --parity away")
        return Target((plan.address,), through_agent(path, options.line), options.line, True)
    if options.bauds or options.parities:
        settings = settings_for(plan.address, plan.config.url, options.bauds, options.parities)
        return Target(settings, opened, "", False)
    return Target((plan.address,), opened, options.line, False)


async def run_scan(options: ScanOptions) -> int:
    """Scans, shows, writes; the exit code. Raises as target_of."""
    console, messages = Console(), Console(stderr=True)
    target = await target_of(options)
    profiles, wrong = profiles_in(list(options.folders))
    for told in wrong:
        messages.print(escape(told), style="yellow", soft_wrap=True)
    for shown in options.shown:
        if shown.digits < SIGNIFICANT:
            messages.print(f"{shown.value}: fewer than {SIGNIFICANT} digits fit much by chance", style="yellow")
    plan = ScanPlan(target.settings, options.units, options.timeout, options.quick)
    messages.print(escape(announcement(plan, target.agent)), soft_wrap=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), console=messages
    ) as bar:
        survey = Survey(plan, profiles, options.shown, _Bar(bar, plan))
        told, code = await _surveyed(survey, target.open_line)
    if told:
        messages.print(escape(told), style="red", soft_wrap=True)
    _tell_oddities(survey, messages)
    if options.as_json:
        console.file.write(msgspec.json.encode({"findings": survey.findings, "complete": not told}).decode() + "\n")
    elif survey.findings:
        console.print(findings_list(survey.findings), soft_wrap=True)
    if options.write is not None and survey.findings:
        for path in Part(survey.findings, profiles, target.line).write(options.write):
            messages.print(f"written: {path}", soft_wrap=True, highlight=False)
    return code if told or survey.findings else NOBODY


async def _surveyed(survey: Survey, open_line: Open) -> tuple[str, int]:
    """Runs a survey to its end, or to Ctrl-C; (why it ended early, exit code)."""
    work = asyncio.create_task(survey.run(open_line), name="scan")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        count = len(survey.findings)
        return f"stopped; found so far: {count}", STOPPED
    except (LineDownError, ControlError) as error:
        return str(error), LINE_DOWN
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return "", FOUND


def _tell_oddities(survey: Survey, messages: Console) -> None:
    """What the installer should know beside what was found."""
    if survey.one_for_all:
        messages.print("It answers to every unit id: one meter, or a gateway that does not look at them.")
    for address, told in survey.garbled.items():
        if not any(finding.unit.address == address for finding in survey.findings):
            text = f"At {settings_of(address)} something came that is no answer ({told}): a wrong setting, noise, or"
            messages.print(escape(f"{text} two meters with one unit id."), style="yellow", soft_wrap=True)
    unknown = [str(finding.unit.unit) for finding in survey.findings if not finding.profile]
    if unknown and not survey.shown:
        told = f"Unknown: {', '.join(unknown)}. Type what a display shows: --units {unknown[0]} --display 1234.5kWh"
        messages.print(told, soft_wrap=True, highlight=False)
    if not survey.findings:
        messages.print("Nobody answered. Are A and B swapped, is the bus terminated, has the meter power?")


class _Bar:
    """A survey's progress on a bar."""

    def __init__(self, bar: Progress, plan: ScanPlan) -> None:
        self._bar = bar
        self._whole = plan.worst_case
        self._task = bar.add_task("scan", total=self._whole, left="")

    def tried(self, step: Step) -> None:
        """See Watcher."""
        text = f"{settings_of(step.address)} unit {step.unit}"
        left = f"at most {span_text(step.left_s)} left"
        self._bar.update(self._task, completed=self._whole - step.left_s, description=text, left=left)
        if step.found is not None:
            found = f"unit {step.unit} at {settings_of(step.address)}: {step.found.told}"
            self._bar.console.print(escape(found), highlight=False)

    def asking(self, unit: Unit, place: int, count: int) -> None:
        """See Watcher."""
        self._bar.update(self._task, description=f"what is unit {unit.unit}?", left=f"{place} of {count}")
