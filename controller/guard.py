"""Guard: the gate as gRPC passes it: an interceptor before every service but the gateways' own."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from parkfleet.controller.caller import DeniedError, Proof, enter
from parkfleet.controller.demands import AGENT_SERVICES
from parkfleet.controller.gate import AwayError, Deed, Gatekeeper, UnknownCallerError
from parkfleet.proto.errors import DATABASE_AWAY

_REFUSED: Final = (DeniedError, UnknownCallerError, AwayError)

Context: TypeAlias = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

#: Who has lost their rights while a stream runs gets nothing more after so long. Seconds.
RECHECK_S: Final = 5.0
#: Longest token that is looked at. Characters.
MAX_TOKEN: Final = 200


class Guard(aio.ServerInterceptor):
    """Lets a server's calls through a gate."""

    def __init__(self, gate: Gatekeeper, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = gate
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call, behind the gate."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method).lstrip("/")
        if handler is None or method.partition("/")[0] in AGENT_SERVICES:
            return handler  # None: the server answers that there is no such method
        parse, pack = handler.request_deserializer, handler.response_serializer
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                one = self._one(method, handler.unary_unary, parse)
                return grpc.unary_unary_rpc_method_handler(one, None, pack)
            case False, True:
                many = self._many(method, handler.unary_stream, parse)
                return grpc.unary_stream_rpc_method_handler(many, None, pack)
            case True, True:
                many = self._many(method, handler.stream_stream, None)
                return grpc.stream_stream_rpc_method_handler(many, parse, pack)
        return None  # no service has a method of that shape

    def _one(self, method: str, inner: Any, parse: Any) -> Any:
        """A call with one answer."""

        async def guarded(body: bytes, context: Context) -> Any:
            request = await _parsed(parse, body, context)
            deed = await self._admitted(method, request, context)
            try:
                async with self._gate.doing(deed, lambda error: _told(error, context)):
                    deed.answer = await inner(request, context)
            except _REFUSED as error:
                await _refuse(context, error)
            return deed.answer

        return guarded

    def _many(self, method: str, inner: Any, parse: Any) -> Any:
        """A call with a stream of answers; of requests too, where there is no parse: the table sees none of them."""

        async def guarded(body: Any, context: Context) -> AsyncIterator[Any]:
            request = body if parse is None else await _parsed(parse, body, context)
            deed = await self._admitted(method, None if parse is None else request, context)
            checked = self._clock()
            try:
                async with (
                    self._gate.doing(deed, lambda error: _told(error, context)),
                    aclosing(inner(request, context)) as answers,
                ):
                    async for answer in answers:
                        if self._clock() - checked >= RECHECK_S:
                            await self._gate.again(deed, _proof(context))
                            checked = self._clock()
                        deed.answer = answer
                        yield answer
            except _REFUSED as error:
                await _refuse(context, error)

        return guarded

    async def _admitted(self, method: str, request: Any, context: Context) -> Deed:
        try:
            deed = await self._gate.admit(method, request, _proof(context), peer_address(context.peer()))
        except _REFUSED as error:
            await _refuse(context, error)
        enter(deed.caller)
        return deed


class Careful(aio.ServerInterceptor):
    """For callers that pass no gate, with one question and one answer: what is no message is refused without a log."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.response_streaming:
            return None
        inner: Any = handler.unary_unary
        parse = handler.request_deserializer

        async def careful(body: bytes, context: Context) -> Any:
            return await inner(await _parsed(parse, body, context), context)

        return grpc.unary_unary_rpc_method_handler(careful, None, handler.response_serializer)


async def _parsed(parse: Callable[[bytes], Any] | None, body: bytes, context: Context) -> Any:
    """A request; parsed by us, for gRPC writes a page of log for each that is none, whoever sent it."""
    try:
        request = body if parse is None else parse(body)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a message that is not of this protocol")
        raise AssertionError("abort() raises") from None
    if isinstance(request, Message) and (told := _odd(request)):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, told)
    return request


def _odd(message: Message) -> str:
    """What of a request no database could hold; empty when it could."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.type == field.TYPE_STRING and any("\0" in text for text in values):
            return f"{field.name}: a text has no character of number 0"
        if field.type == field.TYPE_UINT64 and any(number >= 2**63 for number in values):
            return f"{field.name}: expected a number below 2^63"
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in values:
                if told := _odd(inner):
                    return told
    return ""


def peer_address(peer: str) -> str:
    """The address in what gRPC calls a peer: ipv4:10.0.0.5:4711, ipv6:%5B::1%5D:4711, unix:…; without the port."""
    kind, _, rest = unquote(peer).partition(":")
    if kind in ("ipv4", "ipv6"):
        return rest.rpartition(":")[0].strip("[]")[:64]
    return kind[:64]


def _proof(context: Context) -> Proof:
    """What the caller shows: a token in the metadata, a certificate in TLS."""
    shown = list((context.auth_context() or {}).get("x509_pem_cert", ()))
    return Proof(_token(context), shown[0] if len(shown) == 1 else b"")


def _token(context: Context) -> str:
    """The token in `authorization: Bearer TOKEN`; "" when there is none, or it is not written so."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value[: MAX_TOKEN + 8].partition(" ")
            return token.strip() if scheme.lower() == "bearer" else "-"
    return ""


def _told(error: BaseException, context: Context) -> str:
    """What went wrong, in words; of a refusal by the service, its own."""
    if isinstance(error, aio.AbortError):
        return context.details() or "refused"
    return f"{type(error).__name__}: the controller's log says more" if isinstance(error, Exception) else "broken off"


async def _refuse(context: Context, error: Exception) -> NoReturn:
    match error:
        case AwayError():
            await context.abort(grpc.StatusCode.UNAVAILABLE, DATABASE_AWAY)
        case UnknownCallerError():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
    raise AssertionError("abort() raises")
