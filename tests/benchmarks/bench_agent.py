"""bench-agent: the whole agent beside ThingsBoard IoT Gateway 3.8.5, from the meters' registers to the broker.

All of it by default; --only PART for one (its table goes to agent-PART.json), --duration for a longer look at memory.
"""

import argparse
import asyncio
import statistics
from collections.abc import Callable, Coroutine

from parkfleet.protocols.quantity import Duration
from tests.benchmarks.gateways.backlog import drain, memory
from tests.benchmarks.gateways.leg import Gateway, Leg, played
from tests.benchmarks.gateways.ours import Ours
from tests.benchmarks.gateways.thingsboard import ThingsBoard
from tests.benchmarks.reporting import Measure, at_most, none, write_report

OURS, THEIRS = Ours(), ThingsBoard()
ROUNDS = 2
WARM_S, WINDOW_S = 5.0, 20.0
#: Meters of the last step, and how often they are read.
MANY, INTERVALS_S = 2000, (1.0, 0.5, 0.25, 0.125, 0.1)
HEADER = """\
The whole agent (`parkfleet agent run`) beside ThingsBoard IoT Gateway 3.8.5 (PyPI, pymodbus 3.9.2), each a process
pinned to one core, in turns. Meters: simulated Modbus TCP, 50 float32 values that all change, read in one request, 50
meters an endpoint. Broker: mosquitto, QoS 1. Theirs: block reads, SQLite store, no rate limits, no statistics. Ours:
SQLite buffer, synchronous=FULL, a batch each `flush`, each decodable alone. Meters, broker and a taker of all messages
run on the other core; what it took is counted scan by scan afterwards: ours by our consumer's own code, theirs out of
its JSON. Delays: from the meter's answer (its time is one of the values) to the taker, to whom the broker passes a
message in the turn in which it acknowledges it. CPU: all threads of the gateway. RSS: MB are 10^6 bytes."""


def beside(measure: str, unit: str, ours: float, theirs: float, target: str = "", factor: float = 0.0) -> Measure:
    """A row; factor: how many times less than theirs the target wants."""
    ratio = theirs / ours
    return Measure(measure, unit, ours, {THEIRS.name: theirs}, ratio, target, ratio >= factor if target else None)


async def interleaved(meters: int) -> tuple[list[Leg], list[Leg]]:
    """Ours and theirs, in turns, at one scan a second."""
    found: dict[str, list[Leg]] = {OURS.name: [], THEIRS.name: []}
    for number in range(ROUNDS):
        gateways: list[Gateway] = [OURS, THEIRS]
        for gateway in gateways:
            print(f"{meters} meters, round {number + 1}: {gateway.name}", flush=True)
            found[gateway.name].append(await played(gateway, meters, 1.0, WARM_S, WINDOW_S))
    return found[OURS.name], found[THEIRS.name]


async def cost(_: float) -> list[Measure]:
    """What a reading costs."""
    rows = []
    for meters in (50, 200):
        ours, theirs = await interleaved(meters)
        name = f"{meters} meters x 50 values, 1 s: "
        rows += [
            beside(f"{name}CPU a 1,000 readings", "s", *_means(ours, theirs, "cpu_s"), ">= 25x less", 25),
            beside(f"{name}delivered", "readings/s", *_means(ours, theirs, "delivered")),
            Measure(
                f"{name}RSS",
                "MB",
                ours[-1].rss_mb,
                {THEIRS.name: theirs[-1].rss_mb},
                None,
                "<= 50",
                ours[-1].rss_mb <= 50,
            ),
            _lost(name, ours),
            Measure(f"{name}delay p99, flush 1 s", "ms", ours[-1].delay(99), {THEIRS.name: theirs[-1].delay(99)}),
        ]
    return rows


def _means(ours: list[Leg], theirs: list[Leg], what: str) -> tuple[float, float]:
    return statistics.mean(getattr(leg, what) for leg in ours), statistics.mean(getattr(leg, what) for leg in theirs)


def _lost(name: str, legs: list[Leg]) -> Measure:
    """Of ours: everything that the meters answered, from the first to the last, came, once."""
    answered = sum(leg.answered for leg in legs)
    return none(f"{name}scans lost or twice, of {answered:,}", sum(leg.wrong for leg in legs))


async def rate(_: float) -> list[Measure]:
    """How far it goes."""
    best: Leg | None = None
    rows: list[Measure] = []
    for interval_s in INTERVALS_S:
        print(f"{MANY} meters every {interval_s:g} s", flush=True)
        leg = await played(Ours(spread=True), MANY, interval_s, WARM_S, WINDOW_S / 2)
        name = f"{MANY} meters x 50 values, {interval_s:g} s"
        rows.append(Measure(f"{name}: delivered of {leg.offered:,.0f}", "readings/s", leg.delivered))
        rows.append(Measure(f"{name}: part of the core", "", leg.core))
        if not leg.is_sustained:
            break
        best = leg
    theirs = max([await _theirs(1.0), await _theirs(0.5)], key=lambda leg: leg.delivered)
    reached, theirs_reached = best.delivered if best else 0.0, theirs.delivered
    name = "highest sustained durable rate, one core"
    peers, met = {THEIRS.name: theirs_reached}, reached >= 99_000  # a window's ends cut a batch
    return [Measure(name, "readings/s", reached, peers, reached / theirs_reached, ">= 100,000", met), *rows]


async def _theirs(interval_s: float) -> Leg:
    print(f"{THEIRS.name}: 200 meters every {interval_s:g} s", flush=True)
    return await played(THEIRS, 200, interval_s, WARM_S, WINDOW_S)


async def latency(_: float) -> list[Measure]:
    """How soon a reading is at the broker."""
    print("50 meters, flush 100 ms", flush=True)
    ours = await played(Ours(flush="100ms", spread=True), 50, 1.0, WARM_S, WINDOW_S)
    print(THEIRS.name, flush=True)
    theirs = await played(THEIRS, 50, 1.0, WARM_S, WINDOW_S)
    row, name = "50 meters x 50 values, 1 s, flush 100 ms: ", THEIRS.name
    return [
        Measure(f"{row}delay p50", "ms", ours.delay(50), {name: theirs.delay(50)}),
        at_most(f"{row}delay p99", "ms", ours.delay(99), 200, {name: theirs.delay(99)}),
        beside(f"{row}CPU a 1,000 readings", "s", ours.cpu_s, theirs.cpu_s),
        _lost(row, [ours]),
    ]


PARTS: dict[str, Callable[[float], Coroutine[None, None, list[Measure]]]] = {
    "cost": cost, "rate": rate, "latency": latency, "memory": memory, "drain": drain
}  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="bench-agent", description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--duration", default="40s", help="of the look at memory: 1h")
    options = parser.parse_args()
    names, rows = [options.only] if options.only else list(PARTS), list[Measure]()
    for name in names:
        rows += asyncio.run(PARTS[name](Duration.parse(options.duration)))
    write_report(f"agent-{options.only}" if options.only else "agent", HEADER, rows)


if __name__ == "__main__":
    main()
