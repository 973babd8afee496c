"""MQTT connection: one connection to a broker, MQTT 5, driven by asyncio (paho-mqtt underneath).

A connection object lives once; who owns it makes a new one when it is lost. No thread runs beside the loop,
except while connecting (name resolution and the TLS handshake block).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from parkfleet.protocols.config import BrokerConfig

#: Longest wait for TCP, TLS and the broker's CONNACK together.
CONNECT_TIMEOUT_S: Final = 15.0
#: What a broker may send unacknowledged, and how large: it bounds our memory when it is hostile (or only eager).
RECEIVE_MAXIMUM: Final = 1000
MAX_PACKET_BYTES: Final = 16 * 1024 * 1024 + 1024
#: Messages under way at once, at most: paho queues beyond this by itself. Fewer where the broker says so.
PAHO_IN_FLIGHT: Final = 1000

_WITH_WILL: Final = 4
_UNSPECIFIED: Final = 0x80  # what paho says when the link just broke

OnMessage = Callable[[str, bytes, bool], None]  # topic, payload, retained


class BrokerError(Exception):
    """The broker cannot be reached, refuses, or is gone; the message is a sentence for the operator.

    code: the MQTT 5 reason code (2.4 of the standard) that it gave; 0 where it gave none.
    """

    def __init__(self, told: str, code: int = 0) -> None:
        super().__init__(told)
        self.code = code


class PublishRefusedError(BrokerError):
    """The broker took the message and said no to it."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(f"the broker refused a message: {name} (0x{code:02x})", code)


@dataclass(frozen=True)
class _Outgoing:
    """A message that waits until the broker lets one more be in flight."""

    topic: str
    payload: bytes
    retain: bool
    properties: Properties
    ack: "asyncio.Future[None]"


@dataclass(frozen=True)
class Will:
    """What the broker says in our name when we vanish."""

    topic: str
    payload: bytes


