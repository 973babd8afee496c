"""Vitals: whether a controller serves, in sentences; what its web pages and gRPC's health service tell."""

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from parkfleet.controller.server import ControllerServer

#: An event loop that is later than this serves nobody well. Seconds.
LATE_S: Final = 5.0
#: Whoever watches is told of a change within this. Seconds.
LOOK_S: Final = 1.0


class Vitals(NamedTuple):
    """How a controller's storing fares."""

    commits: int  # since it started
    is_storing: bool  # the last changes could be
    is_listening: bool  # other replicas' changes are told
    others: int  # replicas that live beside it


class Pulse:
    """Whether one controller serves, for those who wait for a change of that."""

    def __init__(self, server: "ControllerServer") -> None:
        self._server = server
        self._changed = asyncio.Event()
        self.is_serving = True

    def problems(self) -> list[str]:
        """What is wrong; nothing: it serves."""
        found = []
        vitals = self._server.vitals()
        if vitals is not None and not vitals.is_storing:
            found.append("the database is away: nothing can be stored")
        if vitals is not None and not vitals.is_listening:
            found.append("the database does not tell of other replicas' changes")
        if self._server.load.late_s > LATE_S:
            found.append(f"the event loop is {self._server.load.late_s:.1f} s late")
        return found

    async def run(self) -> None:
        """Looks until cancelled; then it serves no more."""
        try:
            while True:
                self._set(not self.problems())
                await asyncio.sleep(LOOK_S)
        finally:
            self._set(False)

    @property
    def changed(self) -> asyncio.Event:
        """Is set at the next change from now on."""
        return self._changed

    def _set(self, is_serving: bool) -> None:
        if is_serving is not self.is_serving:
            self.is_serving = is_serving
            self._changed.set()
            self._changed = asyncio.Event()
