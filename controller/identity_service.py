"""Identity service: what operators do about join tokens and the gateways' certificates, over gRPC."""

import logging
from collections.abc import Callable
from typing import Final, NoReturn

import grpc

from parkfleet.controller.access import Permission, Reach, Scope
from parkfleet.controller.caller import caller, visible_gateways
from parkfleet.controller.checks import RefusedError, check_name
from parkfleet.controller.config_service import MAX_AUTHOR, MAX_REASON, Context
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.enrolment_service import status_of
from parkfleet.controller.enrolments import Pending
from parkfleet.controller.gatehouse import Gatehouse
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.identity_store import GatewayIdentity
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.token_store import MAX_USES, TTL_S, TokenInfo
from parkfleet.proto import identity_pb2 as pb
from parkfleet.proto.identity_pb2_grpc import FleetIdentityServicer
from parkfleet.protocols.quantity import Duration

log = logging.getLogger(__name__)

#: Gateways of one page: some 150 bytes each.
PAGE: Final = 1000

_ERRORS: Final = (IdentityError, RefusedError, *UNAVAILABLE)


class IdentityService(FleetIdentityServicer):
    """The service. enrolment: HOST:PORT that new tokens name."""

    def __init__(self, gatehouse: Gatehouse, enrolment: str, now_ms: Callable[[], int]) -> None:
        self._gatehouse = gatehouse
        self._enrolment = enrolment
        self._now_ms = now_ms

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """A new token; its text is in this answer and nowhere else."""
        try:
            check_name("park", request.park)
            author = _signed(request.author, request.reason)
            if not 1 <= request.uses <= MAX_USES:
                raise RefusedError(f"a token has 1 to {MAX_USES} uses, not {request.uses}")
            _check_ttl(request.ttl_ms)
            facts = (request.park, request.uses, request.ttl_ms, request.approve, author, request.reason.strip())
            token, info = await self._gatehouse.create_token(self._enrolment, *facts)
        except _ERRORS as error:
            await _refuse(context, error)
        return pb.CreateTokenResponse(text=token.text(), token=self._token(info))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """All tokens, also those that ended."""
        try:
            found = await self._gatehouse.tokens.all()
        except UNAVAILABLE as error:
            await _refuse(context, error)
        tokens = (self._token(info) for info in found if request.park in ("", info.park) and may_enrol(info.park))
        return pb.ListTokensResponse(tokens=tokens)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.JoinToken:
        """A token opens no door any more."""
        try:
            author = _signed(request.author, "")
            info = await self._gatehouse.revoke_token(request.id, request.park, author)
        except _ERRORS as error:
            await _refuse(context, error)
        return self._token(info)

    async def ListPending(self, request: pb.ListPendingRequest, context: Context) -> pb.ListPendingResponse:
        """Boxes that wait."""
        try:
            found = await self._gatehouse.enrolments.pending(request.park)
        except UNAVAILABLE as error:
            await _refuse(context, error)
        pending = [_pending(one) for one in found if may_enrol(one.key.park)]
        return pb.ListPendingResponse(pending=pending[:PAGE])

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideResponse:
        """Yes or no to a box that waits."""
        try:
            author = _signed(request.author, request.reason)
            if request.approve:
                key = await self._gatehouse.approve(request.number, request.park, author)
            else:
                reason = request.reason.strip()
                key = await self._gatehouse.deny_enrolment(request.number, request.park, author, reason)
        except _ERRORS as error:
            await _refuse(context, error)
        return pb.DecideResponse(park=key.park, gateway=key.gateway)

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, context: Context) -> pb.ListIdentitiesResponse:
        """The enrolled gateways, a page at a time."""
        park, _, gateway = request.page_token.partition("/")
        try:
            found = await self._gatehouse.store.page(GatewayKey(park, gateway), PAGE + 1, request.park)
        except UNAVAILABLE as error:
            await _refuse(context, error)
        more = str(found[PAGE - 1].key) if len(found) > PAGE else ""
        seen = visible_gateways([one.key for one in found[:PAGE]])
        identities = (_identity(one) for one in found[:PAGE] if one.key in seen)
        return pb.ListIdentitiesResponse(identities=identities, next_page_token=more)

    async def GetIdentity(self, request: pb.GetIdentityRequest, context: Context) -> pb.GetIdentityResponse:
        """A gateway with its certificates."""
        key = GatewayKey(request.park, request.gateway)
        try:
            if (identity := await self._gatehouse.store.one(key)) is None:
                told = f"no gateway {key} is enrolled: see `parkfleet fleet gateway list`"
                raise IdentityError(Fault.UNKNOWN, told)
            issued = await self._gatehouse.store.issued(key)
        except (IdentityError, *UNAVAILABLE) as error:
            await _refuse(context, error)
        answer = pb.GetIdentityResponse(identity=_identity(identity))
        for row in issued[:PAGE]:
            one = pb.Certificate(
                serial=row.serial,
                key_hash=row.key_hash,
                cause=row.cause,
                issued_ms=row.issued_ms,
                ends_ms=row.not_after_ms,
                revoked_ms=row.revoked_ms,
                revoked_reason=row.revoked_reason,
            )
            answer.certificates.append(one)
        return answer

    async def RevokeGateway(self, request: pb.RevokeGatewayRequest, context: Context) -> pb.Identity:
        """A gateway's box is never let in again."""
        try:
            author = _signed(request.author, request.reason, reason_needed=True)
            key = GatewayKey(request.park, request.gateway)
            identity = await self._gatehouse.revoke(key, author, request.reason.strip())
        except _ERRORS as error:
            await _refuse(context, error)
        return _identity(identity)

    async def ReplaceGateway(self, request: pb.ReplaceGatewayRequest, context: Context) -> pb.Identity:
        """Another box may take a gateway's name."""
        try:
            author = _signed(request.author, request.reason)
            _check_ttl(request.ttl_ms)
            key = GatewayKey(request.park, request.gateway)
            identity = await self._gatehouse.open_for_replacement(key, request.ttl_ms, author)
        except _ERRORS as error:
            await _refuse(context, error)
        return _identity(identity)

    def _token(self, info: TokenInfo) -> pb.JoinToken:
        names = ("id", "park", "uses", "used", "approve", "created_ms", "expires_ms", "author", "reason", "revoked_by")
        facts = {name: getattr(info, name) for name in names}
        return pb.JoinToken(**facts, state=info.state(self._now_ms()))


