"""Buffer: where batches wait for the broker. Owns the store and the one thread that touches it.

When the disk refuses (read-only, full, gone), batches go to a store in memory, under an epoch of its own: its
batches may be published, and a number published without being on the disk must never be given again.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from parkfleet.agent.store import (
    ForeignStoreError,
    Holdings,
    NewBatch,
    Span,
    Store,
    StoredBatch,
    StoreError,
    StoreStats,
)
from parkfleet.protocols.config import BufferConfig
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What the agent keeps in memory while the disk refuses: hours of batches, and it fits a 512 MB box.
MEMORY_BYTES: Final = 32 * 1024 * 1024
#: A search through the whole buffer looks at so many rows before it lets an append pass.
ROWS_AT_ONCE: Final = 1000
#: Seconds between tries to use the disk again.
RETRY_DISK_S: Final = 30.0


class Buffer:
    """The queue of batches between poller and forwarder."""

    def __init__(self, path: Path, config: BufferConfig) -> None:
        self._path = path
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="buffer")
        self._disk: Store | None = None
        self._memory: Store | None = None
        self._retry_at = 0.0
        self._arrived = asyncio.Event()
        self.trouble = ""  # why the disk is not used; empty when it is

    async def open(self) -> None:
        """Opens the store, or falls back to memory; never raises for a bad disk or file."""
        await self._run(self._open_disk)

    async def append(self, batch: NewBatch) -> None:
        """Stores a batch; on return it survives a power cut (unless `trouble` says otherwise)."""
        await self._run(lambda: self._append(batch))
        self._arrived.set()

    async def waiting(self, span: Callable[[int], Span], limit: int) -> list[StoredBatch]:
        """The oldest batches not acknowledged, of each epoch those in its span."""
        return await self._run(lambda: self._waiting(span, limit))

    async def split(self, batch: StoredBatch) -> bool:
        """Puts two batches in the place of one that is too large for the broker; False when it cannot be split."""
        return await self._run(lambda: self._split(batch))

    async def kept(self, epoch: int, first: int, last: int, limit: int) -> list[StoredBatch]:
        """Acknowledged batches that cover a seq from first to last, oldest first."""
        return await self._run(lambda: self._kept(epoch, first, last, limit))

    async def holdings(self, epoch: int, ranges: list[tuple[int, int]]) -> Holdings:
        """What is there of a request by seq. Of an epoch that is not ours all is gone, unless the disk is away."""
        return await self._run(lambda: self._holdings(epoch, ranges))

    async def kept_between(self, since: int, until: int) -> dict[int, list[tuple[int, int]]]:
        """Of each epoch the acknowledged batches with readings from since to until, ms UTC, as first and last seq."""
        found: dict[int, list[tuple[int, int]]] = {}
        for epoch in await self.last_seqs():
            after = 0
            while True:  # in steps: batches are appended in between
                kept, after = await self._run(partial(self._kept_between, epoch, since, until, after))
                found.setdefault(epoch, []).extend(kept)
                if not after:
                    break
        return found

    async def last_seqs(self) -> dict[int, int]:
        """Of each epoch in use the highest seq ever given."""
        return await self._run(lambda: {store.epoch: store.last_seq() for store in self._stores()})

    async def wait_for_batch(self) -> None:
        """Returns when a batch was appended since the last call."""
        await self._arrived.wait()
        self._arrived.clear()

    async def acknowledge(self, batches: Iterable[StoredBatch]) -> None:
        """Takes the broker's acknowledgements; they are written with the next batch."""
        taken = list(batches)
        await self._run(lambda: self._acknowledge(taken))

    async def schema(self, schema_id: int) -> bytes:
        """The packed schema of a stored batch; empty when unknown."""
        return await self._run(lambda: next(filter(None, (s.schema(schema_id) for s in self._stores())), b""))

    async def vacuum(self) -> tuple[int, int]:
        """Gives free room of the file back to the disk; bytes before and after. Raises ValueError when it cannot.

        Appends wait meanwhile.
        """
        return await self._run(self._vacuum)

    async def stats(self) -> StoreStats:
        """Counts of disk and memory together; epoch and last_seq of the one in use."""
        return await self._run(self._stats)

    async def close(self) -> None:
        """Writes what is left to write and ends the thread."""
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, function: Callable[[], T]) -> T:
        """Runs in the buffer's thread, to its end also when the caller is cancelled: a commit is never half seen."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _stores(self) -> Iterable[Store]:
        return [store for store in (self._disk, self._memory) if store is not None]

    def _open_disk(self) -> None:
        self._retry_at = time.monotonic() + RETRY_DISK_S
        config = self._config
        try:
            try:
                self._disk = Store.open(self._path, config.retain, config.max_bytes)
            except ForeignStoreError as error:
                aside = self._move_aside()
                log.error("buffer: %s; moved to %s, starting a new one", error, aside)
                self._disk = Store.open(self._path, config.retain, config.max_bytes)
        except (StoreError, OSError) as error:
            self._use_memory(str(error))
            return
        if self.trouble:
            log.info("buffer: %s is used again", self._path)
        self.trouble = ""

    def _move_aside(self) -> Path:
        """Renames the database with its log; never deletes what may hold readings."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        target = self._path.with_name(f"{self._path.name}.aside-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))
        return target

    def _append(self, batch: NewBatch) -> None:
        if self._disk is None and time.monotonic() >= self._retry_at:
            self._open_disk()
        if self._disk is not None:
            try:
                self._disk.append(batch)
                self.trouble = ""
                return
            except sqlite3.Error as error:
                self._use_memory(f"cannot write {self._path}: {error}")
                if not isinstance(error, sqlite3.OperationalError):  # damaged: the next try opens it anew
                    self._disk = None
        assert self._memory is not None
        self._memory.append(batch)

    def _acknowledge(self, batches: list[StoredBatch]) -> None:
        for store in self._stores():
            store.acknowledge((batch.seq, batch.count) for batch in batches if batch.epoch == store.epoch)

    def _use_memory(self, reason: str) -> None:
        if self._memory is None:
            self._memory = Store.in_memory(self._config.retain, MEMORY_BYTES)
        if reason != self.trouble:
            log.error("buffer: %s; batches are kept in memory until it works: a restart would lose them", reason)
        self.trouble = reason

    def _waiting(self, span: Callable[[int], Span], limit: int) -> list[StoredBatch]:
        batches: list[StoredBatch] = []
        for store in self._stores():
            batches += store.waiting(span(store.epoch), limit - len(batches))
        return batches

    def _kept(self, epoch: int, first: int, last: int, limit: int) -> list[StoredBatch]:
        stores = (store for store in self._stores() if store.epoch == epoch)
        return [batch for store in stores for batch in store.kept(first, last, limit)]

    def _holdings(self, epoch: int, ranges: list[tuple[int, int]]) -> Holdings:
        for store in self._stores():
            if store.epoch == epoch:
                return store.holdings(ranges)
        return Holdings([], [] if self._disk is None else ranges)

    def _kept_between(self, epoch: int, since: int, until: int, after: int) -> tuple[list[tuple[int, int]], int]:
        for store in self._stores():
            if store.epoch == epoch:
                return store.kept_between(since, until, after, ROWS_AT_ONCE)
        return [], 0

    def _split(self, batch: StoredBatch) -> bool:
        """Raises nothing: what cannot be decoded or written stays as it is."""
        from parkfleet.agent.joining import split  # the codec: not before it is needed

        store = next((store for store in self._stores() if store.epoch == batch.epoch), None)
        if store is None:
            return False
        try:
            halves = split(Schema.unpack(store.schema(batch.schema_id)), batch)
            if halves is None:
                return False
            one, two = halves
            return store.rewrite([batch], [(batch.seq, one), (batch.seq + one.count if batch.count > 1 else None, two)])
        except (PayloadError, sqlite3.Error) as error:
            log.error("buffer: cannot split batch %d: %s", batch.seq, error)
            return False

    def _stats(self) -> StoreStats:
        parts = [store.stats() for store in self._stores()]
        current = parts[0] if self._disk is not None else parts[-1]
        return StoreStats(
            epoch=current.epoch,
            last_seq=current.last_seq,
            batches=sum(part.batches for part in parts),
            readings=sum(part.readings for part in parts),
            bytes=sum(part.bytes for part in parts),
            oldest_ts=min((part.oldest_ts for part in parts if part.batches), default=0),
            kept_batches=sum(part.kept_batches for part in parts),
            kept_bytes=sum(part.kept_bytes for part in parts),
            dropped_batches=sum(part.dropped_batches for part in parts),
            dropped_readings=sum(part.dropped_readings for part in parts),
        )

    def _vacuum(self) -> tuple[int, int]:
        if self._disk is None:
            raise ValueError(f"the buffer is not on the disk: {self.trouble}")
        try:
            return self._disk.vacuum()
        except sqlite3.Error as error:
            raise ValueError(f"cannot give room back: {error}") from None

    def _close(self) -> None:
        for store in self._stores():
            try:
                store.close()
            except sqlite3.Error as error:
                log.error("buffer: cannot write the last acknowledgements: %s", error)