class MqttConnection:
    """One connection. `lost` is done, with the reason, once it is gone."""

    def __init__(
        self, broker: BrokerConfig, client_id: str, folder: Path, on_message: OnMessage | None, timeout: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker = broker
        self._on_message = on_message
        self._acks: dict[int, asyncio.Future[None]] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._in_flight = 0  # messages without their acknowledgement
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.lost_code = 0  # the reason code behind `lost`
        self.session_present = False
        self.receive_maximum = 65535  # messages that the broker lets be in flight
        self.maximum_packet_size = 0  # bytes that the broker takes in one packet; 0: it names no limit
        self._alias_maximum = 0
        self._aliases: dict[str, int] = {}
        self.bytes_published = 0
        self._misc: asyncio.TimerHandle | None = None
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.suppress_exceptions = False
        self._client.connect_timeout = timeout
        self._client.max_inflight_messages_set(PAHO_IN_FLIGHT)
        self._set_callbacks()
        if broker.username is not None:
            self._client.username_pw_set(broker.username, _password(broker, folder))
        if broker.tls:
            self._client.tls_set_context(_tls_context(broker, folder))

    @classmethod
    async def open(
        cls,
        broker: BrokerConfig,
        client_id: str,
        *,
        folder: Path = Path(),
        will: Will | None = None,
        session_expiry: int = 0,
        on_message: OnMessage | None = None,
        timeout: float = CONNECT_TIMEOUT_S,
    ) -> "MqttConnection":
        """Connects. Raises BrokerError.

        folder: where relative file names start. session_expiry: seconds for which the broker keeps our session
        (0: a clean one); `session_present` tells whether it still had it. timeout: seconds for all of it together.
        """
        connection = cls(broker, client_id, folder, on_message, timeout)
        if will:
            connection._client.will_set(will.topic, will.payload, qos=1, retain=True)
        try:
            async with asyncio.timeout(timeout):
                await connection._dial(session_expiry)
                await connection._connected
        except (OSError, ValueError) as error:
            connection._end(str(error))
            raise BrokerError(f"cannot reach the broker {broker.url}: {error or 'no answer'}") from None
        except BaseException:
            connection._end("given up")
            raise
        return connection

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, content_type: str | None = None, alias: bool = False
    ) -> "asyncio.Future[None]":
        """Sends with QoS 1; the future is done at the broker's acknowledgement, or fails with BrokerError.

        In the order of the calls; no more at once than the broker's receive maximum, the others wait for their turn.
        alias: the topic is said once on this connection, and by a number of two bytes afterwards (if the broker can).
        """
        ack: asyncio.Future[None] = self._loop.create_future()
        if self.lost.done():
            ack.set_exception(self.error())
            return ack
        topic, number = self._aliased(topic) if alias else (topic, 0)
        self._outgoing.append(_Outgoing(topic, payload, retain, _of_publish(content_type, number), ack))
        self._send()
        return ack

    async def subscribe(self, *topics: str) -> None:
        """Subscribes with QoS 1. Raises BrokerError when the broker says no."""
        error, mid = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
        if error is not MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise BrokerError(f"cannot subscribe: {error.name}")
        ack: asyncio.Future[None] = self._loop.create_future()
        self._acks[mid] = ack
        await ack

    def error(self) -> BrokerError:
        """Why the connection was lost."""
        return BrokerError(self.lost.result(), self.lost_code)

    async def close(self, *, tell_will: bool = False) -> None:
        """Says goodbye and ends the connection; never raises, may be called twice.

        tell_will: the broker is to say our will all the same (reason code 4).
        """
        if not self.lost.done():
            code = ReasonCode(PacketTypes.DISCONNECT, identifier=_WITH_WILL) if tell_will else None
            self._client.disconnect(code)
            self._client.loop_write()  # or the broker would not hear it before the socket closes, and tell our will
            self._end("closed by us")

    async def _dial(self, session_expiry: int) -> None:
        """connect() in a thread. If we are cancelled meanwhile, the thread's socket is closed when it comes."""
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_expiry
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        dial = partial(
            self._client.connect,
            self._broker.host,
            self._broker.port,
            int(self._broker.keepalive),
            clean_start=session_expiry == 0,
            properties=properties,
        )
        dialling = self._loop.run_in_executor(None, dial)
        try:
            await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialling.add_done_callback(self._hang_up)
            raise

    def _hang_up(self, dialling: "asyncio.Future[MQTTErrorCode]") -> None:
        if not dialling.cancelled() and dialling.exception() is None:
            self._end("given up")

    def _set_callbacks(self) -> None:
        """paho calls these in the dialling thread while connecting, in the loop's thread afterwards."""
        loop, client = self._loop, self._client

        def call(function: Callable[..., object], *args: object) -> None:
            loop.call_soon_threadsafe(function, *args)

        client.on_socket_open = lambda _c, _u, sock: call(self._watch, sock)
        client.on_socket_close = lambda _c, _u, sock: _remove(loop, sock)
        client.on_socket_register_write = lambda _c, _u, sock: call(self._watch_write, sock)
        client.on_socket_unregister_write = lambda _c, _u, sock: call(_remove_writer, loop, sock)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda _c, _u, _f, code, _p: call(self._end, _farewell(code), code.value)
        client.on_publish = lambda _c, _u, mid, code, _p: self._on_published(mid, code)
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._on_ack(mid, codes[0])
        client.on_message = self._on_paho_message

    def _watch(self, sock: Any) -> None:
        if sock.fileno() >= 0 and not self.lost.done():
            self._loop.add_reader(sock, self._read)
            self._tick()

    def _watch_write(self, sock: Any) -> None:
        if sock.fileno() >= 0 and not self.lost.done():
            self._loop.add_writer(sock, self._client.loop_write)

    def _read(self) -> None:
        try:
            self._client.loop_read()
        except Exception as error:  # hostile bytes reach paho's parser here: whatever it raises ends the connection
            self._end(f"the broker's bytes are not MQTT 5: {error}")

    def _tick(self) -> None:
        """paho's keepalive, once a second."""
        if self.lost.done():
            return
        if self._client.loop_misc() is not MQTTErrorCode.MQTT_ERR_SUCCESS and self._connected.done():
            self._end("the broker does not answer")
            return
        self._misc = self._loop.call_later(1.0, self._tick)

    def _on_connect(self, _c: Client, _u: Any, flags: Any, code: ReasonCode, properties: Properties | None) -> None:
        if self._connected.done():
            return
        if code.is_failure:
            told = f"the broker {self._broker.url} refuses us: {code}"
            self._connected.set_exception(BrokerError(told, code.value))
            return
        self.session_present = bool(flags.session_present)
        self.receive_maximum = int(getattr(properties, "ReceiveMaximum", 65535))
        self.maximum_packet_size = int(getattr(properties, "MaximumPacketSize", 0))
        self._alias_maximum = int(getattr(properties, "TopicAliasMaximum", 0))
        self._connected.set_result(None)

    def _aliased(self, topic: str) -> tuple[str, int]:
        """Topic and alias to be sent: the topic with a new alias, or nothing with a known one (3.3.2.3.4 of MQTT 5)."""
        known = self._aliases.get(topic)
        if known is not None:
            return "", known
        if len(self._aliases) >= self._alias_maximum:
            return topic, 0
        self._aliases[topic] = len(self._aliases) + 1
        return topic, self._aliases[topic]

    def _send(self) -> None:
        """Sends what may be in flight."""
        while self._outgoing and self._in_flight < min(self.receive_maximum, PAHO_IN_FLIGHT) and not self.lost.done():
            out = self._outgoing.popleft()
            info = self._client.publish(out.topic, out.payload, qos=1, retain=out.retain, properties=out.properties)
            self.bytes_published += len(out.payload)
            self._acks[info.mid] = out.ack
            self._in_flight += 1

    def _on_published(self, mid: int, code: ReasonCode) -> None:
        self._in_flight -= 1
        self._on_ack(mid, code)
        if self._outgoing:
            self._loop.call_soon(self._send)  # paho has not yet counted this one off

    def _on_ack(self, mid: int, code: ReasonCode) -> None:
        ack = self._acks.pop(mid, None)
        if ack is None or ack.done():
            return
        if code.is_failure:
            ack.set_exception(PublishRefusedError(code.value, str(code)))
        else:
            ack.set_result(None)

    def _on_paho_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        if self._on_message:
            self._on_message(message.topic, bytes(message.payload), message.retain)

    def _end(self, reason: str, code: int = 0) -> None:
        """The one end of a connection: wakes all who wait on it. Idempotent."""
        if self.lost.done():
            return
        self.lost_code = 0 if code == _UNSPECIFIED else code
        self.lost.set_result(reason)
        if self._misc:
            self._misc.cancel()
        # paho closes once more, later, perhaps after the loop.
        self._client.on_socket_close = self._client.on_socket_unregister_write = _nothing
        sock = self._client.socket()
        if sock is not None:
            _remove(self._loop, sock)
            sock.close()
        if not self._connected.done():
            told = f"cannot reach the broker {self._broker.url}: {reason}"
            self._connected.set_exception(BrokerError(told, self.lost_code))
            self._connected.exception()  # retrieved: nobody may be waiting
        acks = [*self._acks.values(), *(out.ack for out in self._outgoing)]
        self._acks.clear()
        self._outgoing.clear()
        for ack in acks:
            if not ack.done():
                ack.set_exception(self.error())
                ack.exception()


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho


