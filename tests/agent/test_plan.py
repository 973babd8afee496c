"""Plan: equal meters are planned once."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from parkfleet.agent import plan as module
from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.plan import Plan, make_plan

METERS: list[dict[str, object]] = [
    {"profile": "eastron-sdm630", "interval": "1s"},
    {"profile": "eastron-sdm630", "interval": "1s", "intervals": {"energy_import": "15m"}},
    {"profile": "eastron-sdm630", "interval": "1s", "points": ["voltage_l1"]},
    {"profile": "schneider-iem3155", "interval": "1s"},
    {"profile": "schneider-iem3155", "interval": "10s", "max_rate": {"energy_import": 5}},
]


def told(plan: Plan) -> tuple[object, ...]:
    """What can be compared of a plan: derivations hold functions, and are told by their columns."""
    meters = [meter for line in plan.lines for meter in line.meters]
    asked = [replace(meter, derivation=None) for meter in meters]
    derived = [meter.derivation and meter.derivation.columns for meter in meters]
    return plan.schema, asked, derived, [(entry, own.columns) for entry, own in plan.derivations.items()]


def test_equal_meters_are_planned_as_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On lines of different cost, with groups or without; and they share what they can."""
    lines = ["tcp://10.0.0.1", "tcp://10.0.0.2", "serial:///dev/ttyS1", "serial:///dev/ttyS2?baud=19200"]
    document = {
        "park": "p",
        "gateway": "g",
        "broker": {"url": "mqtt://h"},
        "lines": [{"id": f"l{place}", "url": url} for place, url in enumerate(lines)],
        "meters": [
            {"id": f"m{line}-{place}", "line": f"l{line}", "unit": 1 + place, **meter}
            for line in range(len(lines))
            for place, meter in enumerate(METERS * 2)
        ],
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    configuration = load_configuration(path)
    shared = make_plan(configuration)
    numbers = itertools.count()
    monkeypatch.setattr(module, "_kind", lambda _: str(next(numbers)).encode())
    assert told(shared) == told(make_plan(configuration))
    one, other = shared.lines[0].meters[0], shared.lines[0].meters[len(METERS)]
    assert one.points is other.points
    assert shared.schema.entries[one.entry].columns is shared.schema.entries[other.entry].columns
