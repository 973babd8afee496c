"""Report of a benchmark: a table for people, build/bench/NAME.json for scripts."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parents[2] / "build/bench"


@dataclass(frozen=True)
class Measure:
    """One row: what was measured, ours beside the peers'."""

    measure: str
    unit: str
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None  # ours to the peer the target speaks of
    target: str = ""
    met: bool | None = None  # None: no target


def at_most(measure: str, unit: str, ours: float, limit: float, peers: dict[str, float] | None = None) -> Measure:
    """A row whose target is a bound."""
    return Measure(measure, unit, ours, peers or {}, target=f"<= {limit:g}", met=ours <= limit)


def none(measure: str, count: float) -> Measure:
    """A row that must be 0."""
    return Measure(measure, "", count, target="0", met=count == 0)


def write_report(name: str, header: str, measures: list[Measure]) -> Path:
    """Prints the table under its header, and writes the JSON; returns its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps([asdict(measure) for measure in measures], indent=2, ensure_ascii=False) + "\n")
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(
        "measure", "unit", "ours", "peers", "ratio", "target", "met", title=f"bench-{name}", title_justify="left"
    )
    for row in measures:
        peers = "\n".join(f"{peer} {value:.4g}" for peer, value in row.peers.items())
        met = "" if row.met is None else "yes" if row.met else "MISSED"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        table.add_row(row.measure, row.unit, f"{row.ours:.4g}", peers, ratio, row.target, met)
    console.print(header)
    console.print(table)
    console.print(f"written to {path}")
    return path
