"""bench-rules: what rules and deadbands cost on the way of a scan into its batch, and what deadbands save in bytes.

Scans of 20 meters of 50 points, 46 of them float32 that change with every reading, go the way that they go in the
agent behind polling: clock, counter guard, rules, batcher, and the codec every 5 s. Compared with no rules at all.
"""

import contextlib
import random
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from parkfleet.agent.batcher import Batcher
from parkfleet.agent.configuration import Configuration, load_configuration
from parkfleet.agent.plan import make_plan
from parkfleet.agent.trust import Trust
from parkfleet.protocols.payload.codecs import encode
from parkfleet.protocols.payload.series import Scan
from tests.benchmarks.reporting import Measure, write_report
from tests.payload.strategies import float32_bits

METERS, GAUGES, COUNTERS, SECONDS, FLUSH_S, ROUNDS = 20, 46, 4, 60, 5, 7
HEADER = (
    "Scans of 20 meters x 50 points, from the clock gate to encoded batches of 5 s; median of 7 rounds, one core.\n"
    "No peer: the same without rules is the comparison. All gauges change with each reading, within 0.5 V."
)
GAUGE_NAMES = [f"g{n}" for n in range(GAUGES)]
CASES: dict[str, dict[str, Any]] = {
    "no rules": {},
    "a rule for another meter": {
        "rules": [{"id": "r", "kind": "limit", "points": ["g0"], "above": 400, "meters": ["m0"]}]
    },
    "a limit on one point of each": {"rules": [{"id": "r", "kind": "limit", "points": ["g0"], "above": 400}]},
    "a limit on every gauge": {"rules": [{"id": "r", "kind": "limit", "points": GAUGE_NAMES, "above": 400}]},
    "a deadband on every gauge": {"deadbands": [{"id": "d", "points": GAUGE_NAMES, "absolute": 0.3}]},
}


def configured(folder: Path, settings: dict[str, Any]) -> Configuration:
    """Meters of one model, and what a case sets."""
    gauges = [
        {"id": name, "type": "float32", "address": 2 * n, "decimals": 1, "unit": "V"}
        for n, name in enumerate(GAUGE_NAMES)
    ]
    counters = [
        {"id": f"c{n}", "type": "uint32", "address": 200 + 2 * n, "unit": "kWh", "kind": "counter"}
        for n in range(COUNTERS)
    ]
    profile = {"profile": "p", "title": {"en": "p"}, "medium": "power", "source": "bench", "points": gauges + counters}
    meters = [{"id": f"m{n}", "line": "l", "unit": n, "profile": "p", "interval": "1s"} for n in range(METERS)]
    document = {
        "park": "p",
        "gateway": "g",
        "broker": {"url": "mqtt://h"},
        "profiles": ["."],
        "lines": [{"id": "l", "url": "tcp://h"}],
        "meters": meters,
        **settings,
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(profile))
    (folder / "gateway.yaml").write_text(yaml.safe_dump(document))
    return load_configuration(folder / "gateway.yaml")


def scans() -> list[Scan]:
    """Voltages that wander within half a volt, counters that count."""
    chance = random.Random(1)
    made = []
    for second in range(SECONDS):
        for entry in range(METERS):
            volts = [float32_bits(round(230 + chance.uniform(-0.25, 0.25), 1)) for _ in range(GAUGES)]
            slots = array("q", [*volts, *[1000 * entry + second] * COUNTERS])
            made.append(Scan(entry, 1_795_438_548_000 + 1000 * second, slots, bytes(GAUGES + COUNTERS)))
    return made


def played(configuration: Configuration, made: list[Scan]) -> tuple[float, int]:
    """Scans a second, and bytes of all batches."""
    plan, batcher, size = make_plan(configuration), Batcher(), 0
    trust = Trust(configuration, plan, batcher.add)
    began = time.perf_counter()
    for index, scan in enumerate(made, 1):
        trust.on_scan(scan)
        if index % (FLUSH_S * METERS) == 0:
            size += sum(len(encode(plan.schema, batch.rows)) for batch in batcher.close())
    return len(made) / (time.perf_counter() - began), size


def main() -> None:
    """Measures all cases, turn by turn."""
    made = scans()
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    sizes: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        folders = {name: Path(stack.enter_context(tempfile.TemporaryDirectory())) for name in CASES}
        configurations = {name: configured(folders[name], settings) for name, settings in CASES.items()}
        for _ in range(ROUNDS):
            for name, configuration in configurations.items():
                own, sizes[name] = played(configuration, made)
                rates[name].append(own)
    plain = median(rates["no rules"])
    measures = [Measure("no rules", "scans/s", plain)]
    for name, found in list(rates.items())[1:]:
        own = median(found)
        goal = "≥ 0.95 of no rules" if name == "a rule for another meter" else ""
        measures.append(
            Measure(name, "scans/s", own, {"no rules": plain}, own / plain, goal, own >= 0.95 * plain if goal else None)
        )
    cost = 1e6 * (1 / median(rates["a limit on every gauge"]) - 1 / plain) / GAUGES
    measures.append(Measure("a limit, for each reading", "µs", cost))
    per = SECONDS * METERS * (GAUGES + COUNTERS)
    bytes_plain, bytes_held = sizes["no rules"] / per, sizes["a deadband on every gauge"] / per
    ratio = bytes_held / bytes_plain
    measures.append(Measure("a deadband of 0.3 V", "bytes/reading", bytes_held, {"no rules": bytes_plain}, ratio))
    write_report("rules", HEADER, measures)


if __name__ == "__main__":
    main()
