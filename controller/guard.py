"""Guard: the gate as gRPC passes it: an interceptor before every service but the gateways' own."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import aio

from parkfleet.controller.caller import DeniedError, enter
from parkfleet.controller.demands import AGENT_SERVICES
from parkfleet.controller.gate import Deed, Gatekeeper, UnknownCallerError

Context: TypeAlias = aio.ServicerContext[Any, Any]

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
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a call, behind the gate."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method).lstrip("/")
        if handler is None or method.partition("/")[0] in AGENT_SERVICES:
            return handler  # None: the server answers that there is no such method
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming:
            # Nothing is known of the request before it is read: the table sees None.
            inner: Any = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if handler.response_streaming:
            make: Any = grpc.stream_stream_rpc_method_handler if handler.request_streaming else None
            make = make or grpc.unary_stream_rpc_method_handler
            return make(self._many(method, inner, handler.request_streaming), **coders)  # type: ignore[no-any-return]
        make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else None
        make = make or grpc.unary_unary_rpc_method_handler
        return make(self._one(method, inner, handler.request_streaming), **coders)  # type: ignore[no-any-return]

    def _one(self, method: str, inner: Any, streaming: bool) -> Any:
        """A call with one answer."""

        async def guarded(request: Any, context: Context) -> Any:
            deed = await self._admitted(method, None if streaming else request, context)
            try:
                async with self._gate.doing(deed, lambda error: _told(error, context)):
                    deed.answer = await inner(request, context)
            except DeniedError as error:
                await _refuse(context, error)
            return deed.answer

        return guarded

    def _many(self, method: str, inner: Any, streaming: bool) -> Any:
        """A call with a stream of answers."""

        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            deed = await self._admitted(method, None if streaming else request, context)
            checked = self._clock()
            try:
                async with self._gate.doing(deed, lambda error: _told(error, context)):
                    async for answer in inner(request, context):
                        if self._clock() - checked >= RECHECK_S:
                            await self._gate.again(deed, _token(context))
                            checked = self._clock()
                        deed.answer = answer
                        yield answer
            except (DeniedError, UnknownCallerError) as error:
                await _refuse(context, error)

        return guarded

    async def _admitted(self, method: str, request: Any, context: Context) -> Deed:
        try:
            deed = await self._gate.admit(method, request, _token(context), peer_address(context.peer()))
        except (DeniedError, UnknownCallerError) as error:
            await _refuse(context, error)
        enter(deed.caller)
        return deed


def peer_address(peer: str) -> str:
    """The address in what gRPC calls a peer: ipv4:10.0.0.5:4711, ipv6:%5B::1%5D:4711, unix:…; without the port."""
    kind, _, rest = unquote(peer).partition(":")
    if kind in ("ipv4", "ipv6"):
        return rest.rpartition(":")[0].strip("[]")[:64]
    return kind[:64]


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
        return context.details() or "refused"  # type: ignore[attr-defined, no-any-return]
    return f"{type(error).__name__}: the controller's log says more" if isinstance(error, Exception) else "broken off"


async def _refuse(context: Context, error: Exception) -> NoReturn:
    unknown = isinstance(error, UnknownCallerError)
    await context.abort(grpc.StatusCode.UNAUTHENTICATED if unknown else grpc.StatusCode.PERMISSION_DENIED, str(error))
    raise AssertionError("abort() raises")
