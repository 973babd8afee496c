"""Watchers: who wants to hear of changes, and what each has still to hear.

A watcher that reads slowly costs at most one entry a gateway: of each it is told the newest state only.
"""

import asyncio

from parkfleet.controller.registry import Gateway, GatewayKey


class Watcher:
    """One reader of changes."""

    def __init__(self, park: str) -> None:
        self._park = park
        self._pending: dict[GatewayKey, Gateway] = {}
        self._woken = asyncio.Event()
        self._closed = False

    def offer(self, gateway: Gateway) -> None:
        """Notes a change, if it is of the watcher's park."""
        if not self._park or gateway.key.park == self._park:
            self._pending[gateway.key] = gateway
            self._woken.set()

    def close(self) -> None:
        """Ends next() once everything was told."""
        self._closed = True
        self._woken.set()

    async def next(self) -> list[Gateway]:
        """Waits for changes; empty when the watch is over."""
        await self._woken.wait()
        changes = list(self._pending.values())
        self._pending.clear()
        if not self._closed:
            self._woken.clear()
        return changes


class Watchers:
    """All readers of changes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._watchers: set[Watcher] = set()

    def add(self, park: str) -> Watcher | None:
        """A new watcher of a park, or of all (""); None when there are too many."""
        if len(self._watchers) >= self._limit:
            return None
        watcher = Watcher(park)
        self._watchers.add(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forgets a watcher."""
        self._watchers.discard(watcher)

    def publish(self, gateway: Gateway) -> None:
        """Tells every watcher of a gateway that has changed."""
        for watcher in self._watchers:
            watcher.offer(gateway)

    def close(self) -> None:
        """Ends every watch."""
        for watcher in self._watchers:
            watcher.close()
