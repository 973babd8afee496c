"""OperatorsService: signing in, people and their grants, API tokens, over gRPC."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeAlias, TypeVar

import grpc
from grpc import aio

from parkfleet.controller.access import Grant, Principal, Via
from parkfleet.controller.caller import caller
from parkfleet.controller.credentials import ApiToken
from parkfleet.controller.operator_certificates import OperatorCertificate
from parkfleet.controller.operators import Operators
from parkfleet.controller.passwords import BusyError
from parkfleet.controller.people import PeopleError, User
from parkfleet.controller.sign_in import SignInError
from parkfleet.controller.tries import TooManyTriesError
from parkfleet.proto import operators_pb2 as pb
from parkfleet.proto.operators_pb2_grpc import OperatorsServicer

Context: TypeAlias = aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Answer = TypeVar("Answer")
Method: TypeAlias = Callable[[Any, Request, Context], Awaitable[Answer]]

_STATUS: Final[dict[type[Exception], grpc.StatusCode]] = {
    SignInError: grpc.StatusCode.UNAUTHENTICATED,
    TooManyTriesError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PeopleError: grpc.StatusCode.FAILED_PRECONDITION,
}


def answered(method: Method[Request, Answer]) -> Method[Request, Answer]:
    """What cannot be done is a status with the sentence for the user."""

    @wraps(method)
    async def called(self: Any, request: Request, context: Context) -> Answer:
        try:
            return await method(self, request, context)
        except (SignInError, TooManyTriesError, BusyError, PeopleError, ValueError) as error:
            await context.abort(_STATUS.get(type(error), grpc.StatusCode.INVALID_ARGUMENT), str(error))
            raise AssertionError("abort() raises") from None

    return called


class OperatorsService(OperatorsServicer):
    """The service of people and tokens: requests to management and back."""

    def __init__(self, operators: Operators) -> None:
        self._sign_in = operators.sign_in
        self._management = operators.management
        self._credentials = operators.credentials

    @answered
    async def SignIn(self, request: pb.SignInRequest, context: Context) -> pb.SignInResponse:
        """A session for a name and a password."""
        done = await self._sign_in.sign_in(request.user, request.password, caller().peer)
        person = person_message(done.principal, done.session.expires_ms)
        return pb.SignInResponse(token=done.session.token, person=person)

    @answered
    async def SignOut(self, request: pb.SignOutRequest, context: Context) -> pb.SignOutResponse:
        """Ends the session that the call was made with."""
        if caller().principal.via is not Via.SESSION:
            raise PeopleError("this is no session: an API token is ended with `parkfleet fleet api-token revoke`")
        await self._credentials.close_session(caller().principal.credential)
        return pb.SignOutResponse()

    @answered
    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.Person:
        """Who the call is from, and what they may."""
        principal = caller().principal
        return person_message(principal, await self._credentials.expiry_of(principal))

    @answered
    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        """Whom the caller may manage."""
        return pb.ListUsersResponse(users=map(user_message, await self._management.users(caller())))

    @answered
    async def AddUser(self, request: pb.AddUserRequest, context: Context) -> pb.AddUserResponse:
        """A new user."""
        grants = list(map(Grant.parse, request.grants))
        added = await self._management.add_user(caller(), request.user, request.password, grants)
        return pb.AddUserResponse(user=user_message(added.user), password=added.password)

    @answered
    async def ChangeGrant(self, request: pb.ChangeGrantRequest, context: Context) -> pb.User:
        """A grant given or taken away."""
        grant = Grant.parse(request.grant)
        return user_message(await self._management.change_grant(caller(), request.user, grant, request.revoke))

    @answered
    async def EnableUser(self, request: pb.EnableUserRequest, context: Context) -> pb.User:
        """A user who may sign in, or no longer."""
        return user_message(await self._management.enable(caller(), request.user, request.enabled))

    @answered
    async def SetPassword(self, request: pb.SetPasswordRequest, context: Context) -> pb.SetPasswordResponse:
        """Another password."""
        made = await self._management.set_password(caller(), request.user, request.password, request.current)
        return pb.SetPasswordResponse(password=made)

    @answered
    async def CreateApiToken(self, request: pb.CreateApiTokenRequest, context: Context) -> pb.CreateApiTokenResponse:
        """A token of the caller's."""
        grants = list(map(Grant.parse, request.grants))
        issued = await self._management.create_token(caller(), request.name, grants, request.life_ms / 1000)
        info = await self._credentials.token(issued.id)
        assert info is not None
        return pb.CreateApiTokenResponse(token=issued.token, info=token_message(info))

    @answered
    async def ListApiTokens(self, request: pb.ListApiTokensRequest, context: Context) -> pb.ListApiTokensResponse:
        """The caller's own, or all that they may manage."""
        tokens = await self._management.tokens(caller(), request.all)
        return pb.ListApiTokensResponse(tokens=map(token_message, tokens))

    @answered
    async def RevokeApiToken(self, request: pb.RevokeApiTokenRequest, context: Context) -> pb.ApiToken:
        """A token that holds no more."""
        return token_message(await self._management.revoke_token(caller(), request.token))

    @answered
    async def IssueCertificate(
        self, request: pb.IssueCertificateRequest, context: Context
    ) -> pb.IssueCertificateResponse:
        """A certificate of the caller's."""
        pem, info = await self._management.issue_certificate(caller(), request.request, request.life_ms / 1000)
        return pb.IssueCertificateResponse(certificate=pem, info=certificate_message(info))

    @answered
    async def ListCertificates(
        self, request: pb.ListCertificatesRequest, context: Context
    ) -> pb.ListCertificatesResponse:
        """The caller's own, or all that they may manage."""
        found = await self._management.certificates(caller(), request.all)
        return pb.ListCertificatesResponse(certificates=map(certificate_message, found))

    @answered
    async def RevokeCertificate(self, request: pb.RevokeCertificateRequest, context: Context) -> pb.OperatorCertificate:
        """A certificate that holds no more."""
        return certificate_message(await self._management.revoke_certificate(caller(), request.serial))


def certificate_message(found: OperatorCertificate) -> pb.OperatorCertificate:
    """A certificate, by its number."""
    return pb.OperatorCertificate(
        serial=found.serial,
        user=found.user,
        issued_ms=found.issued_ms,
        expires_ms=found.expires_ms,
        revoked_ms=found.revoked_ms or 0,
    )


def person_message(principal: Principal, expires_ms: int) -> pb.Person:
    """Somebody, as they are told."""
    return pb.Person(
        user=principal.user,
        via=principal.via.value,
        grants=map(str, principal.grants),
        cap=map(str, principal.cap or ()),
        expires_ms=expires_ms,
        label=principal.label,
    )


def user_message(user: User) -> pb.User:
    """A user without the password's hash."""
    return pb.User(name=user.name, enabled=user.enabled, grants=map(str, user.grants), created_ms=user.created_ms)


def token_message(token: ApiToken) -> pb.ApiToken:
    """A token without its secret."""
    return pb.ApiToken(
        id=token.id,
        prefix=token.prefix,
        name=token.name,
        user=token.user,
        grants=map(str, token.grants),
        created_ms=token.created_ms,
        expires_ms=token.expires_ms,
        revoked_ms=token.revoked_ms or 0,
    )
