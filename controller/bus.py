"""Bus: how replicas on one PostgreSQL tell each other of changes: LISTEN and NOTIFY.

A word on the bus has a topic and a few ids, never the thing itself: PostgreSQL refuses more than 8,000 bytes. It goes
out with the transaction that makes it true. Invariants: a subscriber hears of each change that was committed after it
was called for the first time, or is told to look at everything; its own replica's words it does not hear; with SQLite
there is nobody else, and nothing is heard.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.database import UNAVAILABLE, Database, DatabaseError

log = logging.getLogger(__name__)

CHANNEL: Final = "parkfleet"
#: Bounds of the pause before listening is tried again, doubled each time, a random part of it. Seconds.
AGAIN_S: Final = (0.1, 5.0)
#: A connection that may be half dead is asked for an answer this often, and has so long to give it. Seconds.
PROBE_S: Final = 5.0
#: Words of one topic that wait for its subscriber; beyond, it is told to look at everything.
MAX_WAITING: Final = 1000

#: Takes the ids of what changed; None: anything may have. Raises one of UNAVAILABLE to be called again.
Subscriber = Callable[[list[str] | None], Awaitable[None]]


class Bus:
    """One replica's end of it. name: the replica's, without spaces."""

    def __init__(self, database: Database, name: str | None = None) -> None:
        self._db = database
        self.name = name or secrets.token_hex(8)
        self._subscribers: dict[str, Subscriber] = {}
        self._waiting: dict[str, list[str] | None] = {}
        self._woken = asyncio.Event()
        self.is_listening = not database.is_shared

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Has a topic's words told to a subscriber, one call at a time. Before run()."""
        self._subscribers[topic] = subscriber

    async def tell(self, connection: AsyncConnection, topic: str, ids: str) -> None:
        """Tells the other replicas, when the connection's transaction is committed. ids: without line ends, short."""
        if self._db.is_shared:
            word = f"{self.name} {topic} {ids}"
            await connection.execute(text("SELECT pg_notify(:channel, :word)"), {"channel": CHANNEL, "word": word})

    async def run(self) -> None:
        """Listens until cancelled, across any number of connections. Returns at once where nobody else can be."""
        if not self._db.is_shared:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen_for_ever(), name="bus listener")
            tasks.create_task(self._deliver_for_ever(), name="bus delivery")

    async def _listen_for_ever(self) -> None:
        pause = AGAIN_S[0]
        while True:
            try:
                await self._listen_once()
            except (*UNAVAILABLE, DatabaseError) as error:
                if self.is_listening:
                    pause = AGAIN_S[0]
                    log.warning("the database no longer tells of other replicas' changes: %s; listening again", error)
                self.is_listening = False
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, AGAIN_S[1])

    async def _listen_once(self) -> None:
        """Listens on one connection until that is lost. Raises one of UNAVAILABLE."""
        connection = await self._db.connect_apart()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *word: self._heard(word[-1]))
            # What was told before we listened nobody heard.
            for topic in self._subscribers:
                self._wait(topic, None)
            self.is_listening = True
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S):
                        await lost.wait()
                if not lost.is_set():
                    await connection.execute("SELECT 1", timeout=PROBE_S)
            raise ConnectionError("the connection was lost")
        finally:
            connection.terminate()

    def _heard(self, word: Any) -> None:
        name, _, rest = str(word).partition(" ")
        topic, _, ids = rest.partition(" ")
        if name != self.name and topic in self._subscribers:
            self._wait(topic, ids)

    def _wait(self, topic: str, ids: str | None) -> None:
        """Keeps a word until its subscriber has taken it."""
        waiting = self._waiting.setdefault(topic, [])
        if waiting is None:
            pass
        elif ids is None or len(waiting) >= MAX_WAITING:
            self._waiting[topic] = None
        else:
            waiting.append(ids)
        self._woken.set()

    async def _deliver_for_ever(self) -> None:
        pause = AGAIN_S[0]
        while True:
            await self._woken.wait()
            self._woken.clear()
            waiting, self._waiting = self._waiting, {}
            for topic, ids in waiting.items():
                try:
                    await self._subscribers[topic](ids)
                    pause = AGAIN_S[0]
                except UNAVAILABLE as error:
                    log.warning("a change of %s cannot be read yet: %s", topic, error)
                    self._wait(topic, None)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, AGAIN_S[1])
