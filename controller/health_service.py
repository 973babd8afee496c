"""HealthService: gRPC's standard health checking protocol (grpc.health.v1), and reflection beside it."""

from collections.abc import AsyncIterator, Collection
from typing import Any, TypeAlias

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from parkfleet.controller.vitals import Pulse

Context: TypeAlias = aio.ServicerContext[Any, Any]
Status: TypeAlias = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Whether the controller serves; all its services stand and fall together."""

    def __init__(self, pulse: Pulse, services: Collection[str]) -> None:
        self._pulse = pulse
        self._services = {"", *services}

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Status:
        """Whether a service (or the whole, "") serves now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:100]!r}")
        return self._status(request.service)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[Status]:
        """The same, now and whenever it changes."""
        while True:
            changed = self._pulse.changed
            yield self._status(request.service)
            await changed.wait()

    def _status(self, service: str) -> Status:
        if service not in self._services:
            return Status(status=Status.SERVICE_UNKNOWN)
        return Status(status=Status.SERVING if self._pulse.is_serving else Status.NOT_SERVING)


def add_standard_services(pulse: Pulse, server: aio.Server, services: Collection[str]) -> None:
    """Health and reflection of a server that has these services."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(pulse, services), server)
    names = [*services, "grpc.health.v1.Health", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
