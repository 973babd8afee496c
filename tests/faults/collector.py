"""Collector: a consumer as a platform has it: remembers durably, asks for gaps, lives through its broker's end."""

import asyncio
import contextlib
from pathlib import Path

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import BrokerError, MqttConnection
from parkfleet.protocols.payload.consumer import (
    BatchDecoded,
    Consumer,
    Duplicate,
    GapLost,
    GapSeen,
    Output,
    Rejected,
    SchemaWanted,
)
from parkfleet.protocols.payload.memory import SqliteMemory
from parkfleet.protocols.payload.topics import subscriptions

GAP_AGE_S = 1.0


class Collector:
    """Runs until cancelled. While `away` it is not connected, as a platform that is restarted."""

    def __init__(self, broker: BrokerConfig, memory: Path) -> None:
        self._broker = broker
        self._consumer = Consumer(SqliteMemory(memory), gap_age=GAP_AGE_S)
        self._away = asyncio.Event()
        self._connection: MqttConnection | None = None
        self.taken: list[BatchDecoded] = []
        self.repeated = 0
        self.asked = 0
        self.gone: list[GapLost] = []
        self.rejected: list[Rejected] = []

    async def run(self) -> None:
        """Connects again and again."""
        while True:
            with contextlib.suppress(BrokerError):
                await self._connected()
            await asyncio.sleep(0.1)  # the pause between two connections

    async def leave(self) -> None:
        """Is away until return_()."""
        self._away.set()
        if self._connection:
            await self._connection.close()

    def return_(self) -> None:
        """Comes back."""
        self._away.clear()

    async def _connected(self) -> None:
        if self._away.is_set():
            return
        connection = await MqttConnection.open(
            self._broker, "collector", on_message=lambda topic, payload, _: self._feed(topic, payload), timeout=3.0
        )
        self._connection = connection
        try:
            await connection.subscribe(*subscriptions())
            while not connection.lost.done():
                await asyncio.wait([connection.lost], timeout=0.2)
                self._take(self._consumer.due())
        finally:
            await connection.close()

    def _feed(self, topic: str, payload: bytes) -> None:
        self._take(self._consumer.feed(topic, payload))

    def _take(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case BatchDecoded():
                    self.taken.append(output)
                case Duplicate():
                    self.repeated += 1
                case GapSeen() | SchemaWanted():
                    self.asked += 1
                    if self._connection and not self._connection.lost.done():
                        ack = self._connection.publish(output.request_topic, output.request)
                        ack.add_done_callback(lambda done: done.cancelled() or done.exception())
                case GapLost():
                    self.gone.append(output)
                case Rejected():
                    self.rejected.append(output)
                case _:
                    pass
