"""Wire: a line that the installer's command has opened for itself; spent connections are renewed on it."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from parkfleet.agent.transport import LineDownError, Transport, open_transport
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.modbus.pdu import Request

T = TypeVar("T")

#: Opens a line. Raises LineDownError.
Opener = Callable[[LineAddress], Awaitable[Transport]]


class Asker(Protocol):
    """Anything that takes a request to a line: a Wire, or AgentLine."""

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport."""


class Wire:
    """One line at one setting, open for as long as it is used."""

    def __init__(self, address: LineAddress, opener: Opener = open_transport) -> None:
        self._address = address
        self._opener = opener
        self._transport: Transport | None = None

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport."""
        if self._transport is None:
            self._transport = await self._opener(self._address)
        try:
            return await self._transport.transact(request, timeout)
        except LineDownError:
            self.close()
            raise
        finally:
            if self._transport is not None and not self._transport.usable:
                self.close()

    def close(self) -> None:
        """Idempotent; the next request opens it again."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


@contextlib.asynccontextmanager
async def opened(address: LineAddress, opener: Opener = open_transport) -> AsyncIterator[Wire]:
    """A wire that is surely open, until the end. Raises LineDownError."""
    wire = Wire(address, opener)
    wire._transport = await opener(address)
    try:
        yield wire
    finally:
        wire.close()
