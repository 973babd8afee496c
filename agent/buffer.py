"""Buffer: where batches wait for the broker. Owns the store and the one thread that touches it.

When the disk refuses (read-only, full, gone), batches go to a store in memory, under an epoch of its own: its
batches may be published, and a number published without being on the disk must never be given again.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from parkfleet.agent.joining import split
from parkfleet.agent.losses import Emit, Losses
from parkfleet.agent.room import READINGS_AT_ONCE, Room
from parkfleet.agent.store import (
    SCHEMA_VERSION,
    ForeignStoreError,
    Holdings,
    NewBatch,
    NewerStoreError,
    Recoded,
    Rewrite,
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
#: Batches are joined when nobody has looked for some to send in so long: an outage, and not its first moment. Seconds.
JOIN_QUIET_S: Final = 30.0
#: Seconds between tries to use the disk again.
RETRY_DISK_S: Final = 30.0


class Buffer:
    """The queue of batches between poller and forwarder."""

    def __init__(
        self, path: Path, config: BufferConfig, emit: Emit | None = None, joined: int = READINGS_AT_ONCE
    ) -> None:
        """emit: gets an event's kind, text and data; called where open() and append() are. Default: the log.

        joined: readings of what is joined while it waits, at most.
        """
        self._joined = joined
        self._losses = Losses(emit)
        self._emit = emit
        self._notes: list[tuple[str, str, dict[str, object]]] = []  # events of the thread
        self._path = path
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="buffer")
        self._disk: Store | None = None
        self._memory: Store | None = None
        self._left_behind: list[Store] = []
        self._room: Room | None = None
        self._retry_at = 0.0
        self._read_at = time.monotonic()  # when somebody last looked for batches to send
        self._arrived = asyncio.Event()
        self._acknowledged: deque[StoredBatch] = deque()  # what the thread has not yet been told of
        self.trouble = ""  # why the disk is not used; empty when it is
        self.is_readable = True  # whether what was looked for last could be

    async def open(self) -> None:
        """Opens the store, or falls back to memory; never raises for a bad disk or file."""
        await self._run(self._open_disk)
        self._tell()

    async def append(self, batch: NewBatch | Callable[[], NewBatch]) -> None:
        """Stores a batch; on return it survives a power cut (unless `trouble` says otherwise).

        batch: or what makes it, called in the buffer's thread.
        """
        await self._run(lambda: self._append(batch() if callable(batch) else batch))
        self._losses.tell()
        self._tell()
        self._arrived.set()

    async def waiting(self, span: Callable[[int], Span], limit: int) -> list[StoredBatch]:
        """The oldest batches not acknowledged, of each epoch those in its span."""
        self._read_at = time.monotonic()
        return await self._look(lambda: self._waiting(span, limit), [])

    async def split(self, batch: StoredBatch) -> bool:
        """Puts two batches in the place of one that is too large for the broker; False when it cannot be split."""
        return await self._run(lambda: self._split(batch))

    async def pieces(self, batch: StoredBatch) -> list[StoredBatch]:
        """A joined batch as two that cover the same seqs; none for one that is not joined. The disk stays as it is."""
        return await self._look(lambda: self._pieces(batch), [])

    async def kept(self, epoch: int, first: int, last: int, limit: int) -> list[StoredBatch]:
        """Acknowledged batches that cover a seq from first to last, oldest first."""
        return await self._look(lambda: self._kept(epoch, first, last, limit), [])

    async def holdings(self, epoch: int, ranges: list[tuple[int, int]]) -> Holdings:
        """What is there of a request by seq. Of an epoch that is not ours all is gone, unless the disk is away."""
        return await self._look(lambda: self._holdings(epoch, ranges), Holdings([], []))

    async def kept_between(self, since: int, until: int) -> dict[int, list[tuple[int, int]]]:
        """Of each epoch the acknowledged batches with readings from since to until, ms UTC, as first and last seq."""
        found: dict[int, list[tuple[int, int]]] = {}
        for epoch in await self.last_seqs():
            after = 0
            while True:  # in steps: batches are appended in between
                step = partial(self._kept_between, epoch, since, until, after)
                nothing: tuple[list[tuple[int, int]], int] = ([], 0)
                kept, after = await self._look(step, nothing)
                found.setdefault(epoch, []).extend(kept)
                if not after:
                    break
        return found

    async def last_seqs(self) -> dict[int, int]:
        """Of each epoch in use the highest seq ever given."""
        return await self._look(lambda: {store.epoch: store.last_seq() for store in self._stores()}, {})

    async def wait_for_batch(self) -> None:
        """Returns when a batch was appended since the last call."""
        await self._arrived.wait()
        self._arrived.clear()

    def acknowledge(self, batches: Iterable[StoredBatch]) -> None:
        """Takes the broker's acknowledgements: known to whatever is asked next, and written with the next batch."""
        self._acknowledged.extend(batches)

    async def schema(self, schema_id: int) -> bytes:
        """The packed schema of a stored batch; empty when unknown."""
        return await self._look(lambda: next(filter(None, (s.schema(schema_id) for s in self._stores())), b""), b"")

    async def newest_schema(self) -> bytes:
        """The packed schema of the newest batch with all its readings; empty when there is none."""
        return await self._look(lambda: next(filter(None, (s.newest_schema() for s in self._stores()[::-1])), b""), b"")

    async def spare_schemas(self) -> list[int]:
        """Schemas of which no batch is left."""
        return await self._look(lambda: [spare for store in self._stores() for spare in store.spare_schemas()], [])

    async def forget_schema(self, schema_id: int) -> None:
        """Deletes a schema, unless it has batches again."""
        await self._look(lambda: self._forget_schema(schema_id), None)

    async def vacuum(self) -> tuple[int, int]:
        """Gives free room of the file back to the disk; bytes before and after. Raises ValueError when it cannot.

        Appends wait meanwhile.
        """
        return await self._run(self._vacuum)

    async def stats(self) -> StoreStats:
        """Counts of disk and memory together; epoch and last_seq of the one in use."""
        return await self._look(self._stats, StoreStats())

    async def close(self) -> None:
        """Writes what is left to write and ends the thread."""
        self._losses.tell(now=True)
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, function: Callable[[], T]) -> T:
        """Runs in the buffer's thread, to its end also when the caller is cancelled: a commit is never half seen."""

        def run() -> T:
            if self._acknowledged:
                self._guarded(self._acknowledge, None)
            return function()

        future = asyncio.get_running_loop().run_in_executor(self._thread, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    async def _look(self, function: Callable[[], T], otherwise: T) -> T:
        """Runs what reads; where the disk fails or the file is damaged there is nothing to be read, and it is told."""

        return await self._run(lambda: self._guarded(function, otherwise))

    def _guarded(self, function: Callable[[], T], otherwise: T) -> T:
        self.is_readable = True
        try:
            return function()
        except sqlite3.OperationalError as error:
            log.error("buffer: cannot read %s: %s", self._path, error)
        except sqlite3.DatabaseError as error:
            self._damaged(error)
        self.is_readable = False
        return otherwise

    def _note(self, kind: str, text: str, **data: object) -> None:
        """Something the fleet should hear of; from the buffer's thread."""
        log.error("buffer: %s", text)
        self._notes.append((kind, text, data))

    def _tell(self) -> None:
        notes, self._notes = self._notes, []
        for kind, text, data in notes:
            if self._emit is not None:
                self._emit(kind, text, data)

    def _forget_schema(self, schema_id: int) -> None:
        for store in self._stores():
            store.forget_schema(schema_id)

    def _stores(self) -> list[Store]:
        return [store for store in (*self._left_behind, self._disk, self._memory) if store is not None]

    def _open_disk(self) -> None:
        self._retry_at = time.monotonic() + RETRY_DISK_S
        try:
            try:
                self._disk = self._open_store(self._path)
                self._open_left_behind()
            except NewerStoreError as error:
                beside = self._path.with_name(f"{self._path.name}.v{SCHEMA_VERSION}")
                told = f"{error}; it is left as it is, {beside} is used instead"
                self._note("buffer-newer", told, file=self._path.name, used=beside.name)
                self._disk = self._open_store(beside)
            self._room = Room(self._disk, self._config.keep, self._joined)
        except (StoreError, OSError) as error:
            self._use_memory(str(error))
            return
        if self.trouble:
            self._note("buffer-disk", f"{self._path} is used again", file=self._path.name)
        self.trouble = ""

    def _open_store(self, path: Path) -> Store:
        """Raises StoreError, OSError; a damaged or foreign file is moved aside, and a new one begun."""
        config = self._config
        try:
            return Store.open(path, config.retain, config.max_bytes, config.min_free)
        except ForeignStoreError as error:
            aside = self._move_aside(path)
            self._note(
                "buffer-aside", f"{error}; moved to {aside}, a new one is begun", file=path.name, aside=aside.name
            )
            return Store.open(path, config.retain, config.max_bytes, config.min_free)

    def _open_left_behind(self) -> None:
        """What older agents wrote beside this file, while it was too new for them, is sent too."""
        if self._left_behind:
            return
        for version in range(1, SCHEMA_VERSION):
            path = self._path.with_name(f"{self._path.name}.v{version}")
            if path.exists():
                log.info("buffer: %s is sent too: an older agent wrote it", path)
                try:
                    self._left_behind.append(Store.open(path, self._config.retain, self._config.max_bytes))
                except StoreError as error:
                    log.error("buffer: %s", error)

    def _move_aside(self, path: Path) -> Path:
        """Renames the database with its log; never deletes what may hold readings, nor what was moved before."""
        stamp, number = time.strftime("%Y%m%dT%H%M%S", time.gmtime()), 1
        while (target := path.with_name(f"{path.name}.aside-{stamp}-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))
        return target

    def _append(self, batch: NewBatch) -> None:
        if self._disk is None and time.monotonic() >= self._retry_at:
            self._open_disk()
        if self._disk is not None:
            try:
                self._disk.append(batch, self._rewrite())
                self._take_losses(self._disk)
                self.trouble = ""
                return None
            except sqlite3.Error as error:
                if isinstance(error, sqlite3.OperationalError):
                    self._use_memory(f"cannot write {self._path}: {error}")
                else:
                    self._damaged(error)
                    return self._append_again(batch)
        assert self._memory is not None
        self._memory.append(batch)
        self._take_losses(self._memory)
        return None

    def _append_again(self, batch: NewBatch) -> None:
        """Into what has taken the place of a damaged file."""
        store = self._disk or self._memory
        assert store is not None
        store.append(batch)

    def _rewrite(self) -> Rewrite | None:
        """What may be done for more room with the next append. What cannot be decoded is left as it is, and told."""
        if self._room is None:
            return None
        try:
            return self._room.next(quiet=time.monotonic() - self._read_at > JOIN_QUIET_S)
        except PayloadError as error:
            log.error("buffer: a batch is damaged, none is joined or thinned any more: %s", error)
            self._room = None
            return None

    def _take_losses(self, store: Store) -> None:
        losses, store.losses = store.losses, []
        self._losses.add(store.epoch, losses)

    def _damaged(self, error: sqlite3.Error) -> None:
        """The database is of no use any more: closed, moved aside, and a new one is begun, with a new epoch."""
        if self._disk is None:
            return None
        with contextlib.suppress(sqlite3.Error):
            self._disk.close()
        self._disk = self._room = None
        try:
            aside = self._move_aside(self._path)
            told = f"{self._path} is damaged: {error}; moved to {aside}, a new one is begun"
            self._note("buffer-aside", told, file=self._path.name, aside=aside.name)
        except OSError as reason:
            return self._use_memory(f"{self._path} is damaged, and cannot be moved aside: {reason.strerror}")
        return self._open_disk()

    def _acknowledge(self) -> None:
        batches = []
        while self._acknowledged:
            batches.append(self._acknowledged.popleft())
        for store in self._stores():
            store.acknowledge((batch.seq, batch.count) for batch in batches if batch.epoch == store.epoch)
            if store in self._left_behind:  # it gets no appends that would write it
                store.flush()

    def _use_memory(self, reason: str) -> None:
        if self._memory is None:
            self._memory = Store.in_memory(self._config.retain, MEMORY_BYTES)
        if reason != self.trouble:
            told = f"{reason}; batches are kept in memory until it works: a restart would lose them"
            self._note("buffer-memory", told, file=self._path.name)
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

    def _store_of(self, batch: StoredBatch) -> Store | None:
        return next((store for store in self._stores() if store.epoch == batch.epoch), None)

    def _halves(self, batch: StoredBatch) -> tuple[Recoded, Recoded] | None:
        """A batch as two; None for what cannot be parted, or decoded, which is told."""
        store = self._store_of(batch)
        try:
            return split(Schema.unpack(store.schema(batch.schema_id)), batch) if store else None
        except PayloadError as error:
            log.error("buffer: cannot split batch %d: %s", batch.seq, error)
            return None

    def _split(self, batch: StoredBatch) -> bool:
        """Raises nothing: what cannot be decoded or written stays as it is."""
        store, halves = self._store_of(batch), self._halves(batch)
        if store is None or halves is None:
            return False
        one, two = halves
        second = batch.seq + one.count if batch.count > 1 else None
        try:
            pieces = [(batch.seq, one), (second, two)]
            return store.rewrite(Rewrite([batch], pieces, batch.schema_id, level=batch.level))
        except sqlite3.Error as error:
            log.error("buffer: cannot split batch %d: %s", batch.seq, error)
            return False

    def _pieces(self, batch: StoredBatch) -> list[StoredBatch]:
        halves = self._halves(batch) if batch.count > 1 else None
        if halves is None:
            return []
        one, two = halves
        return [one.stored(batch, batch.seq), two.stored(batch, batch.seq + one.count)]

    def _stats(self) -> StoreStats:
        parts = [store.stats() for store in self._stores()]
        current = (self._disk or self._stores()[-1]).stats()
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
            thinned_readings=sum(part.thinned_readings for part in parts),
            used=current.used,
            limit=current.limit,
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
