"""Claims: a session's epoch from the database, before it counts. Those that come together share a commit."""

import asyncio
from collections.abc import Mapping
from typing import Final

from parkfleet.controller.checks import LaterError, RefusedError
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.fleet_store import FleetStore
from parkfleet.controller.registry import Gateway, GatewayKey

#: Pause between two commits of claims: a storm of them shares commits, a single one does not wait. Seconds.
CLAIM_S: Final = 0.05


class Claims:
    """One replica's claims."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._waiting: dict[GatewayKey, tuple[Gateway, asyncio.Future[int]]] = {}
        self._woken = asyncio.Event()
        self.failed = False  # one may be in the database though we were told otherwise

    async def claim(self, gateway: Gateway) -> int:
        """The epoch of a session that begins. Raises RefusedError, LaterError."""
        if gateway.key in self._waiting:
            _refuse(self._waiting.pop(gateway.key)[1], RefusedError(f"another session of {gateway.key} has taken over"))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[gateway.key] = (gateway, future)
        self._woken.set()
        return await future

    async def run(self) -> None:
        """Claims until cancelled."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                waiting, self._waiting = self._waiting, {}
                await self._claim(waiting)
                await asyncio.sleep(CLAIM_S)
        finally:
            for _, future in self._waiting.values():
                _refuse(future, LaterError("the controller is stopping"))

    async def _claim(self, waiting: Mapping[GatewayKey, tuple[Gateway, asyncio.Future[int]]]) -> None:
        try:
            epochs = await self._store.claim([gateway for gateway, _ in waiting.values()])
        except UNAVAILABLE:
            self.failed = True
            for _, future in waiting.values():
                _refuse(future, LaterError("the controller's database is away"))
            return
        except asyncio.CancelledError:
            for _, future in waiting.values():
                _refuse(future, LaterError("the controller is stopping"))
            raise
        for key, (_, future) in waiting.items():
            if not future.done():
                future.set_result(epochs[key])


def _refuse(future: asyncio.Future[int], why: RefusedError) -> None:
    if not future.done():
        future.set_exception(why)
