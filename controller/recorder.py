"""Recorder: stores what changed of this replica's gateways, many in one commit, one commit a second at most."""

import asyncio
import logging
from typing import Final

from parkfleet.controller.config_store import ConfigStore, Report
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.fleet_store import FleetStore
from parkfleet.controller.registry import Gateway, GatewayKey, Registry

log = logging.getLogger(__name__)

#: A heartbeat alone is stored so long after the one stored before it: figures of the past, should this process end.
#: With 10,000 gateways these are 170 rows a second. Seconds.
STORE_BEAT_S: Final = 60.0
#: So often a replica says that it lives. Seconds.
ALIVE_S: Final = 2.0


class Recorder:
    """What is to be stored of one process's gateways."""

    def __init__(self, registry: Registry, store: FleetStore, config: ConfigStore) -> None:
        self._registry = registry
        self._store = store
        self._config = config
        self._dirty: dict[GatewayKey, None] = {}
        self._reports: dict[GatewayKey, Report] = {}
        self._beats: dict[GatewayKey, float] = {}  # when the last was stored, by the loop's clock
        self._alive = 0  # times that we said we live
        self._alive_at = -ALIVE_S
        self.is_storing = True  # the last try was a success

    def changed(self, gateway: Gateway) -> None:
        """A gateway is another than it was: stored with the next commit."""
        self._dirty[gateway.key] = None

    def heard(self, gateway: Gateway) -> None:
        """A heartbeat came, and nothing else: stored now and then."""
        now = asyncio.get_running_loop().time()
        if now - self._beats.get(gateway.key, -STORE_BEAT_S) >= STORE_BEAT_S:
            self._dirty[gateway.key] = None

    def reported(self, key: GatewayKey, report: Report) -> None:
        """A gateway's word about its configuration, for the history."""
        self._reports[key] = report

    async def flush(self) -> None:
        """Stores what there is. What cannot be stored is kept for the next time, and the log says so."""
        now = asyncio.get_running_loop().time()
        is_due = now - self._alive_at >= ALIVE_S
        if not (self._dirty or self._reports or is_due):
            return
        dirty, self._dirty = self._dirty, {}
        reports, self._reports = self._reports, {}
        found = (self._registry.get(key) for key in dirty)
        gateways = [gateway for gateway in found if gateway and gateway.replica == self._store.replica]
        try:
            is_counted = await self._write(gateways, reports, is_due)
        except BaseException as error:
            self._dirty = {**dirty, **self._dirty}
            self._reports = {**reports, **self._reports}
            if not isinstance(error, UNAVAILABLE):
                raise
            if self.is_storing:
                log.error("%d gateways' changes cannot be stored yet: %s", len(self._dirty), error)
            self.is_storing = False
            return
        if not self.is_storing:
            log.info("changes are stored again")
        self.is_storing = True
        self._beats.update((gateway.key, now) for gateway in gateways)
        if is_due:
            self._alive_at = now
        if not is_counted:
            # The others took us for dead, and our gateways for offline. Or this is our first word.
            self._dirty.update((gateway.key, None) for gateway in self._registry.here())

    async def _write(self, gateways: list[Gateway], reports: dict[GatewayKey, Report], is_due: bool) -> bool:
        async with self._store.flush() as connection:
            if gateways:
                await self._store.save(connection, gateways)
            await self._config.add_reports(connection, reports)
            if not is_due:
                return True
            self._alive += 1
            return await self._store.beat(connection, self._alive)
