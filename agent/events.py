"""Events: what happened at the gateway and should be heard of; kept until the broker has it, sent ahead of batches."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable
from typing import Final, Protocol

import msgspec

from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.payload.topics import Event

log = logging.getLogger(__name__)

#: Events that are kept in memory while the disk refuses; then the oldest go.
MOST_UNKEPT: Final = 1000


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
        self._unkept: deque[Event] = deque(maxlen=MOST_UNKEPT)  # the disk refused them
        self.counts: Counter[str] = Counter()  # by kind, since the start

    def emit(self, kind: str, text: str, meter: str | None = None, data: dict[str, object] | None = None) -> None:
        """Something happened: told in the log at once, kept and sent soon."""
        event = Event(time.time_ns() // 1_000_000, kind, text, meter, data or {})
        self._count(event)
        self._fresh.put_nowait(event)

    def kept(self, event: Event) -> None:
        """Something happened, and the store has it already."""
        self._count(event)
        self._waiting.set()

    async def run(self) -> None:
        """Keeps events on the disk, until cancelled."""
        while True:
            await self._keep(await self._fresh.get())

    async def end(self) -> None:
        """Keeps what is still in memory; run() has ended."""
        while not self._fresh.empty():
            await self._keep(self._fresh.get_nowait())

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
            while self._unkept:
                await connection.publish(topic, self._unkept[0].pack())
                self._unkept.popleft()

    async def _keep(self, event: Event) -> None:
        if not await asyncio.to_thread(self._store.add_event, event.pack()):
            self._unkept.append(event)
        self._waiting.set()

    def _count(self, event: Event) -> None:
        log.warning("%s%s: %s", f"meter {event.meter}: " if event.meter else "", event.kind, event.text)
        self.counts[event.kind] += 1
