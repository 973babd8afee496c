"""Subscriber: the demo's independent consumer: what it decodes is one of the verdict's two records."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import MqttConnection
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, Duplicate, Reading, StatusSeen


class Subscriber:
    """Subscribes to a park straight at the broker, not through the link that is cut."""

    def __init__(self) -> None:
        self._consumer = Consumer()
        self._changed = asyncio.Event()
        self.taken: list[BatchDecoded] = []
        self.last: dict[tuple[str, str], Reading] = {}  # by meter and point
        self.states: dict[str, str] = {}  # gateway -> online or offline
        self.batches = 0
        self.repeated = 0
        self.payload_bytes = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, broker: BrokerConfig, park: str) -> AsyncIterator["Subscriber"]:
        """Connected and subscribed. Raises BrokerError."""
        subscriber = cls()
        connection = await MqttConnection.open(
            broker, f"demo-subscriber-{id(subscriber):x}", on_message=subscriber.feed
        )
        try:
            await connection.subscribe(f"pf/v1/{park}/#")
            yield subscriber
        finally:
            await connection.close()

    @property
    def readings(self) -> int:
        """Readings in all batches taken, also those without a value."""
        return sum(batch.total for batch in self.taken)

    def feed(self, topic: str, payload: bytes, retained: bool) -> None:
        """One message of the broker."""
        for output in self._consumer.feed(topic, payload):
            match output:
                case BatchDecoded():
                    self.taken.append(output)
                    self.batches += 1
                    self.payload_bytes += len(payload)
                    self.last.update({(reading.meter, reading.point): reading for reading in output.readings()})
                case Duplicate():
                    self.repeated += 1
                case StatusSeen() if not retained:
                    self.states[output.topic.gateway] = output.status.state
                case _:
                    pass
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when a condition on what was received holds; looks after every message."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()
