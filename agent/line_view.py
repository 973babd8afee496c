"""Line view: what is known of lines and their meters, for a person."""

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parkfleet.agent.line_messages import LineFacts, MeterFacts, Share
from parkfleet.protocols.learned import Evidence, told


def lines_table(lines: Sequence[LineFacts], is_live: bool) -> RenderableType:
    """A table a line, and below it what was learned of each of its meters."""
    parts: list[RenderableType] = []
    for line in lines:
        parts.append(Text(f"line {line.id}  {line.url}  {_share(line.share)}"))
        parts.append(_meters(line.meters, is_live))
        learned = [Text(f"  {own.meter} {text}") for own in line.meters for text in _learned(own)]
        parts += learned or [Text("  nothing was learned yet: the meters do as their profiles say")]
        parts.append(Text(""))
    return Group(*parts)


def _meters(meters: Sequence[MeterFacts], is_live: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    names = ["meter", "unit", "profile", "every", "requests a scan", "planned"]
    for name in [*names, "1 min", "15 min", "requests", "time-outs", "missed slots"] if is_live else names:
        table.add_column(name, no_wrap=name in ("meter", "planned"))
    for own in meters:
        row = [own.meter, str(own.unit), own.profile, f"{own.interval_s:g} s", str(own.requests_a_scan)]
        row.append(f"{own.share.planned:.2%}")
        if is_live:
            row += [_percent(own.share.last_minute), _percent(own.share.last_quarter)]
            row += [str(own.requests), str(own.timeouts), str(own.missed)]
        table.add_row(*map(escape, row), style="yellow" if own.timeouts or own.missed else "")
    return table


def _learned(own: MeterFacts) -> list[str]:
    return [f"{fact}{_evidence(evidence)}" for fact, evidence in told(own.learned)]


def _evidence(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(evidence.at / 1000))
    return f" ({when}: {evidence.asked} requests, {evidence.refused} of them refused or not answered)"


def _share(share: Share) -> str:
    measured = (
        f", measured {_percent(share.last_minute)} (1 min), {_percent(share.last_quarter)} (15 min)"
        if share.last_minute is not None
        else ""
    )
    return f"planned {share.planned:.2%} of its time{measured}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
