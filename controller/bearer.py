"""Bearer: puts a token into the metadata of every call of a channel."""

from collections.abc import Callable
from typing import Any

from grpc import aio


class _BearerOne(aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with(client_call_details, self._token), request)


class _BearerMany(aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with(client_call_details, self._token), request)


def bearers(token: str) -> list[aio.ClientInterceptor]:
    """For a channel's interceptors; none without a token."""
    return [_BearerOne(token), _BearerMany(token)] if token else []


def _with(details: aio.ClientCallDetails, token: str) -> aio.ClientCallDetails:
    metadata = aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {token}"))
    return aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
