"""Enrolment service: what a box without a valid certificate may ask, and how a gateway renews its own, over gRPC."""

import logging
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from grpc import aio

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.authority import RequestError, requested_key
from parkfleet.controller.checks import RefusedError, check_name
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.deny_list import RevokedError
from parkfleet.controller.enrolments import Application, Outcome
from parkfleet.controller.gatehouse import Credential, Gatehouse
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.listeners import PublicAddresses
from parkfleet.controller.rate_limit import Rate, RateLimit, network_of
from parkfleet.proto import enrolment_pb2 as pb
from parkfleet.proto.enrolment_pb2_grpc import CertificateRenewalServicer, EnrolmentServicer
from parkfleet.proto.errors import DATABASE_AWAY
from parkfleet.protocols.join_token import SECRET_BYTES, is_token_id

Context: TypeAlias = aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

#: A park's boxes behind one address, all switched on at once; then one each two seconds. An enrolment is three calls.
PEER_RATE: Final = Rate(90, 1.5)
#: A signature and a commit are some 5 ms: a third of a core at most goes to strangers.
TOTAL_RATE: Final = Rate(300, 60.0)
#: A renewal is due once in two thirds of a certificate's life; a gateway may ask more often: so many at once, then so
#: many in a life, but not less than one a minute.
RENEWALS: Final = (5, 20)
#: How often a box that waits for approval may ask. ms.
ASK_AGAIN_MS: Final = 5000
#: P-256 in DER. Bytes.
MAX_SIGNATURE: Final = 80

STATUS: Final = {
    Fault.UNPROVEN: grpc.StatusCode.UNAUTHENTICATED,
    Fault.REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    Fault.TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Fault.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Fault.WRONG: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class EnrolmentService(EnrolmentServicer):
    """The service of those who have proven nothing yet."""

    def __init__(self, gatehouse: Gatehouse, addresses: PublicAddresses, limit: RateLimit | None = None) -> None:
        self._gatehouse = gatehouse
        self._addresses = addresses
        self._limit = limit or RateLimit(PEER_RATE, TOTAL_RATE)

    async def GetAuthority(self, request: pb.GetAuthorityRequest, context: Context) -> pb.Authority:
        """The authority's certificate."""
        await self._admit(context)
        return pb.Authority(certificate=self._gatehouse.authority.pem)

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        """A certificate for a token."""
        await self._admit(context)
        try:
            outcome = await self._gatehouse.apply(application_of(request, context.peer()))
        except (IdentityError, RequestError, RefusedError, *UNAVAILABLE) as error:
            via = f"join token {request.token}" if is_token_id(request.token) else ""
            await refuse(self._gatehouse, context, error, "Enrolment/Enroll", via)
        if outcome.new:
            await self._gatehouse.tell(_enrolled(outcome, request.token), context.peer())
        answer = pb.EnrollResponse(park=outcome.key.park, gateway=outcome.key.gateway)
        if outcome.certificate is None:
            answer.waiting.CopyFrom(pb.Waiting(ask_again_ms=ASK_AGAIN_MS))
        else:
            answer.certificate.CopyFrom(certificate_message(self._gatehouse, outcome.certificate, self._addresses))
        return answer

    async def GetChallenge(self, request: pb.GetChallengeRequest, context: Context) -> pb.Challenge:
        """What Reclaim wants signed."""
        await self._admit(context)
        return pb.Challenge(nonce=self._gatehouse.challenge())

    async def Reclaim(self, request: pb.ReclaimRequest, context: Context) -> pb.GatewayCertificate:
        """A new certificate for the key of an old one."""
        await self._admit(context)
        try:
            if len(request.signature) > MAX_SIGNATURE:
                raise IdentityError(Fault.UNPROVEN, "the proof is too long")
            pem = await self._gatehouse.reclaim(request.certificate, request.nonce, request.signature)
        except (IdentityError, *UNAVAILABLE) as error:
            await refuse(self._gatehouse, context, error, "Enrolment/Reclaim", "certificate")
        return certificate_message(self._gatehouse, pem, self._addresses)

    async def _admit(self, context: Context) -> None:
        if wait_s := self._limit.take(network_of(context.peer())):
            told = f"too many enrolments at once: try again in {max(1, round(wait_s))} s"
            await self._gatehouse.tell(AuditFact("Enrolment", AuditResult.REFUSED, detail=told), context.peer())
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, told)


