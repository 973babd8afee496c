"""Delivery: one connection's flight of batches: which go next, what is acknowledged, what is refused.

Three lanes, in this order: live (appended since the connection stands), backlog (what waited before), replay (what
somebody asked for again). Live batches may fill the window but for one place; the others take of it what their pace
allows. Within a lane the order is that of the seqs; after a refusal a batch goes again, perhaps behind later ones.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.encoding import Encoding, Publication
from parkfleet.agent.pace import BacklogPace, refusal_pause
from parkfleet.agent.replay import Replay
from parkfleet.agent.store import Span, StoredBatch
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, PublishRefusedError
from parkfleet.protocols.payload.envelope import MAX_BYTES
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.request import REPLAY_EVENT
from parkfleet.protocols.payload.topics import Event, GatewayTopics

log = logging.getLogger(__name__)

#: Batches in flight: paho is fastest at 20 to 100 (measured, ../shared/ANCHORS.md), and memory stays small.
WINDOW: Final = 32
#: Bytes of them: what a slow link has to carry before a fresh batch gets through.
WINDOW_BYTES: Final = 1024 * 1024
#: Retained schemas that nobody needs any more are looked for so often. Seconds.
TIDY_S: Final = 6 * 3600.0
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
    replayed: int = 0  # messages sent again on request, and acknowledged


@dataclass
class Learned:
    """What outlives a connection."""

    schemas: set[int] = field(default_factory=set)  # the broker has them, retained
    largest: int = MAX_BYTES  # of a packet that the broker, and any consumer, takes
    in_flight: int = 0  # bytes of the largest packet under way when the last connection ended
    stuck: set[tuple[int, int]] = field(default_factory=set)  # (epoch, seq): too large, and cannot be split


@dataclass
class _Lane:
    """A way through the buffer, remembered as one place for each epoch."""

    name: str
    upto: dict[int, int] | None = None  # None: everything behind
    at: dict[int, int] = field(default_factory=dict)
    is_dry: bool = False  # nothing waits there until something comes, or comes back: the buffer need not be asked

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
        replay: Replay,
        ack_timeout: float,
        tell: Callable[[str], None],
        encoding: Encoding,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer = buffer
        self._connection = connection
        self._topics = topics
        self._status = status
        self._learned = learned
        self._replay = replay
        self._ack_timeout = ack_timeout
        self._tell = tell
        self._encoding = encoding
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
        self._again = _Lane("replay", {})
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
        await self._subscribe()
        waits = self._wake_by(self._arrived), self._wake_by(self._asked)
        loops = (*waits, self._answer(), self._tidy())
        end = asyncio.create_task(draining.wait())
        end.add_done_callback(lambda _: self._wake.set())
        tasks: list[asyncio.Task[object]] = [*(asyncio.create_task(loop) for loop in loops), end]
        for task in tasks[:-1]:  # they end only by a fault of ours, which must be heard of
            task.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                self._wake.clear()
                await self._settle()
                self._check()
                for task in tasks[:-1]:
                    if task.done():
                        task.result()
                if self._held_until <= self._clock():
                    await self._fill()
                if draining.is_set() and not self._flights:
                    return
                await self._sleep()
        finally:
            for task in tasks:
                task.cancel()
            for flight in self._flights.values():
                self._back(flight)

    async def _subscribe(self) -> None:
        """Hears requests from now on. A broker that does not let us costs replays on request, and nothing else."""
        try:
            async with asyncio.timeout(self._ack_timeout):
                await self._connection.subscribe(self._topics.request)
        except TimeoutError:
            raise BrokerError(f"the broker acknowledged nothing for {self._ack_timeout:g} s") from None
        except PublishRefusedError as error:
            self._tell(f"the broker does not let us hear requests for replays on {self._topics.request}: {error}")

    async def _wake_by(self, wait: Callable[[], Awaitable[None]]) -> None:
        while True:
            await wait()
            self._wake.set()

    async def _arrived(self) -> None:
        """Waits for a fresh batch."""
        await self._buffer.wait_for_batch()
        self._live.is_dry = False

    async def _asked(self) -> None:
        """Waits for a request. Who misses a batch can read no chained one behind it: the next is a key."""
        await self._replay.wait()
        self._encoding.broken()

    async def _answer(self) -> None:
        """Looks up what consumers ask for, and answers each with an event."""
        while True:
            answer = await self._replay.next_answer()
            told = f"{answer.batches} batches are sent again, {len(answer.gone)} ranges are gone"
            event = Event(time.time_ns() // 1_000_000, REPLAY_EVENT, told, data=msgspec.to_builtins(answer))
            log.info("a consumer asked: %s", told)
            self._connection.publish(self._topics.event, event.pack()).add_done_callback(_seen)

    async def _tidy(self) -> None:
        """Takes the retained schemas back of which no batch is left: each primer is a new one."""
        while True:
            for spare in await self._buffer.spare_schemas():
                self._learned.schemas.discard(spare)
                ack = self._connection.publish(self._encoding.schema_topic(spare), b"", retain=True)
                with contextlib.suppress(BrokerError, PublishRefusedError):
                    await ack
                    await self._buffer.forget_schema(spare)
            await asyncio.sleep(TIDY_S)  # how long they may stay

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
        while self._replay.schemas:
            await self._send_schema(self._live, self._replay.schemas.pop())
        await self._take(self._live, self._window - 1 - (len(self._flights) - self._slow()), WINDOW_BYTES)
        await self._take(self._backlog, self._pace.window - self._slow(), WINDOW_BYTES // 2)
        if (room := self._pace.window - self._slow()) > 0:
            for batch in await self._replay.take(room):
                await self._send_again(batch)

    def _slow(self) -> int:
        """Messages under way that yield to live ones."""
        return sum(flight.lane is not self._live for flight in self._flights.values())

    async def _take(self, lane: _Lane, room: int, bytes_room: int) -> None:
        """Sends at most `room` batches of a lane, while fewer than bytes_room are under way."""
        room = min(room, self._window - len(self._flights))
        if room <= 0 or lane.is_dry:
            return
        lane.is_dry = True  # from here on: what comes while the buffer is asked says otherwise
        flying = {(f.batch.epoch, f.batch.seq) for f in self._flights.values() if f.batch} | self._learned.stuck
        limit = room + len(flying)
        found = await self._buffer.waiting(lane.span, limit)
        batches = [batch for batch in found if (batch.epoch, batch.seq) not in flying]
        taken = await self._send_all(lane, batches[:room], bytes_room)
        if taken < len(batches) or len(found) == limit or not self._buffer.is_readable:
            lane.is_dry = False

    async def _send_all(self, lane: _Lane, batches: Sequence[StoredBatch], bytes_room: int) -> int:
        """How many of them are on their way, or need not be sent."""
        for number, batch in enumerate(batches):
            if sum(flight.size for flight in self._flights.values()) >= bytes_room:
                return number
            if not await self._has_schema(lane, batch):
                return number
            message = await self._said(batch, lane)
            if message is not None and len(message.payload) + OVERHEAD > self._learned.largest:
                self._encoding.broken()
                await self._split(batch)
                return number
            if message is not None:
                self._send(lane, batch, message)
        return len(batches)

    async def _send_again(self, batch: StoredBatch) -> None:
        """A batch that was asked for, in pieces where the broker takes no more; what stays too large is told."""
        if not await self._has_schema(self._again, batch):
            return
        message = await self._said(batch, self._again)
        if message is None:
            return
        if len(message.payload) + OVERHEAD <= self._learned.largest:
            self._send(self._again, batch, message)
            return
        pieces = await self._buffer.pieces(batch)
        if not pieces:
            self._tell_too_large(batch)
        for piece in pieces:
            await self._send_again(piece)

    async def _said(self, batch: StoredBatch, lane: _Lane) -> Publication | None:
        """The message of a batch; None, told once, for one that is damaged on the disk and cannot be said."""
        try:
            return await self._encoding.batch(batch, live=lane is self._live, replayed=lane is self._again)
        except PayloadError as error:
            self._learned.stuck.add((batch.epoch, batch.seq))
            log.error("batch %d of epoch %d is damaged and not sent: %s", batch.seq, batch.epoch, error)
            return None

    async def _has_schema(self, lane: _Lane, batch: StoredBatch) -> bool:
        """Sends the schema before the first batch that needs it; False when the broker would not take it."""
        return batch.schema_id in self._learned.schemas or await self._send_schema(lane, batch.schema_id)

    async def _send_schema(self, lane: _Lane, schema_id: int) -> bool:
        schema = await self._buffer.schema(schema_id)
        if not schema:
            return False
        topic, payload, content_type = self._encoding.schema(schema_id, schema)
        if len(payload) + OVERHEAD > self._learned.largest:
            told = f"the broker takes {self._learned.largest} bytes, the schema has {len(payload)}: raise its limit"
            self._hold(_NOT_AUTHORIZED, told)
            return False
        ack = self._connection.publish(topic, payload, retain=True, content_type=content_type)
        self._learned.schemas.add(schema_id)
        self._launch(ack, _Flight(lane, None, schema_id, self._clock(), len(payload)))
        return True

    def _send(self, lane: _Lane, batch: StoredBatch, message: Publication) -> None:
        topic, payload, content_type = message
        ack = self._connection.publish(topic, payload, content_type=content_type, alias=True)
        self._launch(ack, _Flight(lane, batch, batch.schema_id, self._clock(), len(payload)))
        if lane is not self._again:
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
                self._back(flight)
            else:
                self._heard = now
                self._pace.acknowledged(now - flight.sent, now)
                if flight.batch:
                    self._count(flight)
                if flight.batch and flight.lane is not self._again:
                    taken.append(flight.batch)
        if taken:
            self._buffer.acknowledge(taken)

    def _count(self, flight: _Flight) -> None:
        self._refusals = 0
        self._status.told = ""
        if flight.lane is self._again:
            self._status.replayed += 1
        elif flight.batch:
            self._status.batches += 1
            self._status.readings += flight.batch.readings
            self._status.bytes += len(flight.batch.body)

    def _refused(self, flight: _Flight, error: PublishRefusedError) -> None:
        """Back into the queue, and a pause that suits the reason. ("Too large" is no refusal: it ends a connection.)"""
        self._status.refused += 1
        self._back(flight)
        self._hold(error.code, str(error))

    def _back(self, flight: _Flight) -> None:
        """A message that did not get through goes again."""
        self._encoding.broken()
        flight.lane.is_dry = False
        batch, at = flight.batch, flight.lane.at
        if batch is None:
            self._learned.schemas.discard(flight.schema_id)
        elif flight.lane is self._again:
            self._replay.put_back(batch)
        else:
            at[batch.epoch] = min(at.get(batch.epoch, 0), batch.seq - 1)

    def _hold(self, code: int, told: str) -> None:
        """Nothing is sent for as long as the reason code suggests; what is under way may still be acknowledged."""
        self._refusals += 1
        self._held_until = self._clock() + refusal_pause(code, self._refusals)
        self._tell(told)

    async def _split(self, batch: StoredBatch) -> None:
        self._wake.set()  # look again at once
        self._live.is_dry = False  # the second half may be a batch of its own
        if not await self._buffer.split(batch):
            self._learned.stuck.add((batch.epoch, batch.seq))
            self._tell_too_large(batch)

    def _tell_too_large(self, batch: StoredBatch) -> None:
        told = f"batch {batch.seq} of {batch.readings} readings cannot be made small enough for the broker"
        self._tell(f"{told}, which takes {self._learned.largest} bytes: raise its limit")


def _seen(ack: "asyncio.Future[None]") -> None:
    """For a message of which nothing depends on its arrival: asyncio would complain of an unseen failure."""
    if not ack.cancelled():
        ack.exception()
