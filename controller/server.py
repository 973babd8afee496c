"""ControllerServer: the controller's whole life: binds, serves agents and operators, ends politely."""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from grpc import aio

from parkfleet.controller.caller import Nowhere
from parkfleet.controller.fleet import MAX_WATCHERS, FleetState, read_clock
from parkfleet.controller.fleet_service import FleetService
from parkfleet.controller.gate import Gatekeeper, OpenGate
from parkfleet.controller.guard import Guard
from parkfleet.controller.registry import MAX_GATEWAYS, Moment
from parkfleet.controller.sessions import AgentSessions
from parkfleet.proto import limits
from parkfleet.proto.config_pb2_grpc import add_FleetConfigurationServicer_to_server
from parkfleet.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from parkfleet.proto.session_pb2_grpc import add_AgentSessionServicer_to_server

if TYPE_CHECKING:  # with the controller's own packages only
    from parkfleet.controller.config_delivery import ConfigDelivery
    from parkfleet.controller.operators import Operators
    from parkfleet.controller.replica import Replica
    from parkfleet.controller.storage import Storage

#: After the goodbyes: for calls that are being answered. Seconds.
STOP_GRACE_S: Final = 2.0

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


class BindError(Exception):
    """The address cannot be listened on; the message says why and what to do."""


class ControllerServer:
    """A controller that serves while its block runs.

    address is host:port, port 0 for any free one; heartbeat_interval in seconds; without storage it remembers nothing,
    and manages no configuration; without operators it asks nobody who they are. Entering raises BindError.
    """

    def __init__(
        self,
        address: str,
        heartbeat_interval: float = 10.0,
        clock: Callable[[], Moment] = read_clock,
        storage: "Storage | None" = None,
        operators: "Operators | None" = None,
    ) -> None:
        low, high = limits.HEARTBEAT_S
        if not low <= heartbeat_interval <= high:
            raise ValueError(f"the heartbeat interval must be from {low:g} s to {high:g} s")
        self.host, _ = split_address(address)
        self.port = 0
        self.fleet = FleetState(heartbeat_interval, clock, storage.bus.name if storage else "")
        self._storage = storage
        self._operators = operators
        self._asked = address
        self._server: aio.Server | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._replica: Replica | None = None

    @property
    def address(self) -> str:
        """host:port with the real port."""
        return f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = aio.server(
            options=_OPTIONS, maximum_concurrent_rpcs=MAX_GATEWAYS + MAX_WATCHERS, interceptors=[Guard(self._gate())]
        )
        delivery = await self._remember(self._storage, self._server) if self._storage else None
        if self._operators is not None:
            add_operators(self._operators, self._server)
        add_AgentSessionServicer_to_server(AgentSessions(self.fleet, delivery), self._server)
        add_FleetServicer_to_server(FleetService(self.fleet, delivery), self._server)
        try:
            self.port = self._server.add_insecure_port(self._asked)
        except RuntimeError:
            raise BindError(
                f"cannot listen on {self._asked}: another process has the port, or the address is not of this machine"
            ) from None
        await self._server.start()
        await self._tasks.__aenter__()
        self._run(self._tick(), "controller tick")
        if self._storage is not None and self._replica is not None and delivery is not None:
            self._run(self._storage.bus.run(), "bus")
            self._run(self._replica.run(), "replica")
            self._run(delivery.run(), "configuration delivery")
        if self._operators is not None:
            self._run(self._operators.run(), "refused attempts")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.fleet.end_all("the controller is stopping")
        await self._server.stop(STOP_GRACE_S)
        for task in self._running:
            task.cancel()
        # A cancellation may be the group's own, after a failed task: it must see it. Other errors go on unwrapped.
        if kind is not asyncio.CancelledError:
            kind = error = traceback = None
        try:
            await self._tasks.__aexit__(kind, error, traceback)
        finally:
            if self._replica is not None:
                await self._replica.close()
            if self._operators is not None:
                await self._operators.close()

    async def _remember(self, storage: "Storage", server: aio.Server) -> "ConfigDelivery":
        """Takes what is stored of the fleet, and serves its configuration."""
        from parkfleet.controller.config_delivery import ConfigDelivery
        from parkfleet.controller.config_service import ConfigService
        from parkfleet.controller.replica import Replica

        self._replica = Replica(self.fleet, storage)
        await self._replica.load()
        add_FleetConfigurationServicer_to_server(ConfigService(storage.config), server)
        return ConfigDelivery(storage.config, lambda: self.fleet.now().wall_ms, self._replica.recorder.reported)

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        self._running.append(self._tasks.create_task(work, name=name))

    def _gate(self) -> Gatekeeper:
        """Before operators' calls: a controller without people asks nobody who they are."""
        if self._operators is not None:
            return self._operators.gate
        if self._storage is None:
            return OpenGate(Nowhere())
        from parkfleet.controller.config_access import ConfigBelonging

        return OpenGate(ConfigBelonging(self._storage.config))

    async def _tick(self) -> None:
        """Looks for silent gateways, four times an interval and at least once a second."""
        while True:
            await asyncio.sleep(min(self.fleet.interval_s / 4, 1.0))
            self.fleet.tick()


def add_operators(operators: "Operators", server: aio.Server) -> None:
    """The services of people, tokens and audit."""
    from parkfleet.controller.audit_service import AuditService
    from parkfleet.controller.operators_service import OperatorsService
    from parkfleet.proto.operators_pb2_grpc import add_AuditServicer_to_server, add_OperatorsServicer_to_server

    add_OperatorsServicer_to_server(OperatorsService(operators), server)
    add_AuditServicer_to_server(AuditService(operators.audit), server)


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of host:port; an IPv6 host keeps its brackets. Raises ValueError with a sentence for the user."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:7443, got {address!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address stands in brackets: [::1]:7443, got {address!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
