"""RTU rows of bench-engine: 32 meters of three blocks of 20 registers on a paced pty, alive and partly dead."""

import importlib.util
import tempfile
from pathlib import Path

from tests.benchmarks.harness import compiled, last_words, measured, median, python, served
from tests.benchmarks.reporting import Measure

UNITS, BLOCKS, REGISTERS = 32, 3, 20
ROUNDS = 2
CLIENTS = "tests.benchmarks.peers.rtu_clients"


def turnaround(unit: int) -> float:
    """Seconds; as in peers/line.c."""
    return 0.005 + 0.015 * (unit * 7919 % 97) / 96


def ideal_cycle(baud: int, units: int = UNITS) -> float:
    """Seconds: request, turnaround, answer, t3.5, and nothing else."""
    byte = 10 / baud
    silence = 0.00175 if baud > 19200 else 3.5 * byte
    frames = (8 + 5 + 2 * REGISTERS) * byte + silence
    return sum(BLOCKS * (frames + turnaround(unit)) for unit in range(1, units + 1))


class Bus:
    """Runs clients on fresh lines."""

    def __init__(self, folder: Path) -> None:
        self._line = str(compiled("line.c"))
        self._libmodbus = compiled("libmodbus_rtu.c", "libmodbus")
        self._device = str(folder / "line")

    def names(self) -> list[str]:
        """The clients that this machine has."""
        names = ["ours", "pymodbus_sync", "pymodbus_async"]
        if importlib.util.find_spec("minimalmodbus"):
            names.append("minimalmodbus")
        else:
            print("minimalmodbus is left out: it is not installed (pip install minimalmodbus)")
        return [*names, *(["libmodbus"] if self._libmodbus else [])]

    def run(self, client: str, baud: int, cycles: int, *, strict: bool) -> tuple[list[float], list[float]]:
        """(good, failed, CPU s, wall s) of the client, (heard, too early, shortest silence us) of the line."""
        with served(self._line, str(baud), str(UNITS), "0", str(int(strict)), self._device) as (server, _):
            numbers = (self._device, baud, UNITS, BLOCKS, cycles)
            if client == "libmodbus":
                command = [str(self._libmodbus), *map(str, numbers)]
            else:
                command = python(CLIENTS, client, *numbers)
            return measured(*command), last_words(server)

    def dead(self, baud: int, dead: int) -> list[float]:
        """What peers/rtu_dead.py prints."""
        with served(self._line, str(baud), str(UNITS), str(dead), "1", self._device) as (server, _):
            client = python("tests.benchmarks.peers.rtu_dead", self._device, baud, UNITS, dead, server.pid)
            return measured(*client)


def rtu_rows() -> list[Measure]:
    """All RTU rows."""
    with tempfile.TemporaryDirectory() as folder:
        bus = Bus(Path(folder))
        rows = [row for baud in (9600, 19200) for row in _alive(bus, baud)]
        return rows + [_planned(bus, baud) for baud in (9600, 19200)] + _dead(bus)


def _planned(bus: Bus, baud: int) -> Measure:
    """Our read plan beside the ideal for a request a block, where 6 registers lie between the blocks."""
    (good, failed, _, cycle_s), (_, early, _) = bus.run("planned", baud, 1, strict=True)
    if failed or early:
        print(f"own plan at {baud}: {failed:.0f} of {good + failed:.0f} requests failed, {early:.0f} came too early")
    ideal = ideal_cycle(baud)
    return Measure(f"RTU {baud}: cycle by our own plan / ideal of one request a block", "s", cycle_s,
        {"ideal": ideal}, cycle_s / ideal, "< 1", not failed and cycle_s < ideal)  # fmt: skip


def _alive(bus: Bus, baud: int) -> list[Measure]:
    cycles = 1 if baud == 9600 else 2
    cycle: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    early: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name in bus.names():
            # The two that send too early would lose half their requests on a strict line: they are counted instead.
            strict = name not in ("pymodbus_async", "libmodbus")
            (good, failed, cpu_s, wall_s), (_, too_early, _) = bus.run(name, baud, cycles, strict=strict)
            if failed:
                print(f"{name} at {baud}: {failed:.0f} of {good + failed:.0f} requests failed")
            cycle.setdefault(name, []).append(wall_s / cycles)
            cost.setdefault(name, []).append(cpu_s / (good + failed) * 1e6)
            early[name] = early.get(name, 0) + too_early
    cycles_of = {name: median(values) for name, values in cycle.items()}
    costs_of = {name: median(values) for name, values in cost.items()}
    ideal = ideal_cycle(baud)
    ratio = ideal / cycles_of["ours"]
    legal = {f"{name} (illegal)" if early[name] else name: value for name, value in cycles_of.items() if name != "ours"}
    return [
        Measure(f"RTU {baud}: cycle of 32 meters x 3 blocks, ideal / ours", "s", cycles_of["ours"],
            {"ideal": ideal, **legal}, ratio, ">= 98 % of ideal", ratio >= 0.98),
        Measure(f"RTU {baud}: requests before t3.5", "count", early["ours"],
            {name: value for name, value in early.items() if name != "ours"}, None, "0", early["ours"] == 0),
        _cost_row(baud, costs_of),
    ]  # fmt: skip


def _cost_row(baud: int, cost: dict[str, float]) -> Measure:
    peers = {name: value for name, value in cost.items() if name != "ours"}
    measure, target = f"RTU {baud}: CPU, bytes one by one, ours / libmodbus", "<= 1.0 of libmodbus"
    if "libmodbus" not in cost:
        return Measure(measure, "us/request", cost["ours"], peers, None, target)
    ratio = cost["ours"] / cost["libmodbus"]
    return Measure(measure, "us/request", cost["ours"], peers, ratio, target, ratio <= 1.0)


def _dead(bus: Bus) -> list[Measure]:
    cycle_s, alone_s, returned_s, share = bus.dead(9600, 2)
    ratio = cycle_s / alone_s
    return [
        Measure("RTU 9600: cycle with 2 of 32 dead, after detection / the 30 alone", "s", cycle_s,
            {"30 alone": alone_s, "ideal of 30": ideal_cycle(9600, UNITS - 2)}, ratio, "<= 1.05x", ratio <= 1.05),
        Measure("RTU 9600: share of the line's time for 2 dead, after detection", "%", 100 * share, {}, None, "<= 2 %",
            share <= 0.02),
        Measure("RTU 9600: dead meter read again after its return", "s", returned_s, {}, None, "<= 60 s",
            returned_s <= 60),
    ]  # fmt: skip
