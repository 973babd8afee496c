"""Run: a controller as a process: from its listening line to SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from parkfleet import __version__
from parkfleet.controller.errors import DatabaseError
from parkfleet.controller.server import ControllerServer, is_loopback
from parkfleet.protocols.quantity import Duration

if TYPE_CHECKING:
    from parkfleet.controller.storage import Storage  # with the controller's own packages only

log = logging.getLogger(__name__)


async def run_controller(
    listen: str, heartbeat: Duration, say: Callable[[str], None], data: Path | None = None
) -> None:
    """Serves until SIGTERM or SIGINT. say gets the listening line. data: folder of what must outlive the process.

    Raises BindError, SecretError, DatabaseError.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as life:
        storage = None if data is None else await life.enter_async_context(_storage(data))
        server = await life.enter_async_context(ControllerServer(listen, heartbeat, storage=storage))
        log.info("controller %s, process %d, heartbeat %s", __version__, os.getpid(), heartbeat)
        if not is_loopback(server.host):
            log.warning("connections from the network are neither encrypted nor authenticated (--insecure)")
        say(f"controller listening on {server.address}")
        await stop.wait()
        log.info("stopping, with a goodbye to %d agents", server.fleet.sessions)
    log.info("controller stopped")


@asynccontextmanager
async def _storage(folder: Path) -> "AsyncIterator[Storage]":
    """What is in a folder, which is made if it is not there. Raises SecretError, DatabaseError."""
    try:
        from parkfleet.controller.config_secrets import SecretBox
        from parkfleet.controller.database import Database
        from parkfleet.controller.storage import Storage
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"--data needs the controller's own packages ({error.name} is missing): pip install 'parkfleet[controller]'"
        ) from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    box = SecretBox.at(folder / "secrets.key")
    database = await Database.open(f"sqlite:///{(folder / 'controller.db').resolve()}")
    try:
        yield await Storage.load(database, box)
    finally:
        await database.close()