async def _refuse(context: Context, error: BaseException) -> NoReturn:
    """Ends an operator's call; the gate tells the audit log."""
    code, told = status_of(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        log.error("an operator's call failed: the database: %s", error)
    await context.abort(code, told)
    raise AssertionError("abort() raises")


def may_enrol(park: str) -> bool:
    """Whether the caller has to do with who becomes a gateway of a park."""
    return caller().may(Permission.ENROL, Reach.every((Scope.park(park),)))


def _signed(given: str, reason: str, reason_needed: bool = False) -> str:
    """Who does it; given: the author where nobody signs in. Raises RefusedError."""
    author = (caller().principal.signature or given).strip()
    if not author:
        raise RefusedError("a change has an author")
    if reason_needed and not reason.strip():
        raise RefusedError("this has a reason, which the gateway's installer reads: add --reason WHY")
    if len(author) > MAX_AUTHOR or len(reason) > MAX_REASON:
        raise RefusedError(f"an author has at most {MAX_AUTHOR} characters, a reason {MAX_REASON}")
    return author


def _check_ttl(ttl_ms: int) -> None:
    """Raises RefusedError."""
    low, high = TTL_S
    if not 1000 * low <= ttl_ms <= 1000 * high:
        raise RefusedError(f"it lasts from {Duration(low)} to {Duration(high)}, not {Duration(ttl_ms / 1000)}")


def _identity(found: GatewayIdentity) -> pb.Identity:
    return pb.Identity(
        park=found.key.park,
        gateway=found.key.gateway,
        enrolled_ms=found.enrolled_ms,
        certificate_ends_ms=found.not_after_ms,
        replace_until_ms=found.replace_until_ms,
        revoked_ms=found.revoked_ms,
        revoked_by=found.revoked_by,
        revoked_reason=found.revoked_reason,
    )


def _pending(found: Pending) -> pb.PendingGateway:
    return pb.PendingGateway(
        number=found.number,
        park=found.key.park,
        gateway=found.key.gateway,
        token=found.token,
        key_hash=found.key_hash,
        peer=found.peer,
        requested_ms=found.requested_ms,
    )
