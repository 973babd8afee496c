"""Storage: all of a controller that outlives its process: the database and those who know their way in it."""

from dataclasses import dataclass
from typing import Self

from parkfleet.controller.bus import Bus
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import TOPIC, ConfigStore
from parkfleet.controller.database import Database
from parkfleet.controller.fleet_store import FleetStore


@dataclass(frozen=True)
class Storage:
    """The parts, over one open database, which is its owner's to close."""

    database: Database
    bus: Bus
    config: ConfigFleet
    fleet: FleetStore

    @classmethod
    async def load(cls, database: Database, box: SecretBox, name: str | None = None) -> Self:
        """With the configuration that is stored. name: this replica's, without spaces, unlike any other's ever.

        Raises one of UNAVAILABLE; SecretError when the secrets that are stored are of another key.
        """
        bus = Bus(database, name)
        store = ConfigStore(database, box, bus)
        await store.check_key()
        config = await ConfigFleet.load(store)

        async def catch_up(_: list[str] | None) -> None:
            await config.catch_up()

        bus.subscribe(TOPIC, catch_up)
        return cls(database, bus, config, FleetStore(database, bus))
