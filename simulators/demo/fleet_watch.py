"""Fleet watch: the demo's gateway as the controller sees it, asked as an operator would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from parkfleet.controller.client import FleetClient, FleetError
from parkfleet.controller.view import GatewayView

#: How often the controller is asked. Seconds.
ASK_S = 0.5


class FleetWatch:
    """The latest answer about one gateway; None before the controller knows it."""

    def __init__(self) -> None:
        self.gateway: GatewayView | None = None
        self._answered = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, controller: FleetClient, park: str, gateway: str) -> AsyncIterator["FleetWatch"]:
        """Asks in the background while the block runs."""
        watch = cls()
        async with controller as client:
            task = asyncio.create_task(watch._ask_for_ever(client, park, gateway), name="fleet watch")
            try:
                yield watch
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @property
    def online(self) -> bool:
        """Whether the controller says that the gateway is online."""
        return self.gateway is not None and self.gateway.online

    @property
    def line_loads(self) -> dict[str, float]:
        """Load of each line, 0 to 1."""
        return {line.id: line.load for line in self.gateway.lines} if self.gateway else {}

    async def until(self, condition: Callable[[GatewayView], bool]) -> GatewayView:
        """Returns the first answer, from the next one on, for which the condition holds."""
        while True:
            self._answered.clear()
            await self._answered.wait()
            if self.gateway is not None and condition(self.gateway):
                return self.gateway

    async def _ask_for_ever(self, client: FleetClient, park: str, gateway: str) -> None:
        while True:
            with contextlib.suppress(FleetError):  # it is starting; the demo's guard sees when it has ended
                found = [view for view in await client.list_gateways(park) if view.gateway == gateway]
                self.gateway = found[0] if found else self.gateway
                self._answered.set()
            await asyncio.sleep(ASK_S)  # the pace of asking
