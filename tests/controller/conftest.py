"""A controller and a client of it, real ones on a free port; only its clock is a fake."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from parkfleet.controller.client import FleetClient
from parkfleet.controller.registry import Moment
from parkfleet.controller.server import ControllerServer


@dataclass
class FakeClock:
    """Time that passes when a test says so."""

    monotonic: float = 1000.0
    wall_ms: int = 1_790_000_000_000

    def __call__(self) -> Moment:
        return Moment(self.monotonic, self.wall_ms)

    def pass_time(self, seconds: float) -> None:
        """Moves both clocks on."""
        self.monotonic += seconds
        self.wall_ms += round(seconds * 1000)


@pytest.fixture
def clock() -> FakeClock:
    """The controller's clock."""
    return FakeClock()


@pytest.fixture
async def server(clock: FakeClock) -> AsyncIterator[ControllerServer]:
    """A controller with a heartbeat of 10 s by the fake clock."""
    async with ControllerServer("127.0.0.1:0", 10.0, clock) as running:
        yield running


@pytest.fixture
async def client(server: ControllerServer) -> AsyncIterator[FleetClient]:
    """An operator's connection to it."""
    async with FleetClient(server.address) as connected:
        yield connected
