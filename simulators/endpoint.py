"""TCP endpoint: a Modbus TCP server, or RTU over TCP, with one simulated meter or several behind it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

from parkfleet.protocols.config import LineAddress
from parkfleet.simulators.crew import Crew
from parkfleet.simulators.frames import FramesLostError, Requests, RtuRequests, TcpRequests
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.outgoing import Outgoing, respond
from parkfleet.simulators.record import AnswerRecord

#: Requests that a connection may have under way; more wait in the socket.
MAX_PENDING: Final = 16


class TcpEndpoint:
    """Listens on a port of its own choice, or a given one, and keeps it for its life."""

    def __init__(
        self,
        id: str,
        meters: Iterable[SimulatedMeter],
        record: AnswerRecord,
        *,
        rtu: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """rtu: RTU frames over TCP. port: 0 chooses a free one. clock: unix seconds."""
        self.id = id
        self.host = host
        self.port = port
        self.meters = {meter.unit: meter for meter in meters}
        self._record = record
        self._rtu = rtu
        self._clock = clock
        self._crew = Crew()
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()
        await self._crew.dismiss()

    @property
    def url(self) -> str:
        """As in gateway.yaml."""
        return f"{self.address.kind}://{self.host}:{self.port}"

    @property
    def address(self) -> LineAddress:
        """The url, taken apart."""
        return LineAddress(kind="rtu+tcp" if self._rtu else "tcp", host=self.host, port=self.port)

    @property
    def connections(self) -> int:
        """Askers connected now."""
        return len(self._links)

    async def accept(self) -> None:
        """Lets askers connect (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Ends all connections, and refuses new ones until accept()."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        await self.drop()
        await server.wait_closed()

    async def drop(self) -> None:
        """Ends all connections; new ones are welcome."""
        links = list(self._links.values())
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # came through the door as it was closed
            writer.transport.abort()
            return
        self._links[writer] = task
        try:
            await self._converse(reader, writer)
        except (OSError, FramesLostError, asyncio.CancelledError):
            pass  # the asker is gone, speaks something else, or we drop it: the server's own callback must not see it
        finally:
            del self._links[writer]
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: Requests = RtuRequests() if self._rtu else TcpRequests()
        places = asyncio.Semaphore(MAX_PENDING)
        while data := await reader.read(4096):
            for request in requests.feed(data):
                outgoing = respond(self.meters, request, requests, self._clock(), has_crc=self._rtu)
                if outgoing is not None:
                    await places.acquire()
                    self._crew.start(self._say(outgoing, writer, places), f"{self.id} unit {request.unit}")

    async def _say(self, outgoing: Outgoing, writer: asyncio.StreamWriter, places: asyncio.Semaphore) -> None:
        """Sends an answer at its time, unless the connection has ended by then."""
        try:
            await asyncio.sleep(outgoing.wait)
            if outgoing.disconnect:
                writer.transport.abort()
            if writer.is_closing():
                return
            began = self._clock()
            writer.write(outgoing.frame)
            with contextlib.suppress(OSError):
                await writer.drain()
                self._record.append(outgoing.answer(self.id, began, self._clock()))
        finally:
            places.release()
