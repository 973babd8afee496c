"""Ours: the agent as `parkfleet agent run`, and its batches counted by a consumer as platforms have it."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, Duplicate, Rejected
from parkfleet.protocols.payload.series import has_value
from tests.benchmarks.gateways.account import Account, Arrival, taken
from tests.benchmarks.gateways.ground import UNITS, VALUES, Ground

NAME: Final = "parkfleet"
ENVIRONMENT: Final[dict[str, str]] = {}


def command(ground: Ground) -> list[str]:
    """How it is started."""
    return [sys.executable, "-m", "parkfleet", "agent", "run", "--config", str(ground.folder / "gateway.yaml")]


def configure(ground: Ground, interval_s: float, flush: str = "1s", spread: bool = False, **broker: object) -> None:
    """Writes gateway.yaml and the meters' profile."""
    folder = ground.folder / "profiles"
    folder.mkdir(exist_ok=True)
    (folder / "bench.yaml").write_text(yaml.safe_dump(_profile()))
    lines = [
        {"id": f"e{place}", "url": f"tcp://127.0.0.1:{port}", "spread": spread}
        for place, port in enumerate(ground.ports)
    ]
    meters = [
        {
            "id": f"m{number:05}",
            "line": f"e{number // UNITS}",
            "unit": 1 + number % UNITS,
            "profile": "bench",
            "interval": f"{round(1000 * interval_s)}ms",
        }
        for number in range(ground.count)
    ]
    document = {
        "park": "bench",
        "gateway": "gw",
        "broker": {"url": ground.broker.url, **broker},
        "buffer": {"path": "buffer.db", "flush": flush},
        "profiles": ["profiles"],
        "lines": lines,
        "meters": meters,
    }
    (ground.folder / "gateway.yaml").write_text(
        yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    )


def account(ground: Ground) -> Account:
    """What came. Raises ValueError for a message that the consumer rejects."""
    found = Account()
    for arrival in _arrivals(ground):
        found.add(arrival)
    return found


def _arrivals(ground: Ground) -> Iterator[Arrival]:
    consumer = Consumer()
    for ns, topic, payload in taken(ground.taken):
        for output in consumer.feed(topic, payload):
            if isinstance(output, Rejected):
                raise ValueError(f"{output.topic}: {output.reason}")
            if isinstance(output, BatchDecoded):
                yield from _of_batch(output, ns / 1e6 - ground.base_ms)


def _of_batch(batch: BatchDecoded, arrived_ms: float) -> Iterator[Arrival]:
    for block in batch.rows:
        meter = batch.schema.entries[block.entry].meter
        for row in range(len(block.ts)):
            first = row * VALUES
            quality = block.quality[first : first + VALUES]
            good = VALUES if not any(quality) else sum(map(has_value, quality))
            if good:
                read, answered = _floats(block.slots[first : first + 2])
                yield Arrival(meter, int(read), int(answered), arrived_ms, good)


def _floats(slots: "object") -> tuple[float, ...]:
    return struct.unpack("=ff", struct.pack("=II", *(slot & 0xFFFF_FFFF for slot in slots)))


def _profile() -> dict[str, object]:
    """What peers/meters.c has."""
    points: list[dict[str, object]] = []
    for number in range(VALUES):
        point: dict[str, object] = {"id": f"p{number:02}", "type": "float32", "address": 2 * number, "unit": "W"}
        if 2 <= number < 12:
            point |= {"unit": "kWh", "kind": "counter", "decimals": 2}
        elif 12 <= number < 31:
            point["decimals"] = 1
        points.append(point)
    return {
        "profile": "bench",
        "title": {"en": "Meter of the benchmark"},
        "medium": "power",
        "source": "tests/benchmarks/peers/meters.c",
        "points": points,
    }
