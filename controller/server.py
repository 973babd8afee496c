"""ControllerServer: the controller's whole life: binds, serves agents and operators, ends politely.

With gates it has three ports, each a server of its own, so that none serves what belongs to another: sessions, for
gateways with a certificate (mutual TLS); enrolment, for boxes that have none (TLS); operators (TLS, and whatever its
interceptors ask for). Without, all stands on one plain port, for one machine.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc
from grpc import aio

from parkfleet.controller.config_delivery import ConfigDelivery
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_service import ConfigService
from parkfleet.controller.fleet import MAX_WATCHERS, FleetState, read_clock
from parkfleet.controller.fleet_service import FleetService
from parkfleet.controller.registry import MAX_GATEWAYS, Moment
from parkfleet.controller.sessions import AgentSessions
from parkfleet.proto import limits
from parkfleet.proto.config_pb2_grpc import add_FleetConfigurationServicer_to_server
from parkfleet.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from parkfleet.proto.session_pb2_grpc import add_AgentSessionServicer_to_server
from parkfleet.protocols.address import is_everywhere, split_address

if TYPE_CHECKING:
    from parkfleet.controller.gatehouse import Gatehouse

#: After the goodbyes: for calls that are being answered. Seconds.
STOP_GRACE_S: Final = 2.0
#: Calls at once: strangers get a small part of the machine; operators have their watches and some calls beside.
MAX_STRANGERS: Final = 200
MAX_OPERATORS: Final = MAX_WATCHERS + 200

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    # A second controller on the same port is a mistake to be told, not a way to share the load.
    ("grpc.so_reuseport", 0),
    # A box that lost its power leaves a half-open connection behind: found within 80 s, also before its hello.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Agents ping every 60 s; at the default (300 s) they would be thrown out for pinging too much.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
)
_ENROLMENT_OPTIONS: Final = (("grpc.max_receive_message_length", limits.MAX_ENROLMENT_BYTES), *_OPTIONS[1:])


class BindError(Exception):
    """The address cannot be listened on; the message says why and what to do."""


@dataclass(frozen=True)
class Gates:
    """Who guards the ports, and which there are beside that of the sessions."""

    house: "Gatehouse"
    enrolment: str = "127.0.0.1:0"
    operators: str = "127.0.0.1:0"
    names: Sequence[str] = ()  # by which gateways reach the controller; the first stands in tokens


class ControllerServer:
    """A controller that serves while its block runs.

    address is host:port of the sessions, port 0 for any free one; heartbeat_interval in seconds; interceptors guard
    the operators' port. Entering raises BindError.
    """

    def __init__(
        self,
        address: str,
        heartbeat_interval: float = 10.0,
        clock: Callable[[], Moment] = read_clock,
        config: ConfigFleet | None = None,
        gates: Gates | None = None,
        interceptors: Sequence[aio.ServerInterceptor] = (),
    ) -> None:
        low, high = limits.HEARTBEAT_S
        if not low <= heartbeat_interval <= high:
            raise ValueError(f"the heartbeat interval must be from {low:g} s to {high:g} s")
        self.host, _ = split_address(address)
        self.port = 0
        self.fleet = FleetState(heartbeat_interval, clock)
        self.enrolment = ""  # host:port with the real port; "" without gates
        self.operators = ""  # host:port with the real port
        self._config = config
        self._gates = gates
        self._interceptors = interceptors
        self._asked = address
        self._servers: list[aio.Server] = []
        self._tasks = asyncio.TaskGroup()
        self._ticker: asyncio.Task[None] | None = None
        self._deliverer: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """host:port of the sessions with the real port."""
        return f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        delivery = None
        if self._config is not None:
            delivery = ConfigDelivery(self._config, lambda: self.fleet.now().wall_ms)
        try:
            if self._gates is None:
                self._open_plainly(delivery)
            else:
                self._open_gates(self._gates, delivery)
        except BindError:
            await asyncio.gather(*(server.stop(None) for server in self._servers))
            raise
        for server in self._servers:
            await server.start()
        await self._tasks.__aenter__()
        self._ticker = self._tasks.create_task(self._tick(), name="controller tick")
        if delivery is not None:
            self._deliverer = self._tasks.create_task(delivery.run(), name="configuration delivery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._servers and self._ticker is not None
        self.fleet.end_all("the controller is stopping")
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in self._servers))
        self._ticker.cancel()
        if self._deliverer is not None:
            self._deliverer.cancel()
        # A cancellation may be the group's own, after a failed task: it must see it. Other errors go on unwrapped.
        if kind is not asyncio.CancelledError:
            kind = error = traceback = None
        await self._tasks.__aexit__(kind, error, traceback)

    def _open_plainly(self, delivery: ConfigDelivery | None) -> None:
        """Everything on one port, for whoever reaches it. Raises BindError."""
        calls = MAX_GATEWAYS + MAX_OPERATORS
        server, self.port = self._listen(self._asked, None, calls, interceptors=self._interceptors)
        self.operators = self.address
        add_AgentSessionServicer_to_server(AgentSessions(self.fleet, delivery), server)
        self._add_operators(server, delivery)

    def _open_gates(self, gates: Gates, delivery: ConfigDelivery | None) -> None:
        """A port for each kind of guest. Raises BindError."""
        from parkfleet.controller.enrolment_service import EnrolmentService, PublicAddresses, RenewalService
        from parkfleet.controller.identity_service import IdentityService
        from parkfleet.controller.server_certificate import ServerCertificate
        from parkfleet.proto.enrolment_pb2_grpc import (
            add_CertificateRenewalServicer_to_server,
            add_EnrolmentServicer_to_server,
        )
        from parkfleet.proto.identity_pb2_grpc import add_FleetIdentityServicer_to_server

        asked = (self._asked, gates.enrolment, gates.operators)
        names = [*gates.names, *(host for host, _ in map(split_address, asked) if not is_everywhere(host))]
        certificate = ServerCertificate(
            gates.house.authority, [*names, "localhost", "127.0.0.1", "::1"], lambda: self.fleet.now().wall_ms / 1000
        )
        guarded = certificate.credentials(mutual=True)
        sessions, self.port = self._listen(self._asked, guarded, 2 * MAX_GATEWAYS)
        tls = certificate.credentials(mutual=False)
        strangers, port = self._listen(gates.enrolment, tls, MAX_STRANGERS, options=_ENROLMENT_OPTIONS)
        self.enrolment = f"{split_address(gates.enrolment)[0]}:{port}"
        tls = certificate.credentials(mutual=False)  # gRPC takes one for one port
        operators, port = self._listen(gates.operators, tls, MAX_OPERATORS, interceptors=self._interceptors)
        self.operators = f"{split_address(gates.operators)[0]}:{port}"
        public = PublicAddresses(_public(names, self.address), _public(names, self.enrolment))

        add_AgentSessionServicer_to_server(AgentSessions(self.fleet, delivery, gatehouse=gates.house), sessions)
        add_CertificateRenewalServicer_to_server(RenewalService(gates.house, public), sessions)
        add_EnrolmentServicer_to_server(EnrolmentService(gates.house, public), strangers)
        self._add_operators(operators, delivery)
        identity = IdentityService(gates.house, public.enrolment, lambda: self.fleet.now().wall_ms)
        add_FleetIdentityServicer_to_server(identity, operators)

    def _add_operators(self, server: aio.Server, delivery: ConfigDelivery | None) -> None:
        """What operators may ask for."""
        if self._config is not None:
            add_FleetConfigurationServicer_to_server(ConfigService(self._config), server)
        add_FleetServicer_to_server(FleetService(self.fleet, delivery), server)

    def _listen(
        self,
        address: str,
        credentials: grpc.ServerCredentials | None,
        calls: int,
        options: Sequence[tuple[str, int]] = _OPTIONS,
        interceptors: Sequence[aio.ServerInterceptor] = (),
    ) -> tuple[aio.Server, int]:
        """A server on a port, which it has from now on, and the port. Raises BindError."""
        server = aio.server(options=options, maximum_concurrent_rpcs=calls, interceptors=interceptors)
        self._servers.append(server)
        try:
            if credentials is None:
                return server, server.add_insecure_port(address)
            return server, server.add_secure_port(address, credentials)
        except RuntimeError:
            raise BindError(
                f"cannot listen on {address}: another process has the port, or the address is not of this machine"
            ) from None

    async def _tick(self) -> None:
        """Looks for silent gateways, four times an interval and at least once a second."""
        while True:
            await asyncio.sleep(min(self.fleet.interval_s / 4, 1.0))
            self.fleet.tick()


def _public(names: Sequence[str], address: str) -> str:
    """An address as gateways are to call it."""
    host, port = split_address(address)
    name = names[0] if names else host
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"
