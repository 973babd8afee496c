"""Replica: one controller among those on its database: what it stores, what it learns of the others.

Invariants: a session is admitted only when its epoch is in the database; what could not be stored is stored when the
database is back; a replica that is silent has its gateways taken offline by the others, and if it lives after all, it
takes them back.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from parkfleet.controller.claims import Claims
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.fleet import FleetState
from parkfleet.controller.fleet_store import TOPIC
from parkfleet.controller.recorder import ALIVE_S, Recorder
from parkfleet.controller.registry import Gateway, State
from parkfleet.controller.storage import Storage

log = logging.getLogger(__name__)

#: What changed is stored so often. Seconds.
FLUSH_S: Final = 1.0
#: A replica that has not said for so long that it lives is dead. Seconds.
DEAD_S: Final = 10.0


class Replica:
    """This process's part of the fleet."""

    def __init__(self, fleet: FleetState, storage: Storage) -> None:
        self._fleet = fleet
        self._storage = storage
        self._store = storage.fleet
        self._claims = Claims(storage.fleet)
        self.recorder = Recorder(fleet.registry, storage.fleet, storage.config.store)
        self._learning = asyncio.Lock()  # rows that were read earlier never come after those that were read later
        self._marks: dict[str, int] = {}  # how far each other replica's writes are known
        self._others: dict[str, tuple[int, float]] = {}  # last word of each that it lives, and when it was heard first
        fleet.claim = self._claims.claim
        fleet.recorder = self.recorder
        storage.bus.subscribe(TOPIC, self._changed_elsewhere)

    @property
    def others(self) -> int:
        """Replicas that live beside this one."""
        return len(self._others)

    async def load(self) -> None:
        """Takes what the database knows of the fleet. Raises one of UNAVAILABLE."""
        await self._look_at_all()
        if not self._storage.database.is_shared:  # whoever had sessions is gone, for we are alone
            for name in {gateway.replica for gateway in self._fleet.gateways() if gateway.is_online}:
                await self._bury(name, "the controller ended without a goodbye")
            for name in await self._store.beats():
                await self._bury(name, "")

    async def run(self) -> None:
        """Stores and looks after the others until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._claims.run(), name="claims")
            tasks.create_task(self._flush_for_ever(), name="recorder")
            if self._storage.database.is_shared:
                tasks.create_task(self._watch_others(), name="replicas")

    async def close(self) -> None:
        """Stores the last, and says that this replica is gone. Once no session is left."""
        await self.recorder.flush()
        try:
            await self._store.leave()
        except UNAVAILABLE as error:
            log.warning("the others are not told that this controller stops: %s", error)

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.recorder.flush()
            if self._claims.failed and self.recorder.is_storing:
                try:
                    self._claims.failed = False
                    await self._look_at_all()
                except UNAVAILABLE:
                    self._claims.failed = True

    async def _changed_elsewhere(self, writers: list[str] | None) -> None:
        """Others have written. Raises one of UNAVAILABLE."""
        if writers is None:
            await self._look_at_all()
            return
        async with self._learning:
            for writer in set(writers):
                gateways, self._marks[writer] = await self._store.changed(writer, self._marks.get(writer, 0))
                for gateway in gateways:
                    self._learn(gateway)

    async def _look_at_all(self) -> None:
        """Takes every row that is news. Raises one of UNAVAILABLE."""
        async with self._learning:
            marks = await self._store.marks()
            async for gateway in self._store.all():
                self._learn(gateway)
            self._marks = marks

    def _learn(self, gateway: Gateway) -> None:
        is_ours = gateway.replica == self._store.replica
        held = self._fleet.registry.get(gateway.key)
        if held is not None and held.session and held.epoch == gateway.epoch and is_ours:
            # Our own row: what we know is newer; but if they say it is offline, they must be told otherwise.
            if held.is_online is not gateway.is_online:
                self.recorder.changed(held)
            return
        if is_ours and gateway.is_online:
            # A claim of ours that nobody told us had been a success: the session never began.
            gateway = replace(gateway, state=State.OFFLINE, reason="the session never began")
            self.recorder.changed(gateway)
        self._fleet.learned(gateway)

    async def _watch_others(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            try:
                await self._look_after_others()
            except UNAVAILABLE:
                self._others.clear()  # nobody can say that he lives, nor be blamed for it

    async def _look_after_others(self) -> None:
        now = asyncio.get_running_loop().time()
        beats = await self._store.beats()
        having = {gateway.replica for gateway in self._fleet.gateways() if gateway.is_online}
        names = (beats.keys() | having) - {self._store.replica}
        self._others = {name: heard for name, heard in self._others.items() if name in names}
        for name in names:
            beat, since = self._others.get(name, (-1, now))
            if beat != beats.get(name, 0):
                self._others[name] = (beats.get(name, 0), now)
            elif now - since > DEAD_S:
                log.warning("controller %s is gone: its gateways are offline until they are back", name)
                await self._bury(name, f"its controller {name} is gone")
                self._others.pop(name, None)

    async def _bury(self, name: str, reason: str) -> None:
        """Raises one of UNAVAILABLE."""
        async with self._learning:
            for gateway in await self._store.bury(name, reason, self._fleet.now().wall_ms):
                self._learn(gateway)
