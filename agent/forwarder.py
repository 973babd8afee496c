"""Forwarder: brings batches from the buffer to the broker. Owns the broker connection.

Batches go out in order, a bounded number in flight; one is done with when the broker has acknowledged it.
What was in flight when a connection ended is sent again on the next: the consumer drops duplicates by
(gateway, epoch, seq).
"""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.store import StoredBatch
from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, PublishRefusedError, Will
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.topics import BATCH_CONTENT_TYPE, SCHEMA_CONTENT_TYPE, GatewayTopics, Status

log = logging.getLogger(__name__)

#: Batches in flight: paho is fastest at 20 to 100 (measured, ../shared/ANCHORS.md), and memory stays small.
WINDOW: Final = 20
#: A broker that acknowledges nothing for so long, though batches are in flight, is as good as gone. Seconds.
ACK_TIMEOUT_S: Final = 30.0
#: So long the broker remembers us: while it does, it has our schemas, and they need not be sent again. Seconds.
SESSION_EXPIRY_S: Final = 86400
#: Pause before the next connection: a random part of a bound that doubles from the first to the last. Seconds.
RECONNECT_S: Final = (0.5, 10.0)


@dataclass
class ForwarderStatus:
    """What was delivered since the agent started."""

    connected: bool = False
    told: str = ""  # why not connected, or what the broker refused
    batches: int = 0  # acknowledged
    readings: int = 0
    bytes: int = 0  # payload bytes of acknowledged batches


@dataclass
class _Flight:
    """What one connection has under way."""

    acks: "dict[asyncio.Future[None], StoredBatch]" = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)  # epoch -> seq up to which batches were sent


class Forwarder:
    """One gateway's way to one broker."""

    def __init__(self, buffer: Buffer, broker: BrokerConfig, topics: GatewayTopics, folder: Path, version: str) -> None:
        self._buffer = buffer
        self._broker = broker
        self._topics = topics
        self._folder = folder
        self._version = version
        self._draining = asyncio.Event()
        self._schemas: set[int] = set()  # the broker has them, retained
        self.status = ForwarderStatus()

    async def run(self) -> None:
        """Forwards until cancelled, or until drain() was called and nothing waits any more."""
        pause = RECONNECT_S[0]
        while not self._draining.is_set():
            delivered = self.status.batches
            try:
                await self._connect_and_forward()
            except BrokerError as error:
                self._tell(str(error))
            self.status.connected = False
            if self._draining.is_set():
                return
            if self.status.batches > delivered:
                pause = RECONNECT_S[0]
            await self._pause(random.uniform(0, pause))
            pause = min(2 * pause, RECONNECT_S[1])

    def drain(self) -> None:
        """Sends what waits, if the broker is there, and lets run() end."""
        self._draining.set()

    async def _pause(self, seconds: float) -> None:
        """Waits, or until drain() is called."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()

    async def _connect_and_forward(self) -> None:
        connection = await MqttConnection.open(
            self._broker,
            f"pf-{self._topics.park}-{self._topics.gateway}",
            folder=self._folder,
            will=Will(self._topics.status, self._status("offline")),
            session_expiry=SESSION_EXPIRY_S,
        )
        try:
            if not connection.session_present:
                self._schemas.clear()  # a broker that has forgotten us may have forgotten what we retained there
            log.info("connected to the broker %s", self._broker.url)
            self.status.connected, self.status.told = True, ""
            await connection.publish(self._topics.status, self._status("online"), retain=True)
            await self._forward(connection)
            if self._draining.is_set():
                await connection.publish(self._topics.status, self._status("offline"), retain=True)
        finally:
            await connection.close()

    async def _forward(self, connection: MqttConnection) -> None:
        """Sends and takes acknowledgements until the connection is lost or everything is drained."""
        flight = _Flight()
        window = min(WINDOW, connection.receive_maximum)
        arrival = asyncio.create_task(self._buffer.wait_for_batch())
        draining = asyncio.create_task(self._draining.wait())
        try:
            while True:
                if arrival.done():  # before looking: what is appended while we look must wake us again
                    arrival = asyncio.create_task(self._buffer.wait_for_batch())
                room = window - len(flight.acks)
                for batch in await self._buffer.waiting(flight.sent, room) if room else ():
                    await self._send(connection, flight, batch)
                if draining.done() and not flight.acks:
                    return
                waits: set[asyncio.Future[Any]] = {connection.lost, *flight.acks, *([] if room <= 0 else [arrival])}
                waits |= set() if draining.done() else {draining}
                timeout = ACK_TIMEOUT_S if flight.acks else None
                done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    raise BrokerError(f"the broker acknowledged nothing for {ACK_TIMEOUT_S:g} s")
                await self._settle(flight)
                if connection.lost.done():
                    raise BrokerError(connection.lost.result())
        finally:
            arrival.cancel()
            draining.cancel()

    async def _send(self, connection: MqttConnection, flight: _Flight, batch: StoredBatch) -> None:
        if batch.schema_id not in self._schemas:  # before the first batch that needs it
            schema = await self._buffer.schema(batch.schema_id)
            topic = self._topics.schema(batch.schema_id)
            await connection.publish(topic, schema, retain=True, content_type=SCHEMA_CONTENT_TYPE)
            self._schemas.add(batch.schema_id)
        envelope = Envelope(batch.codec, batch.schema_id, batch.epoch, batch.seq, 1, 0, batch.body)
        ack = connection.publish(self._topics.batch, envelope.pack(), content_type=BATCH_CONTENT_TYPE)
        flight.acks[ack] = batch
        flight.sent[batch.epoch] = batch.seq

    async def _settle(self, flight: _Flight) -> None:
        """Takes the acknowledgements that have come; what was refused stays in the buffer."""
        settled: dict[int, list[int]] = {}
        refused: BaseException | None = None
        for ack in [ack for ack in flight.acks if ack.done()]:
            batch = flight.acks.pop(ack)
            if error := ack.exception():
                refused = error
                continue
            settled.setdefault(batch.epoch, []).append(batch.seq)
            self.status.batches += 1
            self.status.readings += batch.readings
            self.status.bytes += len(batch.body)
        for epoch, seqs in settled.items():
            await self._buffer.acknowledge(epoch, seqs)
        if isinstance(refused, PublishRefusedError):
            raise refused  # ends the connection: the next try comes after a pause, from the oldest batch on

    def _status(self, state: Literal["online", "offline"]) -> bytes:
        return Status(state=state, ts=int(time.time() * 1000), version=self._version).pack()

    def _tell(self, told: str) -> None:
        """Logs a failure when it is a new one."""
        if told != self.status.told:
            log.warning("%s; batches wait in the buffer", told)
        self.status.told = told
