"""Ours: the agent as `parkfleet agent run`, and its batches counted by a consumer as platforms have it."""

import struct
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import yaml

from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, Rejected
from parkfleet.protocols.payload.series import has_value
from tests.benchmarks.gateways.account import Account, Arrival, Taken, taken
from tests.benchmarks.gateways.ground import UNITS, VALUES, Ground


@dataclass(frozen=True)
class Ours:
    """The agent."""

    flush: str = "1s"  # how often a batch closes
    spread: bool = False  # meters take turns within the interval
    port: int | None = None  # of the broker, where it is not the ground's
    max_bytes: str = "512MiB"
    name: str = "parkfleet"

    def command(self, ground: Ground) -> list[str]:
        """See Gateway."""
        return [sys.executable, "-m", "parkfleet", "agent", "run", "--config", str(ground.folder / "gateway.yaml")]

    def environment(self, _: Ground) -> dict[str, str]:
        """See Gateway."""
        return {}

    @asynccontextmanager
    async def company(self, _: Ground) -> AsyncIterator[None]:
        """See Gateway."""
        yield

    def configure(self, ground: Ground, interval_s: float) -> None:
        """See Gateway."""
        folder = ground.folder / "profiles"
        folder.mkdir(exist_ok=True)
        (folder / "bench.yaml").write_text(yaml.safe_dump(_profile()))
        lines = [
            {"id": f"e{place}", "url": f"tcp://127.0.0.1:{port}", "spread": self.spread}
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
            "broker": {"url": f"mqtt://127.0.0.1:{self.port or ground.broker.port}"},
            "buffer": {"path": "buffer.db", "flush": self.flush, "max_bytes": self.max_bytes},
            "profiles": ["profiles"],
            "lines": lines,
            "meters": meters,
        }
        (ground.folder / "gateway.yaml").write_text(yaml.safe_dump(document))

    def account(self, ground: Ground) -> Account:
        """See Gateway."""
        found = Account()
        for arrival in arrivals_of(taken(ground.taken), ground.base_ms):
            found.add(arrival)
        return found


def arrivals_of(messages: Iterable[Taken], base_ms: int) -> Iterator[Arrival]:
    """What a consumer finds in messages. Raises ValueError for one that it rejects."""
    consumer = Consumer()
    for ns, topic, payload in messages:
        for output in consumer.feed(topic, payload):
            if isinstance(output, Rejected):
                raise ValueError(f"{output.topic}: {output.reason}")
            if isinstance(output, BatchDecoded):
                yield from _of_batch(output, ns / 1e6 - base_ms)


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


def _floats(slots: Iterable[int]) -> tuple[float, ...]:
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
