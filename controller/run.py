"""Run: a controller as a process: from its listening line to SIGTERM."""

import asyncio
import logging
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from parkfleet import __version__
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_secrets import SecretBox, SecretError
from parkfleet.controller.config_store import ConfigStore, open_database
from parkfleet.controller.fleet import read_clock
from parkfleet.controller.run_options import ControllerOptions
from parkfleet.controller.server import BindError, ControllerServer, Gates

log = logging.getLogger(__name__)


class StartError(Exception):
    """The controller cannot start; the message says why and what to do."""


async def run_controller(options: ControllerOptions, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. say gets the listening lines.

    Raises StartError.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as life:
        config = gates = None
        if options.data is not None:
            config, gates = await _opened(options, options.data, life)
        server = ControllerServer(options.listen, options.heartbeat, config=config, gates=gates)
        try:
            await life.enter_async_context(server)
        except BindError as error:
            raise StartError(f"{error}. Choose another with --listen HOST:PORT") from None
        log.info("controller %s, process %d, heartbeat %s", __version__, os.getpid(), options.heartbeat)
        if gates is not None:
            say(f"boxes enrol at {server.enrolment}, authority {gates.house.authority.fingerprint.hex()}")
            say(f"operators at {server.operators}, trusting {options.data}/ca.pem")
        say(f"controller listening on {server.address}")
        await stop.wait()
        log.info("stopping, with a goodbye to %d agents", server.fleet.sessions)
    log.info("controller stopped")


async def _opened(options: ControllerOptions, folder: Path, life: AsyncExitStack) -> tuple[ConfigFleet, Gates]:
    """What is kept in a folder, which is made if it is not there: the fleet's configuration, and who guards the ports.

    Raises StartError.
    """
    try:
        from parkfleet.controller.authority import AuthorityError, check_server_name
        from parkfleet.controller.database import Database, DatabaseError
        from parkfleet.controller.gatehouse import Gatehouse
    except ModuleNotFoundError as error:
        told = "a controller with --data needs its own packages: pip install 'parkfleet[controller]'"
        raise StartError(f"{told} ({error.name} is missing)") from None
    try:
        for name in options.names:
            check_server_name(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = open_database(str(folder / "configuration.db"))
        life.callback(connection.close)
        config = ConfigFleet(ConfigStore(connection, SecretBox.at(folder / "secrets.key")))
        database = await Database.open(f"sqlite:///{(folder / 'controller.db').resolve()}")
        life.push_async_callback(database.close)
        house = await Gatehouse.open(database, folder, lambda: read_clock().wall_ms, options.certificate_life)
    except (SecretError, AuthorityError, DatabaseError, ValueError, OSError, sqlite3.Error) as error:
        raise StartError(str(error)) from None
    return config, Gates(house, options.enrolment, options.operators, options.names)
