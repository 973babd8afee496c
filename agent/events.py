"""Events: what happened at the gateway and should be heard of; kept until the broker has it, sent ahead of batches."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.payload.topics import Event

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """A connection to the broker."""

    def publish(self, topic: str, payload: bytes) -> Awaitable[None]:
        """At QoS 1; done when it is acknowledged, or with a BrokerError."""


class Events:
    """One gateway's events. emit() from the event loop's thread; run() writes, deliver() sends."""

    def __init__(self, store: TruthStore) -> None:
        self._store = store
        self._fresh: asyncio.Queue[Event] = asyncio.Queue()
        self._waiting = asyncio.Event()  # the store may have some
        self._waiting.set()
        self.counts: Counter[str] = Counter()  # by kind, since the start

    def emit(self, kind: str, text: str, meter: str | None = None, data: dict[str, object] | None = None) -> None:
        """Something happened: told in the log at once, kept and sent soon."""
        log.warning("%s%s: %s", f"meter {meter}: " if meter else "", kind, text)
        self.counts[kind] += 1
        self._fresh.put_nowait(Event(time.time_ns() // 1_000_000, kind, text, meter, data or {}))

    async def run(self) -> None:
        """Keeps events on the disk, until cancelled."""
        prefix = await asyncio.to_thread(self._store.prefix)
        while True:
            await self._keep(prefix, await self._fresh.get())

    async def end(self) -> None:
        """Keeps what is still in memory; run() has ended."""
        prefix = await asyncio.to_thread(self._store.prefix)
        while not self._fresh.empty():
            await self._keep(prefix, self._fresh.get_nowait())

    async def deliver(self, connection: Publisher, topic: str) -> None:
        """Sends over a connection what waits and what comes, until cancelled. Raises BrokerError when it ends.

        An event is forgotten once it is acknowledged: killed in between, it goes out again with the same id.
        """
        prefix = await asyncio.to_thread(self._store.prefix)
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while rows := await asyncio.to_thread(self._store.events):
                for number, packed in rows:
                    event = msgspec.json.decode(packed, type=Event)
                    await connection.publish(topic, msgspec.structs.replace(event, id=f"{prefix}-{number}").pack())
                    await asyncio.to_thread(self._store.drop_event, number)

    async def _keep(self, prefix: str, event: Event) -> None:
        await asyncio.to_thread(self._store.add_event, event.pack())
        self._waiting.set()
