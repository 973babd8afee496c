"""Proxy: a TCP link between two real parts that can be cut, silenced and mended, and that counts its bytes."""

import asyncio
import contextlib
from typing import Self


class LinkProxy:
    """Listens on a port of its own and passes bytes to a target. While cut, it refuses and drops connections.

    While silent it is a partition: connections stand half open, no byte comes through, and nobody is told.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0
        self.bytes_up = 0  # towards the target
        self.bytes_down = 0
        self.is_cut = False
        self._passing = asyncio.Event()
        self._passing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._drop_links()
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """Links that stand now."""
        return len(self._links)

    async def cut(self) -> None:
        """Ends all connections and lets none through until mend()."""
        self.is_cut = True
        await self._drop_links()

    def silence(self) -> None:
        """Passes nothing any more, and ends nothing, until mend(); what was sent meanwhile comes then, like TCP."""
        self._passing.clear()

    def mend(self) -> None:
        """Lets connections and bytes through again."""
        self.is_cut = False
        self._passing.set()

    async def _drop_links(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            silent = not self._passing.is_set()
            await self._passing.wait()
            if not self.is_cut and not silent:  # in a partition no connection is made
                await self._pass_both_ways(reader, writer)
        except asyncio.CancelledError:
            pass  # cut, or closing: the server's own callback must not see it
        finally:
            self._links.discard(task)
            writer.transport.abort()

    async def _pass_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await self._dial()
        except OSError:
            return
        try:
            up = asyncio.create_task(self._pump(reader, back, up=True))
            down = asyncio.create_task(self._pump(there, writer, up=False))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the target. Raises OSError."""
        return await asyncio.open_connection(*self._target)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if up:
                    self.bytes_up += len(data)
                else:
                    self.bytes_down += len(data)
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
            await sink.drain()
