"""Logs: one line an event on stderr, time in UTC, for a person or for journald."""

import logging
import sys
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")


def configure_logging(level: str) -> None:
    """Sets up the process's log; level is one of LEVELS."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # pymodbus and paho tell every byte at debug; ours is the log of an agent, not of a wire.
    for noisy in ("pymodbus", "paho", "asyncio", "grpc", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
