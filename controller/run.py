"""Run: a controller as a process: from its listening line to SIGTERM."""

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from parkfleet import __version__
from parkfleet.controller.errors import DatabaseError
from parkfleet.controller.fleet import read_clock
from parkfleet.controller.listeners import BindError, Gates
from parkfleet.controller.memory import keep_arenas_few
from parkfleet.controller.run_options import ControllerOptions, WebOptions
from parkfleet.controller.server import ControllerServer
from parkfleet.protocols.address import split_address

if TYPE_CHECKING:
    from parkfleet.controller.operators import Operators
    from parkfleet.controller.storage import Storage  # with the controller's own packages only

log = logging.getLogger(__name__)


class StartError(Exception):
    """The controller cannot start; the message says why and what to do."""


async def run_controller(options: ControllerOptions, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. say gets the listening lines. Raises StartError."""
    keep_arenas_few()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as life:
        storage = gates = operators = None
        if options.data is not None:
            storage, gates = await _opened(options, options.data, life)
            operators = await _people(storage, gates, options.data, say)
        server = ControllerServer(options.listen, options.heartbeat, storage=storage, operators=operators, gates=gates)
        try:
            await life.enter_async_context(server)
        except BindError as error:
            raise StartError(f"{error}. Choose another with --listen HOST:PORT") from None
        log.info("controller %s, process %d, heartbeat %s", __version__, os.getpid(), options.heartbeat)
        await _shown(server, options.web, life, say)
        for line in _listening(server, options):
            say(line)
        await stop.wait()
        log.info("stopping, with a goodbye to %d agents", server.fleet.sessions)
    log.info("controller stopped")


def _listening(server: ControllerServer, options: ControllerOptions) -> list[str]:
    """Where it takes connections; the last line says that it does."""
    lines = [f"controller listening on {server.address}"]
    if server.listeners.enrolment is not None:
        lines.insert(0, f"boxes enrol at {server.listeners.enrolment.address}")
        lines.insert(1, f"operators at {server.listeners.operators.address}, with {options.data}/ca.pem")
    if server.listeners.mutual:
        lines.insert(2, f"operators with a certificate at {server.listeners.mutual}")
    return lines


async def _shown(
    server: ControllerServer, options: WebOptions, life: AsyncExitStack, say: Callable[[str], None]
) -> None:
    """Metrics and health, where they are asked for and can be. Raises StartError."""
    if not options.address:
        return
    try:
        from parkfleet.controller.web import WebServer, web_app
    except ModuleNotFoundError as error:
        log.info("no metrics: %s is missing (pip install 'parkfleet[controller]')", error.name)
        return
    web = WebServer(web_app(server), options.address, options.certificate, options.key)
    try:
        await life.enter_async_context(web)
    except BindError as error:
        raise StartError(f"{error}. Choose another with --web HOST:PORT, or --web off") from None
    say(f"metrics at {web.url}/metrics")


def _lock(folder: Path, life: AsyncExitStack) -> None:
    """Keeps a second controller from the same SQLite file: each would take the other's gateways for lost."""
    lock = life.enter_context((folder / "controller.lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(
            f"another controller uses {folder}: stop it, or give several a PostgreSQL with --database"
        ) from None


async def _opened(options: ControllerOptions, folder: Path, life: AsyncExitStack) -> "tuple[Storage, Gates]":
    """What is kept in a folder, which is made if it is not there, and who guards the ports. Raises StartError."""
    try:
        from parkfleet.controller.authority import AuthorityError, check_server_name
        from parkfleet.controller.config_secrets import SecretBox, SecretError
        from parkfleet.controller.database import UNAVAILABLE, Database
        from parkfleet.controller.gatehouse import Gatehouse
        from parkfleet.controller.storage import Storage
    except ModuleNotFoundError as error:
        told = "--data needs the controller's own packages"
        raise StartError(f"{told} ({error.name} is missing): pip install 'parkfleet[controller]'") from None
    try:
        for name in options.names:
            check_server_name(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        box = SecretBox.at(folder / "secrets.key")
        if options.database.url:
            database = await Database.open(options.database.url, options.database.password())
        else:
            _lock(folder, life)
            database = await Database.open(f"sqlite:///{(folder / 'controller.db').resolve()}")
        life.push_async_callback(database.close)
        if (old := folder / "configuration.db").exists():
            log.warning("%s is of a build before the first release, and is not read: remove it", old)
        storage = await Storage.load(database, box, _replica_name(options))
        house = await Gatehouse.open(
            database, folder, lambda: read_clock().wall_ms, options.certificate_life, storage.bus
        )
    except (SecretError, AuthorityError, DatabaseError, ValueError, *UNAVAILABLE) as error:
        raise StartError(str(error)) from None
    return storage, Gates(house, options.enrolment, options.operators, options.mutual, options.names)


async def _people(storage: "Storage", gates: Gates, folder: Path, say: Callable[[str], None]) -> "Operators":
    """Who signs in at a controller that keeps something. Raises StartError."""
    try:
        from parkfleet.controller.database import UNAVAILABLE
        from parkfleet.controller.first_admin import open_operators
    except ModuleNotFoundError as error:
        told = "--data needs the controller's own packages"
        raise StartError(f"{told} ({error.name} is missing): pip install 'parkfleet[controller]'") from None
    try:
        return await open_operators(storage, gates.house.authority, folder, say)
    except UNAVAILABLE as error:
        raise StartError(str(error)) from None


def _replica_name(options: ControllerOptions) -> str:
    """For people, and unlike any other's: HOST:PORT, and which process that was."""
    _, port = split_address(options.listen)
    return f"{socket.gethostname()}:{port}/{secrets.token_hex(4)}"