class RenewalService(CertificateRenewalServicer):
    """The service of those who have a valid certificate."""

    def __init__(self, gatehouse: Gatehouse, addresses: PublicAddresses) -> None:
        self._gatehouse = gatehouse
        self._addresses = addresses
        # Not by address: behind one there may be a hundred gateways.
        burst, in_a_life = RENEWALS
        self._limit = RateLimit(Rate(burst, max(1 / 60, in_a_life / gatehouse.life_s)), Rate(1000, 100.0))

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.GatewayCertificate:
        """A further certificate, of the same key or a new one."""
        try:
            credential = shown_credential(self._gatehouse, context)
            if wait_s := self._limit.take(str(credential.key)):
                raise IdentityError(Fault.BUSY, f"{credential.key} asks too often: try again in {round(wait_s)} s")
            key = requested_key(request.request) if request.request else None
            pem = await self._gatehouse.renew(credential, key)
        except (IdentityError, RequestError, RevokedError, *UNAVAILABLE) as error:
            await refuse(self._gatehouse, context, error, "CertificateRenewal/Renew", "certificate")
        return certificate_message(self._gatehouse, pem, self._addresses)


def shown_credential(gatehouse: Gatehouse, context: Context) -> Credential:
    """Who is at the other end, by the certificate it showed in TLS. Raises IdentityError, RevokedError."""
    shown = list(context.auth_context().get("x509_pem_cert", ()))
    if len(shown) != 1:
        raise IdentityError(Fault.UNPROVEN, "no certificate was shown")
    credential = gatehouse.credential(shown[0])
    gatehouse.deny.check(credential.serial)
    return credential


def certificate_message(gatehouse: Gatehouse, pem: str, addresses: PublicAddresses) -> pb.GatewayCertificate:
    """What a gateway is given."""
    return pb.GatewayCertificate(
        certificate=pem.encode(),
        authority=gatehouse.authority.pem,
        controller=addresses.sessions,
        enrolment=addresses.enrolment,
    )


async def refuse(
    house: Gatehouse, context: Context, error: BaseException, action: str, via: str = "certificate"
) -> NoReturn:
    """Ends the call of a box or gateway with the sentence of an error, which is told. via: what it showed."""
    code, told = status_of(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        log.error("%s of %s failed: the database: %s", action, context.peer(), error)
    else:
        await house.tell(AuditFact(action, AuditResult.REFUSED, via=via, detail=told), context.peer())
    await context.abort(code, told)
    raise AssertionError("abort() raises")


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """What a call ends with that failed so."""
    match error:
        case IdentityError():
            return STATUS[error.fault], str(error)
        case RevokedError():
            return grpc.StatusCode.PERMISSION_DENIED, str(error)
        case RequestError() | RefusedError():
            return grpc.StatusCode.INVALID_ARGUMENT, str(error)
        case _:
            return grpc.StatusCode.UNAVAILABLE, DATABASE_AWAY


def _enrolled(outcome: Outcome, token: str) -> AuditFact:
    detail = "another box has its name now" if outcome.replaced else "it has a certificate"
    return AuditFact(
        "Enrolment/Enroll",
        AuditResult.DONE,
        via=f"join token {token}",
        target=f"gateway {outcome.key}",
        scope=f"park/{outcome.key.park}",
        detail="it waits for an operator" if outcome.certificate is None else detail,
    )


def application_of(request: pb.EnrollRequest, peer: str) -> Application:
    """Raises IdentityError, RefusedError for what makes no sense."""
    if not is_token_id(request.token) or len(request.secret) != SECRET_BYTES:
        raise IdentityError(Fault.UNPROVEN, "this is no join token: copy what `parkfleet fleet token create` printed")
    check_name("gateway", request.gateway)
    if request.park:
        check_name("park", request.park)
    return Application(request.token, request.secret, request.request, request.gateway, request.park, peer)
