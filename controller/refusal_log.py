"""Refusal log: who was refused and why, in the process's log, without letting him fill it."""

import logging
from typing import Final

from parkfleet.controller.rate_limit import Rate, RateLimit, network_of

log = logging.getLogger(__name__)

#: Lines from one address, and in all.
PEER_RATE: Final = Rate(10, 1 / 30)
TOTAL_RATE: Final = Rate(50, 1.0)


class RefusalLog:
    """One for all that a server refuses."""

    def __init__(self) -> None:
        self._limit = RateLimit(PEER_RATE, TOTAL_RATE)
        self._untold = 0

    def tell(self, what: str, peer: str, told: str) -> None:
        """A line, or a count in the next one."""
        if self._limit.take(network_of(peer)):
            self._untold += 1
            return
        more = f" ({self._untold} more were refused, unlogged)" if self._untold else ""
        self._untold = 0
        log.warning("%s from %s is refused: %s%s", what, peer, told, more)
