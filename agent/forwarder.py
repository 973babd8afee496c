"""Forwarder: brings batches from the buffer to the broker. Owns the broker connection, and makes the next.

What was in flight when a connection ended is sent again on the next: the consumer drops duplicates by
(gateway, epoch, seq).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final, Literal

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.delivery import OVERHEAD, Delivery, ForwarderStatus, Learned
from parkfleet.agent.encoding import encoding_of
from parkfleet.agent.events import Events
from parkfleet.agent.pace import Verdict, dial_timeout, reconnect_pause, refusal_pause, verdict
from parkfleet.agent.replay import Replay
from parkfleet.protocols.config import BrokerConfig, EncodingName
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, Will
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest
from parkfleet.protocols.payload.topics import GatewayTopics, Status

log = logging.getLogger(__name__)

#: So long the broker remembers us: while it does, it has our schemas, and they need not be sent again. Seconds.
SESSION_EXPIRY_S: Final = 86400
PROTOCOL_ERROR: Final = 0x82
#: So many connections in a row that break without a word, nothing acknowledged, with a packet of at least so many
#: bytes under way: then it is the packet. Some brokers close instead of saying "packet too large"; mosquitto with
#: message_size_limit says it in a PUBACK, where MQTT 5 does not allow it and paho calls it a protocol error.
SUSPECT: Final = (3, 16 * 1024)
#: No broker takes less in a packet. Bytes.
SMALLEST: Final = 1024
#: A connection that stood for so long, or carried something, was a good one: the next is tried at once. Seconds.
GOOD_CONNECTION_S: Final = 10.0
#: The same trouble is told again after so long. Seconds.
TELL_AGAIN_S: Final = 600.0


class Forwarder:
    """One gateway's way to one broker."""

    def __init__(
        self,
        buffer: Buffer,
        broker: BrokerConfig,
        topics: GatewayTopics,
        folder: Path,
        version: str,
        events: Events | None = None,
        encoding: EncodingName = "compact",
    ) -> None:
        self._buffer = buffer
        self._events = events
        self._encoding = encoding
        self._broker = broker
        self._topics = topics
        self._folder = folder
        self._version = version
        self._draining = asyncio.Event()
        self._learned = Learned()
        self._away_since = time.monotonic()  # since the last good connection ended
        self._failures = 0  # in a row, without a good connection
        self._logged = ("", 0.0)  # the last trouble that was logged, and when
        self.status = ForwarderStatus()
        self._replay = Replay(buffer)

    @property
    def most_bytes(self) -> int:
        """Payload of the largest message that the broker is known to take."""
        return self._learned.largest - OVERHEAD

    async def run(self) -> None:
        """Forwards until cancelled, or until drain() was called and nothing waits any more."""
        while not self._draining.is_set():
            delivered, began = self.status.batches, time.monotonic()
            try:
                await self._connect_and_forward()
            except BrokerError as error:
                now = time.monotonic()
                if self.status.batches > delivered:
                    self._logged = ("", 0.0)
                if self.status.batches > delivered or (self.status.connected and now - began > GOOD_CONNECTION_S):
                    self._away_since, self._failures = now, 0
                self._failures += 1
                self._suspect(error)
                self.status.connected = False
                self._tell(str(error))
                await self._pause(self._pause_after(error))
            self.status.connected = False

    def _pause_after(self, error: BrokerError) -> float:
        """Seconds. A link that is away is tried often at first; a broker that refuses is not pressed."""
        if verdict(error.code) in (Verdict.BUSY, Verdict.FORBIDDEN):
            return refusal_pause(error.code, self._failures)
        return reconnect_pause(time.monotonic() - self._away_since)

    def _suspect(self, error: BrokerError) -> None:
        """Takes a connection's end for "packet too large" where it says so, or where it looks like it."""
        if not self.status.connected:
            return
        times, size = SUSPECT
        looks_like = error.code in (0, PROTOCOL_ERROR) and self._failures >= times and self._learned.in_flight >= size
        if looks_like or verdict(error.code) is Verdict.TOO_LARGE:
            self._learned.largest = min(self._learned.largest, max(self._learned.in_flight - 1, SMALLEST))
            log.warning("the broker breaks off at %d bytes: batches are made smaller", self._learned.in_flight)

    def drain(self) -> None:
        """Sends what waits, if the broker is there, and lets run() end."""
        self._draining.set()

    async def replay(self, request: ReplayRequest) -> ReplayAnswer:
        """Sends acknowledged batches again, as a consumer could have asked for."""
        return await self._replay.ask(request)

    async def vacuum(self) -> tuple[int, int]:
        """Gives the buffer's free room back to the disk; bytes before and after. Raises ValueError."""
        return await self._buffer.vacuum()

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
            on_message=self._hear,
            timeout=dial_timeout(time.monotonic() - self._away_since),
        )
        try:
            if not connection.session_present:
                self._learned.schemas.clear()  # a broker that has forgotten us may have forgotten what we retained
            self._learned.stuck.clear()
            log.info("connected to the broker %s", self._broker.url)
            self.status.connected, self.status.told = True, ""
            timeout = float(self._broker.ack_timeout)
            try:
                async with asyncio.timeout(timeout):
                    await connection.publish(self._topics.status, self._status("online"), retain=True)
            except TimeoutError:
                raise BrokerError(f"the broker acknowledged nothing for {timeout:g} s") from None
            delivery = Delivery(
                self._buffer,
                connection,
                self._topics,
                self.status,
                self._learned,
                self._replay,
                timeout,
                self._tell,
                encoding_of(self._encoding, self._topics, self._buffer.schema, self._broker.key_every),
            )
            telling = asyncio.create_task(self._tell_events(connection), name="events")
            try:
                if self._events is not None:
                    await self._events.gone_ahead()
                await delivery.run(self._draining)
            finally:
                telling.cancel()
                await asyncio.wait([telling])
            if self._draining.is_set():
                await connection.publish(self._topics.status, self._status("offline"), retain=True)
                await connection.close()
        finally:
            await connection.close(tell_will=True)  # given up, or stopped in the middle

    def _tell_events(self, connection: MqttConnection) -> Coroutine[None, None, None]:
        """Sends events for as long as the connection stands; whose end is the delivery's to notice."""
        sending = self._events.deliver(connection, self._topics.event) if self._events is not None else None

        async def tell() -> None:
            if sending is not None:
                with contextlib.suppress(BrokerError):
                    await sending

        return tell()

    def _hear(self, topic: str, payload: bytes, _retained: bool) -> None:
        if topic == self._topics.request:
            self._replay.hear(payload)

    def _status(self, state: Literal["online", "offline"]) -> bytes:
        return Status(state=state, ts=int(time.time() * 1000), version=self._version).pack()

    def _tell(self, told: str) -> None:
        """Logs a failure when it is a new one, and again now and then."""
        now = time.monotonic()
        logged, at = self._logged
        if told != logged or now - at >= TELL_AGAIN_S:
            log.warning("%s; batches wait in the buffer", told)
            self._logged = told, now
        self.status.told = told
