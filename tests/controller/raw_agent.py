"""A raw agent: says to a controller what it is told to say, also what no agent should."""

from typing import Any, Self

import grpc
from grpc import aio

from parkfleet.proto import common_pb2, limits
from parkfleet.proto.session_pb2 import AgentMessage, ControllerMessage, Goodbye, Welcome

#: In bytes: the raw stream of the session's service, for messages that are none.
METHOD = "/parkfleet.v1.AgentSession/Connect"


def hello(gateway: str = "gw-01", park: str = "p1", **fields: Any) -> AgentMessage:
    """A proper hello, but for the given fields."""
    facts = {"agent_version": "1.2.3", "boot_id": "b", "protocol": limits.PROTOCOL_VERSION, "lines": 1, "meters": 8}
    return AgentMessage(hello=common_pb2.Hello(park=park, gateway=gateway, **{**facts, **fields}))


def heartbeat(**fields: Any) -> AgentMessage:
    """A heartbeat with the given fields."""
    return AgentMessage(heartbeat=common_pb2.Heartbeat(**fields))


def goodbye(reason: str) -> AgentMessage:
    """A last word."""
    return AgentMessage(goodbye=Goodbye(reason=reason))


class RawAgent:
    """One stream on one channel. Leaving the block closes the channel without a goodbye."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
        self._stream: aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(METHOD)()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stream.cancel()
        await self._channel.close()

    async def say(self, message: AgentMessage | bytes) -> None:
        """Sends a message, or any bytes."""
        await self._stream.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def hear(self) -> ControllerMessage:
        """The controller's next message."""
        raw = await self._stream.read()
        assert isinstance(raw, bytes), "the controller ended the stream"
        return ControllerMessage.FromString(raw)

    async def join(self, gateway: str = "gw-01", park: str = "p1") -> Welcome:
        """Says hello and is welcomed."""
        await self.say(hello(gateway, park))
        message = await self.hear()
        assert message.WhichOneof("message") == "welcome"
        return message.welcome

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Waits for the end; (status, details)."""
        return await self._stream.code(), await self._stream.details()

    async def last_words(self) -> list[ControllerMessage]:
        """What the controller says before it ends the stream; leaves at its goodbye, as an agent should."""
        words = []
        try:
            while isinstance(raw := await self._stream.read(), bytes):
                words.append(ControllerMessage.FromString(raw))
                if words[-1].WhichOneof("message") == "goodbye":
                    await self._stream.done_writing()
        except aio.AioRpcError:
            pass  # the status of the end
        return words
