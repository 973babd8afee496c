"""Deny list: the certificates that are revoked and would still hold, and the streams that live on certificates.

A stream is checked when it opens and told when its certificate is revoked later. Nothing here costs more than the
streams of the gateways that are meant.
"""

from collections import defaultdict
from collections.abc import Callable

#: Ends a stream: (why, in a sentence for the gateway).
EndStream = Callable[[str], None]


class RevokedError(Exception):
    """A certificate that is revoked; the message is the sentence for the gateway."""


class DenyList:
    """By serial number."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._streams: defaultdict[str, set[EndStream]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._told)

    def check(self, serial: str) -> None:
        """Raises RevokedError."""
        if (told := self._told.get(serial)) is not None:
            raise RevokedError(told)

    def opened(self, serial: str, end: EndStream) -> None:
        """A stream lives on a certificate from now on. Raises RevokedError."""
        self.check(serial)
        self._streams[serial].add(end)

    def closed(self, serial: str, end: EndStream) -> None:
        """It does no more; may be told twice."""
        self._streams[serial].discard(end)
        if not self._streams[serial]:
            del self._streams[serial]

    def revoke(self, serial: str, told: str) -> int:
        """Ends the streams of a certificate, and lets none open again; how many streams."""
        self._told.setdefault(serial, told)
        streams = list(self._streams.get(serial, ()))
        for end in streams:
            end(self._told[serial])
        return len(streams)
