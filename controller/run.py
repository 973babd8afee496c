"""Run: a controller as a process: from its listening line to SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from parkfleet import __version__
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import ConfigStore, open_database
from parkfleet.controller.server import ControllerServer, is_loopback
from parkfleet.protocols.quantity import Duration

log = logging.getLogger(__name__)


async def run_controller(
    listen: str, heartbeat: Duration, say: Callable[[str], None], data: Path | None = None
) -> None:
    """Serves until SIGTERM or SIGINT. say gets the listening line. data: folder of what must outlive the process.

    Raises BindError, SecretError.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as life:
        config = None if data is None else life.enter_context(_configuration(data))
        server = await life.enter_async_context(ControllerServer(listen, heartbeat, config=config))
        log.info("controller %s, process %d, heartbeat %s", __version__, os.getpid(), heartbeat)
        if not is_loopback(server.host):
            log.warning("connections from the network are neither encrypted nor authenticated (--insecure)")
        say(f"controller listening on {server.address}")
        await stop.wait()
        log.info("stopping, with a goodbye to %d agents", server.fleet.sessions)
    log.info("controller stopped")


@contextmanager
def _configuration(folder: Path) -> Iterator[ConfigFleet]:
    """The fleet's configuration in a folder, which is made if it is not there. Raises SecretError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = open_database(str(folder / "configuration.db"))
    try:
        yield ConfigFleet(ConfigStore(connection, SecretBox.at(folder / "secrets.key")))
    finally:
        connection.close()
