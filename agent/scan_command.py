"""Scan command: one survey on a terminal, with its progress, its end and what it leaves behind."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
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
from parkfleet.agent.display import SIGNIFICANT, Shown, shows
from parkfleet.agent.findings import Part, check_target, settings_of
from parkfleet.agent.installer import agent_runs, find_line, profiles_in, through_agent
from parkfleet.agent.installer_view import show_findings
from parkfleet.agent.scan import Open, ScanPlan, Step, Unit
from parkfleet.agent.scan_options import announcement, settings_for, span_text
from parkfleet.agent.survey import Survey
from parkfleet.agent.time_left import TimeLeft
from parkfleet.agent.transport import LineDownError
from parkfleet.agent.wire import opened
from parkfleet.protocols.config import LineAddress, parse_line_url
from parkfleet.protocols.profile import Profile

FOUND: Final = 0
WRONG: Final = 1
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
    line: str = ""  # its id where it is configured
    share: float = 1.0  # the part of the line's time that the scan gets: half, when the agent polls on it


async def target_of(options: ScanOptions) -> Target:
    """Raises UnknownNameError, ControlError, ValueError."""
    if "://" in options.line:
        address = parse_line_url(options.line)
        return Target(settings_for(address, options.line, options.bauds, options.parities), opened)
    if options.configuration is None:
        raise ValueError(f"expected a url such as serial:///dev/ttyUSB0 or tcp://host:502, got {options.line!r}")
    plan = find_line(options.configuration, options.line)
    path = socket_path(options.configuration)
    if await agent_runs(path):
        if options.bauds or options.parities:
            raise ValueError("the agent runs, and keeps its settings: stop it, or leave --baud and --parity away")
        return Target((plan.address,), through_agent(path, options.line), options.line, 0.5)
    if options.bauds or options.parities:
        settings = settings_for(plan.address, plan.config.url, options.bauds, options.parities)
        return Target(settings, opened)
    return Target((plan.address,), opened, options.line)


async def run_scan(options: ScanOptions) -> int:
    """Scans, shows, writes; the exit code. Raises as target_of."""
    console, messages = Console(highlight=False), Console(stderr=True, highlight=False)
    if options.write is not None:
        check_target(options.write)
    target = await target_of(options)
    profiles, wrong = profiles_in(list(options.folders))
    for told in (*wrong, *_doubtful(options.shown, profiles)):
        _print(messages, told, "yellow")
    plan = ScanPlan(target.settings, options.units, options.timeout, options.quick)
    _print(messages, announcement(plan, target.share))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]}"),
        console=messages,
        transient=True,
    ) as bar:
        survey = Survey(plan, profiles, options.shown, _Bar(bar, plan, target.share))
        told, code = await _surveyed(survey, target.open_line)
    if told:
        _print(messages, told, "red" if code == LINE_DOWN else "yellow")
    _tell_oddities(survey, messages, complete=not told)
    if options.as_json:
        console.file.write(msgspec.json.encode({"findings": survey.findings, "complete": not told}).decode() + "\n")
    else:
        show_findings(console, survey.findings)
    if options.write is not None and survey.findings:
        part = Part(survey.findings, profiles, target.line, options.write.parent)
        try:
            for path in part.write(options.write):
                _print(messages, f"written: {path}")
        except OSError as error:  # the disk is full, or somebody has changed the folder since check_target
            _print(messages, f"cannot write {error.filename}: {error.strerror}", "red")
            return code or WRONG
    return code if told or survey.findings else NOBODY


def _print(console: Console, text: str, style: str = "") -> None:
    """A sentence: wrapped between words on a terminal, whole in a pipe."""
    console.print(escape(text), style=style, soft_wrap=not console.is_terminal)


def _doubtful(shown: Sequence[Shown], profiles: Sequence[Profile]) -> Iterator[str]:
    """What makes a display value of little use."""
    for one in shown:
        if one.digits < SIGNIFICANT:
            yield f"{one.value}: fewer than {SIGNIFICANT} digits fit much by chance"
        if not any(shows(one, own.unit) for profile in profiles for own in profile.quantities):
            yield f"{one.value} {one.unit}: no profile shows anything in {one.unit!r}; kWh, m³, GJ, V, A … are known"


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
        own = "parkfleet agent run" in str(error)
        return f"{error}{', or have it scan: --line ID --config gateway.yaml' if own else ''}", LINE_DOWN
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return "", FOUND


def _tell_oddities(survey: Survey, messages: Console, complete: bool) -> None:
    """What the installer should know beside what was found."""
    if survey.one_for_all:
        _print(messages, "It answers to every unit id: one meter, or a gateway that does not look at them.")
    for address, told in survey.garbled.items():
        if not any(finding.unit.address == address for finding in survey.findings):
            text = f"At {settings_of(address)} something came that is no answer ({told}): a wrong setting, noise, or"
            _print(messages, f"{text} two meters with one unit id.", "yellow")
    unknown = [str(finding.unit.unit) for finding in survey.findings if finding.asked and not finding.profile]
    if unknown and not survey.shown:
        text = f"Unknown: {', '.join(unknown)}. Type what a display shows: --units {unknown[0]} --display 1234.5kWh"
        _print(messages, text)
    if not survey.findings and complete:
        _print(messages, "Nobody answered. Are A and B swapped, is the bus terminated, has the meter power?")


class _Bar:
    """A survey's progress on a bar."""

    def __init__(self, bar: Progress, plan: ScanPlan, share: float) -> None:
        self._bar = bar
        self._whole = plan.worst_case
        self._left = TimeLeft(self._whole, share)
        self._task = bar.add_task("", total=self._whole, left="")
        self._asking = False

    def tried(self, step: Step) -> None:
        """See Watcher."""
        text = f"{settings_of(step.address)} unit {step.unit}"
        left = f"at most {span_text(self._left.searching(step.left_s))} left"
        self._bar.update(self._task, completed=self._whole - step.left_s, description=text, left=left)
        if step.found is not None:
            by = "" if step.found.told == "answers" else " (by its refusal)"
            self._bar.console.print(escape(f"found unit {step.unit} at {settings_of(step.address)}{by}"))

    def asking(self, unit: Unit, done: float, count: int) -> None:
        """See Watcher."""
        if not self._asking:  # a bar of its own: how long it takes is known only now
            self._asking = True
            self._bar.reset(self._task, total=1.0)
        left = f"about {span_text(self._left.identifying(done, count))} left" if done < count else ""
        self._bar.update(self._task, completed=done / count, description=f"what is unit {unit.unit}?", left=left)
