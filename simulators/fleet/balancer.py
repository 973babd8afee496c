"""Balancer: one address before several controllers, as a site's TCP load balancer is: by turns, and around the dead."""

import asyncio
from typing import Final

from parkfleet.simulators.proxy import LinkProxy

#: A controller that does not take a connection within this is passed over. Seconds.
DIAL_S: Final = 2.0


class Balancer(LinkProxy):
    """A link to one of several targets, (host, port) each; they may be changed while it runs."""

    def __init__(self, *targets: tuple[str, int]) -> None:
        super().__init__("", 0)
        self.targets = list(targets)
        self._turn = 0

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(len(self.targets)):
            self._turn += 1
            host, port = self.targets[self._turn % len(self.targets)]
            try:
                return await asyncio.wait_for(asyncio.open_connection(host, port), DIAL_S)
            except (OSError, TimeoutError):
                continue
        raise ConnectionRefusedError
