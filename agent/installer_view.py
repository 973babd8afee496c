"""Installer's view: readings, findings and the agent's status as tables."""

import fnmatch
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parkfleet.agent.control_messages import Status
from parkfleet.agent.display import sentence
from parkfleet.agent.findings import Finding, settings_of
from parkfleet.agent.identify import Candidate
from parkfleet.agent.reading import DeliveredReading, MeterReading, PointReading
from parkfleet.agent.rules import Standing

_MIB = 1024 * 1024


class Screen:
    """Where readings are shown, one in place of the other; as JSON, one a line."""

    def __init__(self, as_json: bool, patterns: Sequence[str] = (), console: Console | None = None) -> None:
        """patterns: of the points to show, such as voltage*; none: all."""
        self._as_json = as_json
        self._patterns = patterns
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Self:
        if not self._as_json:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._as_json:
            self._live.stop()

    def show(self, reading: MeterReading, again: bool = False) -> None:
        """Shows a reading. again: others follow in its place, so that it must fit on the screen."""
        shown = _chosen(reading, self._patterns)
        if self._as_json:
            self._console.file.write(msgspec.json.encode(shown).decode() + "\n")
            self._console.file.flush()
            return
        table = reading_table(shown)
        if again and self._console.is_terminal and len(self._console.render_lines(table)) >= self._console.height:
            table = _dense(shown, self._console.width)
        self._live.update(table, refresh=True)


