"""Delivery: one connection's flight of batches: which go next, what is acknowledged, what is refused.

Two lanes, in this order: live (appended since the connection stands) and backlog (what waited before). Live batches
may fill the window but for one place; the backlog takes of it what its pace allows. Within a lane the order is that of
the seqs; after a refusal a batch goes again, perhaps behind later ones.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.pace import BacklogPace, refusal_pause
from parkfleet.agent.store import Span, StoredBatch
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, PublishRefusedError
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.topics import BATCH_CONTENT_TYPE, SCHEMA_CONTENT_TYPE, GatewayTopics

#: Batches in flight: paho is fastest at 20 to 100 (measured, ../shared/ANCHORS.md), and memory stays small.
WINDOW: Final = 32
#: Bytes of them: what a slow link has to carry before a fresh batch gets through.
WINDOW_BYTES: Final = 1024 * 1024
_NOT_AUTHORIZED: Final = 0x87
#: What stands around a body in its packet: topic, properties, envelope, headers. Bytes.
OVERHEAD: Final = 512


@dataclass
class ForwarderStatus:
    """What was delivered since the agent started."""

    connected: bool = False
    told: str = ""  # why not connected, or what the broker refused
    batches: int = 0  # messages acknowledged
    readings: int = 0
    bytes: int = 0  # payload bytes of acknowledged batches
    refused: int = 0  # messages the broker took and said no to


@dataclass
class Learned:
    """What outlives a connection."""

    schemas: set[int] = field(default_factory=set)  # the broker has them, retained
    largest: int = 2**31  # bytes of a packet that the broker takes
    in_flight: int = 0  # bytes of the largest packet under way when the last connection ended
    stuck: set[tuple[int, int]] = field(default_factory=set)  # (epoch, seq): too large, and cannot be split


@dataclass
class _Lane:
    """A way through the buffer, remembered as one place for each epoch."""

    name: str
    upto: dict[int, int] | None = None  # None: everything behind
    at: dict[int, int] = field(default_factory=dict)

    def span(self, epoch: int) -> Span:
        upto = 2**62 if self.upto is None else self.upto.get(epoch, 0)
        return Span(self.at.get(epoch, 0), upto)


@dataclass(frozen=True)
class _Flight:
    """One message under way."""

    lane: _Lane
    batch: StoredBatch | None  # None: a schema
    schema_id: int
    sent: float  # monotonic
    size: int  # bytes


class Delivery:
    """What one connection carries. Made and run once."""

    def __init__(
        self,
        buffer: Buffer,
        connection: MqttConnection,
        topics: GatewayTopics,
        status: ForwarderStatus,
        learned: Learned,
        ack_timeout: float,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer = buffer
        self._connection = connection
        self._topics = topics
        self._status = status
        self._learned = learned
        self._ack_timeout = ack_timeout
        self._tell = tell
        self._clock = clock
        self._window = max(1, min(WINDOW, connection.receive_maximum - 1))
        self._pace = BacklogPace(max(1, self._window - 1))
        self._flights: dict[asyncio.Future[None], _Flight] = {}
        self._wake = asyncio.Event()
        self._heard = 0.0  # when the broker last acknowledged anything, or was first asked to
        self._held_until = 0.0  # the broker refused: nothing is sent before
        self._refusals = 0  # in a row
        self._live = _Lane("live")
        self._backlog = _Lane("backlog", {})
        if connection.maximum_packet_size:
            learned.largest = min(learned.largest, connection.maximum_packet_size)

    async def run(self, draining: asyncio.Event) -> None:
        """Sends until the connection is lost, or everything is sent that waited when draining was set.

        Raises BrokerError when the connection is lost, or nothing is acknowledged any more.
        """
        self._learned.in_flight = 0
        before = await self._buffer.last_seqs()
        self._live.at, self._backlog.upto = dict(before), before
        self._connection.lost.add_done_callback(lambda _: self._wake.set())
        arrivals = asyncio.create_task(self._watch_arrivals())
        end = asyncio.create_task(draining.wait())
        end.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                self._wake.clear()
                await self._settle()
                self._check()
                if self._held_until <= self._clock():
                    await self._fill()
                if draining.is_set() and not self._flights:
                    return
                await self._sleep()
        finally:
            arrivals.cancel()
            end.cancel()

    async def _watch_arrivals(self) -> None:
        while True:
            await self._buffer.wait_for_batch()
            self._wake.set()

    def _check(self) -> None:
        """Raises BrokerError when the connection is of no use any more."""
        if self._connection.lost.done():
            raise self._connection.error()
        if self._flights and self._clock() - self._heard >= self._ack_timeout:
            raise BrokerError(f"the broker acknowledged nothing for {self._ack_timeout:g} s")

    async def _sleep(self) -> None:
        """Until something happens, a refusal's pause is over, or the broker has been silent for too long."""
        now = self._clock()
        ends = [self._heard + self._ack_timeout] if self._flights else []
        ends += [self._held_until] if self._held_until > now else []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(min(ends) - now, 0.0) if ends else None):
                await self._wake.wait()

    async def _fill(self) -> None:
        """Sends what the window has room for, fresh batches first."""
        slow = [flight for flight in self._flights.values() if flight.lane is self._backlog]
        await self._take(self._live, self._window - 1 - (len(self._flights) - len(slow)), WINDOW_BYTES)
        await self._take(self._backlog, self._pace.window - len(slow), WINDOW_BYTES // 2)

    async def _take(self, lane: _Lane, room: int, bytes_room: int) -> None:
        """Sends at most `room` batches of a lane, while fewer than bytes_room are under way."""
        room = min(room, self._window - len(self._flights))
        if room <= 0:
            return
        flying = {(f.batch.epoch, f.batch.seq) for f in self._flights.values() if f.batch} | self._learned.stuck
        found = await self._buffer.waiting(lane.span, room + len(flying))
        for batch in [batch for batch in found if (batch.epoch, batch.seq) not in flying][:room]:
            if sum(flight.size for flight in self._flights.values()) >= bytes_room:
                return
            if len(batch.body) + len(batch.parts) + OVERHEAD > self._learned.largest:
                await self._split(batch)
                return
            if not await self._has_schema(lane, batch):
                return
            self._send(lane, batch)

    async def _has_schema(self, lane: _Lane, batch: StoredBatch) -> bool:
        """Sends the schema before the first batch that needs it; False when the broker would not take it."""
        if batch.schema_id in self._learned.schemas:
            return True
        schema = await self._buffer.schema(batch.schema_id)
        if len(schema) + OVERHEAD > self._learned.largest:
            told = f"the broker takes {self._learned.largest} bytes, the schema has {len(schema)}: raise its limit"
            self._hold(_NOT_AUTHORIZED, told)
            return False
        topic = self._topics.schema(batch.schema_id)
        ack = self._connection.publish(topic, schema, retain=True, content_type=SCHEMA_CONTENT_TYPE)
        self._learned.schemas.add(batch.schema_id)
        self._launch(ack, _Flight(lane, None, batch.schema_id, self._clock(), len(schema)))
        return True

    def _send(self, lane: _Lane, batch: StoredBatch, flags: int = 0) -> None:
        envelope = Envelope(
            batch.codec, batch.schema_id, batch.epoch, batch.seq, batch.count, flags, batch.body, batch.parts
        )
        payload = envelope.pack()
        ack = self._connection.publish(self._topics.batch, payload, content_type=BATCH_CONTENT_TYPE, alias=True)
        self._launch(ack, _Flight(lane, batch, batch.schema_id, self._clock(), len(payload)))
        lane.at[batch.epoch] = max(lane.at.get(batch.epoch, 0), batch.last_seq)

    def _launch(self, ack: "asyncio.Future[None]", flight: _Flight) -> None:
        if not self._flights:
            self._heard = flight.sent
        self._flights[ack] = flight
        ack.add_done_callback(lambda _: self._wake.set())

    async def _settle(self) -> None:
        """Takes the acknowledgements that have come; what was refused stays in the buffer and goes again."""
        taken: list[StoredBatch] = []
        now = self._clock()
        for ack, flight in [(ack, flight) for ack, flight in self._flights.items() if ack.done()]:
            del self._flights[ack]
            error = ack.exception()
            if isinstance(error, PublishRefusedError):
                self._heard = now  # it lives
                self._refused(flight, error)
            elif error is not None:  # the connection is lost; see _check
                self._learned.in_flight = max(self._learned.in_flight, flight.size)
            else:
                self._heard = now
                self._pace.acknowledged(now - flight.sent, now)
                if flight.batch:
                    taken.append(flight.batch)
                    self._count(flight.batch)
        if taken:
            await self._buffer.acknowledge(taken)

    def _count(self, batch: StoredBatch) -> None:
        self._refusals = 0
        self._status.told = ""
        self._status.batches += 1
        self._status.readings += batch.readings
        self._status.bytes += len(batch.body)

    def _refused(self, flight: _Flight, error: PublishRefusedError) -> None:
        """Back into the queue, and a pause that suits the reason. ("Too large" is no refusal: it ends a connection.)"""
        self._status.refused += 1
        batch = flight.batch
        if batch is None:
            self._learned.schemas.discard(flight.schema_id)
        else:
            lane = flight.lane
            lane.at[batch.epoch] = min(lane.at.get(batch.epoch, 0), batch.seq - 1)
        self._hold(error.code, str(error))

    def _hold(self, code: int, told: str) -> None:
        """Nothing is sent for as long as the reason code suggests; what is under way may still be acknowledged."""
        self._refusals += 1
        self._held_until = self._clock() + refusal_pause(code, self._refusals)
        self._tell(told)

    async def _split(self, batch: StoredBatch) -> None:
        self._wake.set()  # look again at once
        if not await self._buffer.split(batch):
            self._learned.stuck.add((batch.epoch, batch.seq))
            self._tell(f"one row of one meter has {len(batch.body)} bytes, more than the broker takes: raise its limit")
