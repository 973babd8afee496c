"""Park: simulated lines with meters of all media, and the part of gateway.yaml that reads them."""

import random
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final, Self

from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.profile import Medium, Profile
from parkfleet.protocols.readplan import WireCost, plan_requests
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord

#: The demo's park: more power meters than others, as in real ones.
_MEDIA: Final[tuple[Medium, ...]] = ("power", "water", "heat", "power", "gas")
_MIN_METERS: Final = 28
_METERS_ON_SERIAL: Final = 10
_SERIAL_INTERVAL_S: Final = 5
_TCP_INTERVAL_S: Final = 1
#: Share of a serial line's time that its meters may take: the rest is for repeats, and for dead meters.
_MAX_LOAD: Final = 0.55
_BAUD: Final = 9600


@dataclass(frozen=True)
class ParkMeter:
    """A simulated meter and what a gateway must know of it."""

    id: str
    line: str
    interval: int  # seconds
    simulated: SimulatedMeter
    load: float  # share of its line's time, estimated

    @property
    def profile(self) -> Profile:
        return self.simulated.profile


class Park:
    """Serial lines, a TCP endpoint and their record; runs within `async with`."""

    def __init__(self, lines: list[SerialLine], endpoint: TcpEndpoint, meters: list[ParkMeter], record: AnswerRecord):
        self.lines = lines
        self.endpoint = endpoint
        self.meters = meters
        self.record = record
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            for line in self.lines:
                await starting.enter_async_context(line)
            await starting.enter_async_context(self.endpoint)
            self._running = starting.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._running.aclose()

    @property
    def wires(self) -> list[SerialLine | TcpEndpoint]:
        """All that meters hang on."""
        return [*self.lines, self.endpoint]

    def configuration(self) -> dict[str, list[dict[str, object]]]:
        """lines and meters of gateway.yaml. The endpoint's port is known once the park runs."""
        return {
            "lines": [{"id": wire.id, "url": wire.url} for wire in self.wires],
            "meters": [
                {
                    "id": meter.id,
                    "line": meter.line,
                    "unit": meter.simulated.unit,
                    "profile": meter.profile.profile,
                    "interval": f"{meter.interval}s",
                }
                for meter in self.meters
            ],
        }

    def line_load(self, line: str) -> float:
        """Estimated share of a line's time that reading its meters takes."""
        return sum(meter.load for meter in self.meters if meter.line == line)


def demo_park(seed: int, directory: Path, folders: Iterable[Path] = ()) -> Park:
    """Two serial lines at 9600 baud and a TCP endpoint with at least 24 meters of four media.

    directory: where the lines' devices appear. folders: profiles beside the built-in ones. Raises
    UnknownProfileError, DocumentError, and LookupError when a medium has no profile.
    """
    record = AnswerRecord()
    supply = _supply(seed, _by_medium(list(folders)))
    meters: list[ParkMeter] = []
    for name in ("bus1", "bus2"):
        serial = LineAddress(kind="serial", device=name, baud=_BAUD)
        meters += _fill(supply, name, serial, _SERIAL_INTERVAL_S, _METERS_ON_SERIAL)
    hall = LineAddress(kind="tcp", host="127.0.0.1")
    meters += _fill(supply, "hall", hall, _TCP_INTERVAL_S, _MIN_METERS - len(meters))

    def on(line: str) -> list[SimulatedMeter]:
        return [meter.simulated for meter in meters if meter.line == line]

    lines = [SerialLine(name, directory, on(name), record, baud=_BAUD) for name in ("bus1", "bus2")]
    return Park(lines, TcpEndpoint("hall", on("hall"), record), meters, record)


@dataclass(frozen=True)
class _Draft:
    """The next meter of the park, before it has a line."""

    id: str
    profile: Profile
    seed: int

    def on(self, line: str, unit: int, address: LineAddress, interval: int) -> ParkMeter:
        simulated = SimulatedMeter(self.profile, unit, load_of(self.profile.medium, self.seed), self.seed)
        cost = WireCost.of(address, simulated.turnaround)
        plan = plan_requests(self.profile, self.profile.points, unit, cost)
        return ParkMeter(self.id, line, interval, simulated, sum(request.seconds(cost) for request in plan) / interval)


def _supply(seed: int, profiles: dict[Medium, list[Profile]]) -> Iterator[_Draft]:
    """Meters without end, each medium's models in turn."""
    random_ = random.Random(f"park {seed}")
    models = {medium: cycle(found) for medium, found in profiles.items()}
    count = dict.fromkeys(models, 0)
    for medium in cycle(_MEDIA):
        count[medium] += 1
        yield _Draft(f"{medium}-{count[medium]:02d}", next(models[medium]), random_.getrandbits(32))


def _fill(supply: Iterator[_Draft], line: str, address: LineAddress, interval: int, most: int) -> list[ParkMeter]:
    """The next meters, as many as fit on the line; the one that does not fit is left out of the park."""
    limit = _MAX_LOAD if address.kind == "serial" else float("inf")
    meters: list[ParkMeter] = []
    while len(meters) < most:
        meter = next(supply).on(line, len(meters) + 1, address, interval)
        if sum(other.load for other in meters) + meter.load > limit:
            break
        meters.append(meter)
    return meters


def _by_medium(folders: list[Path]) -> dict[Medium, list[Profile]]:
    profiles = [load_profile(name, folders) for name in profile_names(folders)]
    found = {medium: [profile for profile in profiles if profile.medium == medium] for medium in _MEDIA}
    missing = [medium for medium, models in found.items() if not models]
    if missing:
        raise LookupError(f"no profile for {', '.join(missing)}: the park needs one of each medium")
    return found
