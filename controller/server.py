"""ControllerServer: the controller's whole life: binds, serves agents and operators, ends politely."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from grpc import aio

from parkfleet.controller.admission import Admission
from parkfleet.controller.caller import Nowhere
from parkfleet.controller.desk import Desk
from parkfleet.controller.fleet import FleetState, read_clock
from parkfleet.controller.fleet_service import FleetService
from parkfleet.controller.gate import Gatekeeper, OpenGate
from parkfleet.controller.guard import Guard
from parkfleet.controller.listeners import Gates, Listeners, guarded_listeners, plain_listeners
from parkfleet.controller.load import Load
from parkfleet.controller.registry import Moment
from parkfleet.controller.remote_service import RemoteHandsService
from parkfleet.controller.sessions import AgentSessions
from parkfleet.controller.vitals import Pulse, Vitals
from parkfleet.proto import (
    config_pb2,
    enrolment_pb2,
    fleet_pb2,
    identity_pb2,
    limits,
    operators_pb2,
    remote_pb2,
    session_pb2,
)
from parkfleet.proto.config_pb2_grpc import add_FleetConfigurationServicer_to_server
from parkfleet.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from parkfleet.proto.remote_pb2_grpc import add_RemoteHandsServicer_to_server
from parkfleet.proto.session_pb2_grpc import add_AgentSessionServicer_to_server
from parkfleet.protocols.address import split_address

if TYPE_CHECKING:  # with the controller's own packages only
    from parkfleet.controller.config_delivery import ConfigDelivery
    from parkfleet.controller.gatehouse import Gatehouse
    from parkfleet.controller.operators import Operators
    from parkfleet.controller.replica import Replica
    from parkfleet.controller.storage import Storage

#: After the goodbyes: for calls that are being answered. Seconds.
STOP_GRACE_S: Final = 2.0


class ControllerServer:
    """A controller that serves while its block runs.

    address is host:port, port 0 for any free one; heartbeat_interval in seconds; without storage it remembers nothing,
    and manages no configuration; without operators it asks nobody who they are; without gates everything stands on one
    plain port. Entering raises BindError.
    """

    def __init__(
        self,
        address: str,
        heartbeat_interval: float = 10.0,
        clock: Callable[[], Moment] = read_clock,
        storage: "Storage | None" = None,
        operators: "Operators | None" = None,
        door: Admission | None = None,
        gates: Gates | None = None,
    ) -> None:
        low, high = limits.HEARTBEAT_S
        if not low <= heartbeat_interval <= high:
            raise ValueError(f"the heartbeat interval must be from {low:g} s to {high:g} s")
        self.fleet = FleetState(heartbeat_interval, clock, storage.bus.name if storage else "")
        self.door = door or Admission()
        self.load = Load(self.door)
        self.desk = Desk()
        self.desk.elsewhere = self.fleet.elsewhere
        self.pulse = Pulse(self)
        self._storage = storage
        self._operators = operators
        self._gates = gates
        self._asked = address
        self._listeners: Listeners | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._replica: Replica | None = None
        self.delivery: ConfigDelivery | None = None

    @property
    def address(self) -> str:
        """host:port of the sessions, with the real port."""
        return self.listeners.sessions.address

    @property
    def port(self) -> int:
        """That of the sessions."""
        return split_address(self.address)[1]

    @property
    def listeners(self) -> Listeners:
        """The ports, while it serves."""
        if self._listeners is None:
            raise RuntimeError("use ControllerServer as a block: async with ControllerServer(address) as server")
        return self._listeners

    @property
    def replica(self) -> str:
        """This controller's name among the replicas; empty without storage."""
        return self._storage.bus.name if self._storage else ""

    def vitals(self) -> Vitals | None:
        """How storing fares; None without storage."""
        if self._storage is None or self._replica is None:
            return None
        is_storing, is_listening = self._replica.recorder.is_storing, self._storage.bus.is_listening
        return Vitals(self._storage.database.commits, is_storing, is_listening, self._replica.others)

    async def __aenter__(self) -> Self:
        guard = [Guard(self._gate())]
        if self._gates is None:
            listeners = plain_listeners(self._asked, guard)
        else:
            listeners = guarded_listeners(self._asked, self._gates, guard, lambda: self.fleet.now().wall_ms / 1000)
        self._listeners = listeners
        operators = listeners.operators.server
        if self._storage is not None:
            self.delivery = await self._remember(self._storage, operators)
            self._add_standard_services(operators)
        if self._operators is not None:
            add_operators(self._operators, operators)
        house = self._gates.house if self._gates else None
        sessions = AgentSessions(self.fleet, self.delivery, door=self.door, desk=self.desk, house=house)
        add_AgentSessionServicer_to_server(sessions, listeners.sessions.server)
        add_FleetServicer_to_server(FleetService(self.fleet, self.delivery), operators)
        add_RemoteHandsServicer_to_server(RemoteHandsService(self.desk), operators)
        if house is not None:
            house.witness = self._operators.witness if self._operators else None
            add_identity(house, listeners, lambda: self.fleet.now().wall_ms)
        await listeners.start()
        await self._tasks.__aenter__()
        self._run(self._tick(), "controller tick")
        self._run(self.load.run(), "load")
        self._run(self.pulse.run(), "pulse")
        if self._storage is not None and self._replica is not None and self.delivery is not None:
            self._run(self._storage.bus.run(), "bus")
            self._run(self._replica.run(), "replica")
            self._run(self.delivery.run(), "configuration delivery")
        if self._operators is not None:
            self._run(self._operators.run(), "refused attempts")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.fleet.end_all("the controller is stopping")
        await self.listeners.stop(STOP_GRACE_S)
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

    def _add_standard_services(self, server: aio.Server) -> None:
        """What probes and tools ask for."""
        from parkfleet.controller.health_service import add_standard_services

        files = [session_pb2, fleet_pb2, config_pb2, remote_pb2, *([operators_pb2] if self._operators else [])]
        if self._gates is not None:
            files += [enrolment_pb2, identity_pb2]
        names = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        add_standard_services(self.pulse, server, names)

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


def add_identity(house: "Gatehouse", listeners: Listeners, now_ms: Callable[[], int]) -> None:
    """The services of enrolment and certificates, each on its port."""
    from parkfleet.controller.enrolment_service import EnrolmentService, RenewalService
    from parkfleet.controller.identity_service import IdentityService
    from parkfleet.proto.enrolment_pb2_grpc import (
        add_CertificateRenewalServicer_to_server,
        add_EnrolmentServicer_to_server,
    )
    from parkfleet.proto.identity_pb2_grpc import add_FleetIdentityServicer_to_server

    public, enrolment = listeners.public, listeners.enrolment
    assert public is not None and enrolment is not None
    add_CertificateRenewalServicer_to_server(RenewalService(house, public), listeners.sessions.server)
    add_EnrolmentServicer_to_server(EnrolmentService(house, public), enrolment.server)
    operators = listeners.operators.server
    add_FleetIdentityServicer_to_server(IdentityService(house, public.enrolment, now_ms), operators)
