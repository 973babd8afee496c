"""Events: what happened at the gateway and should be heard of; kept until the broker has it, sent ahead of batches."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Coroutine
from typing import Final, NamedTuple, Protocol

import msgspec

from parkfleet.agent.alarm import AlarmKey, AlarmState
from parkfleet.agent.pace import refusal_pause
from parkfleet.agent.truth_store import TruthStore
from parkfleet.protocols.mqtt import PublishRefusedError
from parkfleet.protocols.payload.topics import Event

log = logging.getLogger(__name__)

#: Events that are kept in memory while the disk refuses; then the oldest go.
MOST_UNKEPT: Final = 1000
#: Events under way at once: a thousand that waited go in ten round trips, and in as many writes to the disk.
AT_ONCE: Final = 100
#: Batches wait at most so long for an event that was emitted before them: a disk that hangs is no reason to. Seconds.
AHEAD_S: Final = 1.0


class Publisher(Protocol):
    """A connection to the broker."""

    def publish(self, topic: str, payload: bytes) -> Awaitable[None]:
        """At QoS 1; done when it is acknowledged, or with a BrokerError. Sent when this returns."""


class _Fresh(NamedTuple):
    """An event that is not on the disk yet, and the alarm that it tells of."""

    event: Event
    alarm: tuple[AlarmKey, AlarmState] | None


class Events:
    """One gateway's events. emit() from the event loop's thread; run() writes, deliver() sends."""

    def __init__(self, store: TruthStore) -> None:
        self._store = store
        self._fresh: asyncio.Queue[_Fresh] = asyncio.Queue()
        self._waiting = asyncio.Event()  # the store may have some
        self._unkept: deque[Event] = deque(maxlen=MOST_UNKEPT)  # the disk refused them
        self._pending = 0  # emitted, not yet kept
        self._settled = asyncio.Event()  # none of them
        self._settled.set()
        self._connected = False
        self._gone = asyncio.Event()  # all that were emitted are kept and, while connected, sent
        self._gone.set()
        self.counts: Counter[str] = Counter()  # by kind, since the start

    def emit(
        self,
        kind: str,
        text: str,
        meter: str | None = None,
        data: dict[str, object] | None = None,
        alarm: tuple[AlarmKey, AlarmState] | None = None,
    ) -> None:
        """Something happened: told in the log at once, kept and sent soon. alarm: kept with it, both or neither."""
        event = Event(time.time_ns() // 1_000_000, kind, text, meter, data or {})
        self._count(event)
        self._pending += 1
        self._settled.clear()
        self._gone.clear()
        self._fresh.put_nowait(_Fresh(event, alarm))

    def kept(self, event: Event) -> None:
        """Something happened, and the store has it already."""
        self._count(event)
        self._wake()

    async def gone_ahead(self) -> None:
        """Returns when all that were emitted are on their way to the broker, or on the disk while it is away.

        Or after AHEAD_S: what follows them is not held for longer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AHEAD_S):
                await self._gone.wait()

    async def settled(self) -> None:
        """Returns when all that were emitted are on the disk, or it has refused them."""
        await self._settled.wait()

    async def run(self) -> None:
        """Keeps events on the disk, until cancelled."""
        while True:
            await self._keep([await self._fresh.get()])

    async def end(self) -> None:
        """Keeps what is still in memory; run() has ended."""
        await self._keep([])

    def deliver(self, connection: Publisher, topic: str) -> Coroutine[None, None, None]:
        """Sends over a connection what waits and what comes, until cancelled. Raises BrokerError when it ends.

        An event is forgotten once it is acknowledged: killed in between, it goes out again with the same id. From this
        call on gone_ahead() waits for what is on the disk too.
        """
        self._connected = True
        self._wake()
        return self._deliver(connection, topic)

    async def _deliver(self, connection: Publisher, topic: str) -> None:
        refusals = 0
        try:
            prefix = await asyncio.to_thread(self._store.prefix)
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                try:
                    await self._send(connection, topic, prefix)
                    refusals = 0
                except PublishRefusedError as error:
                    refusals += 1
                    self._gone.set()  # the batches are not to wait for what the broker does not want
                    log.warning("the broker refuses our events on %s: %s", topic, error)
                    await asyncio.sleep(refusal_pause(error.code, refusals))  # as its reason asks
                    self._waiting.set()
        finally:
            self._connected = False
            self._gone.set()

    async def _send(self, connection: Publisher, topic: str, prefix: str) -> None:
        """Sends what waits. Raises BrokerError; what was acknowledged before is forgotten all the same."""
        while True:
            rows = await asyncio.to_thread(self._store.events, AT_ONCE)
            sent = [
                (number, connection.publish(topic, _named(packed, f"{prefix}-{number}"))) for number, packed in rows
            ]
            unkept = [(event, connection.publish(topic, event.pack())) for event in self._unkept]
            if len(rows) < AT_ONCE and not self._pending:
                self._gone.set()
            acks = await asyncio.gather(*(ack for _, ack in [*sent, *unkept]), return_exceptions=True)
            done = [number for (number, _), ack in zip(sent, acks, strict=False) if ack is None]
            if done:
                await asyncio.to_thread(self._store.drop_events, done)
            for (event, _), ack in zip(unkept, acks[len(sent) :], strict=True):
                if ack is None and event in self._unkept:
                    self._unkept.remove(event)
            for ack in acks:
                if ack is not None:
                    raise ack
            if len(rows) < AT_ONCE:
                return

    async def _keep(self, fresh: list[_Fresh]) -> None:
        """Keeps these, and those that are there already, in one write."""
        while not self._fresh.empty():
            fresh.append(self._fresh.get_nowait())
        if not fresh:
            return
        alarms = dict(one.alarm for one in fresh if one.alarm)
        packed = [one.event.pack() for one in fresh]
        writing = asyncio.get_running_loop().run_in_executor(None, self._store.add_events, packed, alarms)
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])  # to its end also when we are cancelled
            if not writing.result():
                self._unkept.extend(one.event for one in fresh)
            self._pending -= len(fresh)
            if not self._pending:
                self._settled.set()
            self._wake()

    def _wake(self) -> None:
        self._waiting.set()
        if self._connected:
            self._gone.clear()
        elif not self._pending:
            self._gone.set()

    def _count(self, event: Event) -> None:
        log.warning("%s%s: %s", f"meter {event.meter}: " if event.meter else "", event.kind, event.text)
        self.counts[event.kind] += 1


def _named(packed: bytes, name: str) -> bytes:
    """A kept event as it is sent."""
    return msgspec.structs.replace(msgspec.json.decode(packed, type=Event), id=name).pack()
