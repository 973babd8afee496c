"""TCP rows of bench-engine: sixteen connections, 100 registers a request, 50 scaled float32 values out of each."""

from tests.benchmarks.harness import compiled, measured, median, python, served
from tests.benchmarks.peers.tcp_clients import OUTSTANDING
from tests.benchmarks.reporting import Measure

ROUNDS = 5
SECONDS = 2
CONNECTIONS = 16
REGISTERS = 100
CLIENTS = "tests.benchmarks.peers.tcp_clients"
SEVERAL = "several"


def clients(port: str) -> dict[str, list[str]]:
    """What runs beside each other in each round, as commands. libmodbus is missing where it is not installed."""
    numbers = (port, SECONDS, CONNECTIONS, REGISTERS)
    found = {"floor": compiled("floor.c"), "libmodbus": compiled("libmodbus.c", "libmodbus")}
    if found["libmodbus"] is None:
        print("libmodbus is left out: its headers are not installed (apt install libmodbus-dev)")
    programs = {name: [str(path), *map(str, numbers)] for name, path in found.items() if path is not None}
    return programs | {name: python(CLIENTS, name, *numbers) for name in ("ours", SEVERAL, "pymodbus")}


def tcp_rows() -> list[Measure]:
    """CPU per request and requests per second, medians of interleaved rounds."""
    server = compiled("server.c")
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    with served(str(server)) as (_, port):
        commands = clients(port)
        for _ in range(ROUNDS):
            for name, command in commands.items():
                requests, cpu_s, wall_s = measured(*command)
                rates.setdefault(name, []).append(requests / wall_s)
                costs.setdefault(name, []).append(cpu_s / requests * 1e6)
    rate = {name: median(rounds) for name, rounds in rates.items()}
    cost = {name: median(rounds) for name, rounds in costs.items()}
    rows = [_less(cost, "ours", ""), _less(cost, SEVERAL, f", {OUTSTANDING} requests under way on each (ours alone)")]
    if "libmodbus" in rate:
        rows.append(_more(rate, "libmodbus", 1.5))
    else:
        rows.append(Measure("TCP 16 connections: rate beside libmodbus", "requests/s", rate["ours"], target=">= 1.5x"))
    rows.append(_more(rate, "floor", 0.80))
    return rows


def _less(cost: dict[str, float], name: str, how: str) -> Measure:
    ratio = cost["pymodbus"] / cost[name]
    peers = {peer: value for peer, value in cost.items() if peer not in ("ours", SEVERAL)}
    measure = f"TCP 16 connections{how}: CPU, pymodbus async / ours"
    return Measure(measure, "us/request", cost[name], peers, ratio, ">= 20x less than pymodbus async", ratio >= 20)


def _more(rate: dict[str, float], peer: str, factor: float) -> Measure:
    ratio = rate["ours"] / rate[peer]
    measure = f"TCP 16 connections: rate beside {peer}"
    return Measure(
        measure, "requests/s", rate["ours"], {peer: rate[peer]}, ratio, f">= {factor}x {peer}", ratio >= factor
    )
