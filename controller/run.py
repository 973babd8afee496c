"""Run: a controller as a process: from its listening line to SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from parkfleet import __version__
from parkfleet.controller.server import ControllerServer, is_loopback
from parkfleet.protocols.quantity import Duration

log = logging.getLogger(__name__)


async def run_controller(listen: str, heartbeat: Duration, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. say gets the listening line. Raises BindError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ControllerServer(listen, heartbeat) as server:
        log.info("controller %s, process %d, heartbeat %s", __version__, os.getpid(), heartbeat)
        if not is_loopback(server.host):
            log.warning("connections from the network are neither encrypted nor authenticated (--insecure)")
        say(f"controller listening on {server.address}")
        await stop.wait()
        log.info("stopping, with a goodbye to %d agents", server.fleet.sessions)
    log.info("controller stopped")
