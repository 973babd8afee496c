"""OperatorsClient: people, tokens and the audit log as the command line and scripts ask for them."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from parkfleet.controller.client import FleetClient
from parkfleet.proto import operators_pb2 as pb
from parkfleet.proto.operators_pb2_grpc import AuditStub, OperatorsStub

if TYPE_CHECKING:
    from parkfleet.proto.operators_pb2_grpc import AuditAsyncStub, OperatorsAsyncStub  # only its stub file has them

#: Two passwords may be hashed, behind a few others. Seconds.
ANSWER_S: Final = 20.0


class OperatorsClient:
    """The people of a controller whose FleetClient is open. Every method raises FleetError."""

    def __init__(self, fleet: FleetClient) -> None:
        self._fleet = fleet
        self._operators: OperatorsAsyncStub = OperatorsStub(fleet.channel)
        self._audit: AuditAsyncStub = AuditStub(fleet.channel)

    async def call(self, method: str, request: Any) -> Any:
        """One call with one answer, by the method's name in proto/operators.proto."""
        stub = self._operators if hasattr(self._operators, method) else self._audit
        try:
            return await getattr(stub, method)(request, timeout=ANSWER_S)
        except aio.AioRpcError as error:
            raise self._fleet.told(error) from None

    async def export(self, after: int = 0) -> AsyncIterator[str]:
        """The lines of the audit log after an entry, in order."""
        stream = self._audit.Export(pb.ExportRequest(after=after))
        try:
            async for message in stream:
                for line in message.lines:
                    yield line
        except aio.AioRpcError as error:
            raise self._fleet.told(error) from None
        finally:
            stream.cancel()
