"""Moody broker: an MQTT 5 peer that answers publishes as a test wants: with a reason code, or not at all.

Not a broker: it delivers nothing to anybody. It speaks what a publisher with QoS 1 hears (MQTT 5, chapter 3).
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Final, Self

CONNACK, PUBACK, SUBACK, PINGRESP, DISCONNECT = 2, 4, 9, 13, 14
_PACKET_TOO_LARGE: Final = 0x95  # not among the codes of a PUBACK: it ends the connection
_MAXIMUM_PACKET_SIZE: Final = 0x27  # properties of CONNACK
_RECEIVE_MAXIMUM: Final = 0x21
_SESSION_EXPIRY: Final = 0x11  # of CONNECT

#: Gets topic and payload of a publish; returns a reason code (0: taken), or None for silence.
Mood = Callable[[str, bytes], int | None]


class MoodyBroker:
    """Listens within `async with`. `taken` has what it acknowledged with a code below 0x80: (topic, payload)."""

    def __init__(
        self,
        mood: Mood,
        *,
        announced_bytes: int = 0,
        receive_maximum: int = 0,
        connect_code: int = 0,
        subscribe_code: int = 1,
    ) -> None:
        """announced_bytes, receive_maximum: as told when connecting; 0: no word of it."""
        self.mood = mood
        self.connect_code = connect_code
        self.subscribe_code = subscribe_code
        self.taken: list[tuple[str, bytes]] = []
        self.content_types: dict[str, str] = {}  # by topic, as last said
        self.refused = 0
        self.connections = 0
        self.session_expiry = 0  # seconds, as asked for by who connected last
        self.bare_topics = 0  # publishes whose topic was said by its alias alone
        self.port = 0
        self._announced = announced_bytes
        self._receive_maximum = receive_maximum
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        aliases: dict[int, str] = {}
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while answer := self._answer(*await _packet(reader), aliases):
                    writer.write(answer if answer != b"-" else b"")
                    await writer.drain()
        finally:
            self._peers.discard(task)
            writer.transport.abort()

    def _answer(self, kind: int, body: bytes, aliases: dict[int, str]) -> bytes:
        """The bytes of an answer; b"-" for none, and empty to end the connection."""
        match kind:
            case 1:  # CONNECT
                self.connections += 1
                properties = b"\x22" + struct.pack(">H", 10)  # topic alias maximum
                self.session_expiry = _session_expiry(body)
                if self._receive_maximum:
                    properties += bytes([_RECEIVE_MAXIMUM]) + struct.pack(">H", self._receive_maximum)
                if self._announced:
                    properties += bytes([_MAXIMUM_PACKET_SIZE]) + struct.pack(">I", self._announced)
                return _framed(CONNACK, bytes([0, self.connect_code]) + _length(len(properties)) + properties)
            case 3:  # PUBLISH
                topic, packet_id, payload, content_type = _publish(body, aliases)
                self.content_types[topic] = content_type
                self.bare_topics += body[:2] == b"\0\0"
                code = self.mood(topic, payload)
                if code is None:
                    return b"-"
                if code < 0x80:
                    self.taken.append((topic, payload))
                else:
                    self.refused += 1
                if code == _PACKET_TOO_LARGE:
                    return _framed(DISCONNECT, bytes([code, 0]))
                return _framed(PUBACK, packet_id + bytes([code, 0]))
            case 8:  # SUBSCRIBE
                return _framed(SUBACK, body[:2] + bytes([0, self.subscribe_code]))
            case 12:
                return _framed(PINGRESP, b"")
        return b""


def _session_expiry(body: bytes) -> int:
    """Of a CONNECT: seconds for which the client wants its session kept; 0 where it does not say."""
    at = 2 + len("MQTT") + 4  # protocol name, version, flags, keepalive
    length, used = _read_length(body[at:])
    properties = body[at + used : at + used + length]
    at = 0
    while at < len(properties):
        if properties[at] == _SESSION_EXPIRY:
            return int(struct.unpack_from(">I", properties, at + 1)[0])
        at += {_RECEIVE_MAXIMUM: 3, _MAXIMUM_PACKET_SIZE: 5}[properties[at]]  # what else our clients say
    return 0


def _publish(body: bytes, aliases: dict[int, str]) -> tuple[str, bytes, bytes, str]:
    """Topic, packet id, payload and content type of a publish with QoS 1."""
    (size,) = struct.unpack_from(">H", body)
    topic = body[2 : 2 + size].decode()
    at = 2 + size + 2
    packet_id = body[at - 2 : at]
    length, used = _read_length(body[at:])
    alias, content_type = _properties(body[at + used : at + used + length])
    if alias:
        topic = aliases.setdefault(alias, topic)
    return topic, packet_id, body[at + used + length :], content_type


def _properties(properties: bytes) -> tuple[int, str]:
    """What our publisher says: topic alias (0x23, 0 for none) and content type (0x03)."""
    at = alias = 0
    content_type = ""
    while at < len(properties):
        (number,) = struct.unpack_from(">H", properties, at + 1)  # the alias, or the length of the text
        if properties[at] == 0x23:
            alias, at = number, at + 3
        else:
            content_type, at = properties[at + 3 : at + 3 + number].decode(), at + 3 + number
    return alias, content_type


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    (first,) = await reader.readexactly(1)
    size = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first >> 4, await reader.readexactly(size)


def _read_length(data: bytes) -> tuple[int, int]:
    size = at = 0
    while True:
        size |= (data[at] & 0x7F) << 7 * at
        at += 1
        if data[at - 1] < 0x80:
            return size, at


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])


def _framed(kind: int, body: bytes) -> bytes:
    return bytes([kind << 4]) + _length(len(body)) + body
