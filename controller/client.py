"""FleetClient: asks a controller about its fleet; what the command line, the demo and tests use."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Self

import grpc
from grpc import aio

from parkfleet.controller.bearer import bearers
from parkfleet.controller.view import GatewayView
from parkfleet.proto import fleet_pb2, limits
from parkfleet.proto.errors import DATABASE_AWAY, cause
from parkfleet.proto.fleet_pb2_grpc import FleetStub

if TYPE_CHECKING:
    from parkfleet.proto.fleet_pb2_grpc import FleetAsyncStub  # only its stub file has it

#: A page of the list is made from memory. Seconds.
ANSWER_S: Final = 10.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    # A watch may be silent for long; NAT forgets a silent connection after some minutes.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class FleetError(Exception):
    """The controller did not do what was asked; the message is a sentence for the operator."""


class UnreachableError(FleetError):
    """No controller answers."""


class SignedOutError(FleetError):
    """The controller does not know who asks."""


class FleetClient:
    """A connection to one controller while its block runs.

    address is host:port; token: a session's, or an API token; without one, only an open controller answers.
    ca: the certificate (PEM) of the controller's authority, without which nothing is encrypted. own: (key, certificate)
    of the operator, both PEM, for the port that asks for one.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        ca: bytes | None = None,
        own: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._own = own or (None, None)
        self._address = address
        self._token = token
        self._ca = ca
        self._channel: aio.Channel | None = None

    async def __aenter__(self) -> Self:
        interceptors = bearers(self._token)
        if self._ca is None:
            self._channel = aio.insecure_channel(self._address, options=_OPTIONS, interceptors=interceptors)
        else:
            tls = grpc.ssl_channel_credentials(self._ca, *self._own)
            self._channel = aio.secure_channel(self._address, tls, options=_OPTIONS, interceptors=interceptors)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._channel is not None
        await self._channel.close()

    async def list_gateways(self, park: str = "") -> list[GatewayView]:
        """Every gateway of a park, or of all (""), by park and name. Raises FleetError."""
        found: list[GatewayView] = []
        request = fleet_pb2.ListGatewaysRequest(park=park)
        while True:
            try:
                page = await self._stub().ListGateways(request, timeout=ANSWER_S)
            except aio.AioRpcError as error:
                raise self.told(error) from None
            found.extend(map(GatewayView.of, page.gateways))
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def watch(self, park: str = "") -> AsyncIterator[GatewayView]:
        """Every gateway as it is, then each when it changes. Raises FleetError when the controller is gone."""
        stream = self._stub().WatchGateways(fleet_pb2.WatchGatewaysRequest(park=park))
        try:
            async for change in stream:
                yield GatewayView.of(change.gateway)
        except aio.AioRpcError as error:
            raise self.told(error) from None
        finally:
            stream.cancel()

    def _stub(self) -> "FleetAsyncStub":
        return FleetStub(self.channel)

    @property
    def channel(self) -> aio.Channel:
        """For other services of the same controller."""
        if self._channel is None:
            raise RuntimeError("use FleetClient as a block: async with FleetClient(address) as fleet")
        return self._channel

    def told(self, error: aio.AioRpcError) -> FleetError:
        """A failed call, as a sentence for the operator."""
        details = cause(error)
        if details == DATABASE_AWAY:
            return UnreachableError(f"{self._address}: {details}")
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            if self._ca is None and "Socket closed" in details:  # somebody is there, and hung up on plain words
                return UnreachableError(
                    f"{self._address} answers, but not without TLS: sign in once with "
                    f"`parkfleet fleet --ca ca.pem login --controller {self._address}`, with ca.pem of its data folder"
                )
            return UnreachableError(
                f"no controller at {self._address}: {details}. Start one with `parkfleet controller run`, "
                "or name its address with --controller HOST:PORT"
            )
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return SignedOutError(f"the controller at {self._address} does not let you in: {details}")
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            told = "knows nothing of that: it was started without --data, or is older than this command"
            return FleetError(f"the controller at {self._address} {told}")
        return FleetError(f"the controller at {self._address} refused: {details} ({error.code().name})")
