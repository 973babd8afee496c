"""AuditService: the audit log over gRPC: to read, and whole, so that whoever gets it checks the chain himself."""

import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from grpc import aio

from parkfleet.controller.access import FLEET, Permission, Reach, Scope
from parkfleet.controller.audit_log import MAX_PAGE, AuditLog, AuditQuery
from parkfleet.controller.caller import Caller, caller
from parkfleet.proto import operators_pb2 as pb
from parkfleet.proto.operators_pb2_grpc import AuditServicer

Context: TypeAlias = aio.ServicerContext[Any, Any]


class AuditService(AuditServicer):
    """The service of the audit log."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> pb.ListEntriesResponse:
        """The newest that match, of the scopes that the caller is admin of."""
        scopes = _scopes(caller())
        if request.park:
            park = str(Scope.park(request.park))
            scopes = [park] if scopes is None or park in scopes else []
        query = AuditQuery(
            since_ms=request.since_ms,
            actor=request.user,
            scopes=scopes,
            action=request.action,
            result=request.result,
            before=request.before,
            limit=min(request.limit or MAX_PAGE, MAX_PAGE),
        )
        return pb.ListEntriesResponse(entries=[pb.AuditEntry(**record) for record in await self._log.find(query)])

    async def Export(self, request: pb.ExportRequest, context: Context) -> AsyncIterator[pb.ExportedEntries]:
        """Every entry after a number, up to the end as it was when the export began."""
        after, end = request.after, (await self._log.head()).number
        while after < end and (records := await self._log.page(after)):
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            yield pb.ExportedEntries(lines=lines)
            after = records[-1]["number"]

    async def GetHead(self, request: pb.GetHeadRequest, context: Context) -> pb.AuditHead:
        """The end of the log."""
        head = await self._log.head()
        return pb.AuditHead(number=head.number, hash=head.hash)


def _scopes(who: Caller) -> list[str] | None:
    """The scopes whose entries somebody may read; None: all."""
    if who.may(Permission.AUDIT, Reach.every([FLEET])):
        return None
    named = {grant.scope for grant in (*who.principal.grants, *(who.principal.cap or ()))}
    parks = {park for scope in named if scope.kind == "region" for park in who.belonging.parks_of_region(scope.name)}
    candidates = named | set(map(Scope.park, parks))
    return [str(scope) for scope in candidates if who.may(Permission.AUDIT, Reach.every([scope]))]
