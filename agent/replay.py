"""Replay: acknowledged batches that somebody has asked for again, by seq or by time, until they have been sent."""

import asyncio
import logging
from typing import Final

from parkfleet.agent.buffer import Buffer
from parkfleet.agent.store import StoredBatch
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.intervals import IntervalSet
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest, unpack_request

log = logging.getLogger(__name__)

#: Requests that wait to be looked up; further ones are not heard: who asks asks again.
MAX_REQUESTS: Final = 100


class Replay:
    """What is to be sent again. Asking twice for a batch that waits to be sent costs nothing more."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._pending: dict[int, IntervalSet] = {}  # by epoch
        self._requests: asyncio.Queue[ReplayRequest] = asyncio.Queue(MAX_REQUESTS)
        self._arrived = asyncio.Event()
        self.schemas: set[int] = set()  # ids of schemas to be published again

    def hear(self, payload: bytes) -> None:
        """Takes a consumer's request, to be looked up; what is none is told and dropped."""
        try:
            self._requests.put_nowait(unpack_request(payload))
        except PayloadError as error:
            log.warning("a request on our topic is not understood: %s", error)
        except asyncio.QueueFull:
            log.warning("more than %d requests at once: some are not heard", MAX_REQUESTS)

    async def next_answer(self) -> ReplayAnswer:
        """Looks up the next request that was heard."""
        return await self.ask(await self._requests.get())

    async def ask(self, request: ReplayRequest) -> ReplayAnswer:
        """Queues what is there of a request, and says what is not."""
        self.schemas |= {int(name, 16) for name in request.schemas}
        batches = 0
        gone: list[tuple[int, int]] = []
        if request.ranges:
            held = await self._buffer.holdings(request.epoch, request.ranges)
            gone = held.gone
            batches += self._add(request.epoch, held.kept)
        if request.since is not None and request.until is not None:
            for epoch, kept in (await self._buffer.kept_between(request.since, request.until)).items():
                batches += self._add(epoch, kept)
        self._arrived.set()
        return ReplayAnswer(request.epoch, batches, gone)

    async def wait(self) -> None:
        """Returns when something was asked for since the last call."""
        await self._arrived.wait()
        self._arrived.clear()

    async def take(self, limit: int) -> list[StoredBatch]:
        """The next batches to be sent again, oldest first; they are pending no more."""
        while self._pending:
            epoch, ranges = next(iter(self._pending.items()))
            if not len(ranges):
                del self._pending[epoch]
                continue
            first, last = next(iter(ranges))
            found = await self._buffer.kept(epoch, first, last, limit)
            ranges.remove(first, max((batch.last_seq for batch in found), default=last))
            if found:
                return found
        return []

    def put_back(self, batch: StoredBatch) -> None:
        """It did not get through."""
        self._add(batch.epoch, [(batch.seq, batch.last_seq)])

    def _add(self, epoch: int, ranges: list[tuple[int, int]]) -> int:
        pending = self._pending.setdefault(epoch, IntervalSet())
        for first, last in ranges:
            pending.add(first, last)
        return len(ranges)
