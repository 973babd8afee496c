"""Capture: what goes over a line while somebody looks, as pcapng."""

from typing import Protocol

from parkfleet.protocols.pcapng import PcapWriter, Piece


class Tap(Protocol):
    """A line whose bytes can be had: the native engine's."""

    @property
    def has_headers(self) -> bool:
        """Whether its frames are Modbus TCP's."""

    def open_tap(self) -> None:
        """Has them written down. Raises ValueError when somebody else looks already."""

    def tapped(self) -> list[Piece]:
        """Those that were not taken yet."""

    def close_tap(self) -> None:
        """Ends it; idempotent."""


class Capture:
    """One look at one line, until close()."""

    def __init__(self, line: str, tap: Tap) -> None:
        """Raises ValueError when somebody else looks at a line of the engine already."""
        self._tap = tap
        self._writer = PcapWriter(line, rtu=not tap.has_headers)
        tap.open_tap()
        self._ready = self._writer.header()

    def take(self) -> bytes:
        """What the file has gained since the last call."""
        taken, self._ready = self._ready, b""
        return taken + b"".join(map(self._writer.add, self._tap.tapped()))

    def close(self) -> bytes:
        """Ends it; the last bytes of the file."""
        rest = self.take() + self._writer.end()
        self._tap.close_tap()
        return rest
