"""Installer's view: readings, findings and the agent's status as tables."""

from collections.abc import Iterable
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

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Self:
        if not self._as_json:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._as_json:
            self._live.stop()

    def show(self, reading: MeterReading) -> None:
        """Shows a reading."""
        if self._as_json:
            self._console.file.write(msgspec.json.encode(reading).decode() + "\n")
            self._console.file.flush()
        else:
            self._live.update(reading_table(reading), refresh=True)


def reading_table(reading: MeterReading) -> RenderableType:
    """Every point of a meter."""
    when = datetime.fromtimestamp(reading.ts / 1000, UTC).astimezone()
    title = f"{reading.meter}  line {reading.line}, unit {reading.unit}, {reading.profile}"
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.caption = f"{when:%H:%M:%S}, took {reading.took_ms:g} ms{': ' if reading.told else ''}{escape(reading.told)}"
    for name, justify in (("point", "left"), ("value", "right"), ("unit", "left"), ("quality", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("registers", overflow="fold")
    for point in reading.points:
        style = "" if point.quality == "good" else "yellow"
        table.add_row(point.point, value_text(point), point.unit, point.quality, raw_text(point), style=style)
    if not reading.delivered:
        return table
    delivered = Table(title="delivered", title_justify="left", box=None, pad_edge=False)
    for name in ("point", "value", "unit", "quality", "made of"):
        delivered.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for made in reading.delivered:
        style = "" if made.quality == "good" else "yellow"
        delivered.add_row(made.point, value_text(made), made.unit, made.quality, ", ".join(made.of), style=style)
    return Group(table, delivered)


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


def findings_list(findings: Iterable[Finding]) -> RenderableType:
    """Who answered, and what they are."""
    blocks = []
    for finding in findings:
        best = next((c for c in finding.candidates if c.profile == finding.profile), None)
        others = [c for c in finding.others if c is not best]
        score = f"  {best.score} %" if best else ""
        where = f"unit {finding.unit.unit:3}  {settings_of(finding.unit.address)}"
        rows = [f"{where}  {finding.profile or 'unknown model'}{score}"]
        if finding.names.text:
            rows.append(f"calls itself {_printable(finding.names.text)}")
        if shown := best or next(iter(others), None):
            rows.append(f"{'' if best else f'as {shown.profile}: '}{_seen(shown)}")
        if others:
            listed = ", ".join(f"{c.profile} ({c.score} %)" for c in others)
            rows.append(f"may {'also ' if best else ''}be {listed}")
        rows += [f"display: {e.profile}, {sentence(e)}" for e in finding.explanations[:3]]
        blocks.append(Text("\n          ".join(rows), style="" if finding.profile else "yellow"))
    return Group(*blocks)


def status_table(status: Status) -> RenderableType:
    """The agent as it sees itself."""
    agent = status.agent
    broker = "connected" if agent.broker.connected else f"away: {agent.broker.told or 'not connected yet'}"
    buffer = agent.buffer
    facts = Text(
        f"agent {status.version} of {status.park}/{status.gateway}, process {status.process},"
        f" up {_span(agent.uptime_s)}, {agent.rss_bytes / _MIB:.0f} MiB\n"
        f"broker {broker}; {agent.delivered.readings} readings delivered\n"
        f"buffer {buffer.batches} batches, {buffer.readings} readings, {buffer.bytes / _MIB:.1f} MiB\n"
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


def _alarm(alarm: Standing) -> Text:
    """An alarm that is raised."""
    since = datetime.fromtimestamp(alarm.since / 1000, UTC).astimezone()
    text = f" ({_printable(alarm.text)})" if alarm.text else ""
    return Text(f"alarm {alarm.rule}{text}: {alarm.meter} {alarm.point}, since {since:%Y-%m-%d %H:%M:%S}", style="red")


def _seen(candidate: Candidate) -> str:
    return ", ".join(f"{p.point} {_short(p)}{' ' if p.unit else ''}{p.unit}" for p in candidate.seen[:3])


def _short(point: PointReading) -> str:
    """A value to recognise a meter by: six digits tell enough."""
    return f"{point.value:.6g}" if isinstance(point.value, float) else value_text(point)


def _printable(text: str) -> str:
    """What a device says of itself must not move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text)[:120]


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