def reading_table(reading: MeterReading) -> RenderableType:
    """Every point of a meter."""
    table = Table(title=_title(reading), title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.caption = _caption(reading)
    for name, justify in (("point", "left"), ("value", "right"), ("unit", "left"), ("quality", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("registers", overflow="fold")
    for point in reading.points:
        style = "" if point.quality == "good" else "yellow"
        table.add_row(point.point, value_text(point), point.unit, point.quality, raw_text(point), style=style)
    doubts = [Text(doubt, style="yellow") for doubt in reading.doubts]
    if not reading.delivered:
        return Group(table, *doubts)
    delivered = Table(title="delivered", title_justify="left", box=None, pad_edge=False)
    for name in ("point", "value", "unit", "quality", "made of"):
        delivered.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for made in reading.delivered:
        style = "" if made.quality == "good" else "yellow"
        delivered.add_row(made.point, value_text(made), made.unit, made.quality, ", ".join(made.of), style=style)
    return Group(table, delivered, *doubts)


def _dense(reading: MeterReading, width: int) -> RenderableType:
    """What is delivered, side by side without registers: for a screen that is too low for one a row."""
    cells = [
        (made.point, _short(made, 7) if made.quality == "good" else made.quality, made.unit)
        for made in reading.delivered or reading.points
    ]
    longest = sum(max((len(cell[part]) for cell in cells), default=0) for part in range(3)) + 3
    beside = max(1, width // longest)
    rows = -(-len(cells) // beside)
    table = Table(title=_title(reading), title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.caption = f"{_caption(reading)}\nfor the registers a higher screen, or fewer points: --points 'voltage*'"
    for _ in range(beside):
        table.add_column("point", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
    for row in range(rows):
        table.add_row(*(text for cell in cells[row::rows] for text in cell))
    return Group(table, *(Text(doubt, style="yellow") for doubt in reading.doubts))


def _chosen(reading: MeterReading, patterns: Sequence[str]) -> MeterReading:
    """The reading with those points only."""
    if not patterns:
        return reading

    def wanted(point: PointReading | DeliveredReading) -> bool:
        return any(fnmatch.fnmatchcase(point.point, pattern) for pattern in patterns)

    points, delivered = tuple(filter(wanted, reading.points)), tuple(filter(wanted, reading.delivered))
    return msgspec.structs.replace(reading, points=points, delivered=delivered)


def _title(reading: MeterReading) -> str:
    return f"{reading.meter}  line {reading.line}, unit {reading.unit}, {reading.profile}"


def _caption(reading: MeterReading) -> str:
    when = datetime.fromtimestamp(reading.ts / 1000, UTC).astimezone()
    return f"{when:%H:%M:%S}, took {reading.took_ms:g} ms{': ' if reading.told else ''}{escape(reading.told)}"


def value_text(point: PointReading | DeliveredReading) -> str:
    """A value as people read it, "-" for none."""
    if point.value is None:
        return "-"
    return f"{point.value:.10g}" if isinstance(point.value, float) else escape(str(point.value))


def raw_text(point: PointReading) -> str:
    """Where a point lies, and what stands there: input 52: 44bb 8000."""
    bits = point.table in ("coil", "discrete")
    words = " ".join(str(word) if bits else f"{word:04x}" for word in point.registers)
    return f"{point.table} {point.address}{': ' if words else ''}{words}"


def show_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Who answered, and what they are: wrapped under each other on a terminal, whole lines in a pipe."""
    indent = " " * 10
    for finding in findings:
        for place, row in enumerate(_finding_rows(finding)):
            text = f"{indent if place else ''}{row}"
            if console.is_terminal:
                text = textwrap.fill(text, console.width - 1, subsequent_indent=f"{indent}  ", break_on_hyphens=False)
            console.print(Text(text, style="" if finding.profile else "yellow"), soft_wrap=True)


def _finding_rows(finding: Finding) -> Iterator[str]:
    best = next((c for c in finding.candidates if c.profile == finding.profile), None)
    others = [c for c in finding.others if c is not best]
    where = f"unit {finding.unit.unit:3}  {settings_of(finding.unit.address)}"
    what = finding.profile or ("unknown model" if finding.asked else "not asked what it is")
    yield f"{where}  {what}{f'  {_score(best)}' if best else ''}"
    if finding.names.text:
        yield f"calls itself {_printable(finding.names.text)}"
    if best and best.signed:
        yield f"its registers say {_printable(best.said)}"
    if shown := best or next(iter(others), None):
        yield f"{'' if best else f'as {shown.profile}: '}{_seen(shown)}"
    if others:
        yield f"may {'also ' if best else ''}be {', '.join(f'{c.profile} ({_score(c)})' for c in others)}"
    for explanation in finding.explanations[:3]:
        yield f"display: {explanation.profile}, {sentence(explanation)}"


def _score(candidate: Candidate) -> str:
    """How much fits, and of how much: 94 % of 34 points say more than 98 % of 27."""
    return f"{candidate.score} % of {candidate.points} points"


def status_table(status: Status) -> RenderableType:
    """The agent as it sees itself."""
    agent = status.agent
    broker = "connected" if agent.broker.connected else f"away: {agent.broker.told or 'not connected yet'}"
    buffer = agent.buffer
    facts = Text(
        f"agent {status.version} of {status.park}/{status.gateway}, process {status.process},"
        f" up {_span(agent.uptime_s)}, {agent.rss_bytes / _MIB:.0f} MiB\n"
        f"broker {broker}; {agent.delivered.readings} readings delivered\n"
        f"buffer {buffer.batches} batches, {buffer.readings} readings, {buffer.bytes / _MIB:.1f} MiB"
        f"{_losses(buffer.thinned_readings, buffer.dropped_readings)}\n"
        f"meters {agent.meters_ok} answer, {agent.meters_bad} do not\n"
        f"events {', '.join(f'{count} {kind}' for kind, count in sorted(status.events.items())) or 'none'}\n"
        + (f"held back {status.held} readings within their deadbands\n" if status.held else "")
    )
    table = Table(box=None, pad_edge=False)
    for name in ("line", "state", "load", "meters", "scans", "late", "errors", "silent meters"):
        table.add_column(name, overflow="fold", no_wrap=name in ("line", "load"))
    for line in status.lines:
        errors = ", ".join(f"{count} {name}" for name, count in sorted(line.errors.items()))
        table.add_row(
            line.id,
            "up" if line.up else escape(f"down: {line.told}" if line.told else "not opened yet"),
            f"{line.load:.1%}",
            str(line.meters),
            str(line.scans),
            str(line.missed),
            errors or "-",
            ", ".join(line.silent) or "-",
            style="" if line.up and not line.silent and not line.overload else "yellow",
        )
    overloaded = [line for line in status.lines if line.overload]
    told = [Text(f"line {line.id} is overloaded: {line.overload}", style="yellow") for line in overloaded]
    told += [Text(f"line {line.id}: {line.advice}") for line in status.lines if line.advice]
    return Group(facts, table, *told, *map(_alarm, status.alarms))


def _losses(thinned: int, dropped: int) -> str:
    """What there was no room for."""
    return f"; for want of room {thinned} readings thinned, {dropped} dropped" if thinned or dropped else ""


def _alarm(alarm: Standing) -> Text:
    """An alarm that is raised."""
    since = datetime.fromtimestamp(alarm.since / 1000, UTC).astimezone()
    text = f" ({_printable(alarm.text)})" if alarm.text else ""
    return Text(f"alarm {alarm.rule}{text}: {alarm.meter} {alarm.point}, since {since:%Y-%m-%d %H:%M:%S}", style="red")


def _seen(candidate: Candidate) -> str:
    return ", ".join(f"{p.point} {_short(p)}{' ' if p.unit else ''}{p.unit}" for p in candidate.seen[:3])


def _short(point: PointReading | DeliveredReading, digits: int = 6) -> str:
    """A value to recognise a meter by: six digits tell enough."""
    return f"{point.value:.{digits}g}" if isinstance(point.value, float) else value_text(point)


def _printable(text: str) -> str:
    """What a device says of itself must not move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text)[:120]


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
