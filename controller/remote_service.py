"""RemoteHandsService: what operators have gateways do, over gRPC."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc import aio

from parkfleet.controller.caller import caller
from parkfleet.controller.desk import Desk, DeskError, checked
from parkfleet.controller.registry import GatewayKey
from parkfleet.proto.remote_pb2 import RemoteCall, RemoteOutput
from parkfleet.proto.remote_pb2_grpc import RemoteHandsServicer

Context: TypeAlias = aio.ServicerContext[Any, Any]
Output: TypeAlias = AsyncIterator[RemoteOutput]


class RemoteHandsService(RemoteHandsServicer):
    """The service of deeds: each a call of its own, so that the audit log names it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def Logs(self, request: RemoteCall, context: Context) -> Output:
        """The agent's journal."""
        return self._done("logs", request, context)

    def Scan(self, request: RemoteCall, context: Context) -> Output:
        """Who answers on a line."""
        return self._done("scan", request, context)

    def Read(self, request: RemoteCall, context: Context) -> Output:
        """A meter, now."""
        return self._done("read", request, context)

    def Replay(self, request: RemoteCall, context: Context) -> Output:
        """Acknowledged batches once more."""
        return self._done("replay", request, context)

    def Restart(self, request: RemoteCall, context: Context) -> Output:
        """The agent, anew."""
        return self._done("restart", request, context)

    def Capture(self, request: RemoteCall, context: Context) -> Output:
        """What goes over a line."""
        return self._done("capture", request, context)

    async def _done(self, kind: str, request: RemoteCall, context: Context) -> Output:
        if wrong := checked(request, kind):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        key = GatewayKey(request.park, request.gateway)
        try:
            async for data in self._desk.do(key, request, caller().principal.user):
                yield RemoteOutput(data=data)
        except DeskError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