class _Packed(Properties):
    """Properties that do not change any more: paho would pack them anew each time, in a tenth of a millisecond."""

    def pack(self) -> bytes:
        """Their bytes."""
        own: dict[str, bytes] = self.__dict__
        if "packed" not in own:
            own["packed"] = super().pack()  # type: ignore[no-untyped-call]  # paho
        return own["packed"]


@lru_cache(maxsize=64)
def _of_publish(content_type: str | None, alias: int) -> Properties:
    """A message's properties. alias: 0 for none."""
    properties = _Packed(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho
    if content_type:
        properties.ContentType = content_type
    if alias:
        properties.TopicAlias = alias
    return properties


def _nothing(_client: Client, _userdata: Any, _sock: Any) -> None:
    """For paho's callbacks after the end."""


def _farewell(code: ReasonCode) -> str:
    """paho says "unspecified error" when the link just broke."""
    return (
        "the connection to the broker broke"
        if code.value == _UNSPECIFIED
        else f"the broker ended the connection: {code}"
    )


def _remove_writer(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:  # otherwise closed meanwhile, and forgotten then
        loop.remove_writer(sock)


def _remove(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:
        loop.remove_reader(sock)
        loop.remove_writer(sock)


def _password(broker: BrokerConfig, folder: Path) -> str | None:
    if broker.password_file is None:
        return None
    try:
        return (folder / broker.password_file).read_text("utf-8").strip()
    except OSError as error:
        raise BrokerError(f"cannot read password_file {broker.password_file}: {error.strerror}") from None


def _tls_context(broker: BrokerConfig, folder: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(folder / broker.ca) if broker.ca else None)
        if broker.cert and broker.key:
            context.load_cert_chain(folder / broker.cert, folder / broker.key)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"cannot use the certificates of {broker.url}: {error}") from None
    return context
