"""Errors: what gRPC says of a failed call, in the words of its last cause."""

from grpc import aio

from parkfleet.proto import limits


def cause(error: aio.AioRpcError) -> str:
    """The last cause, without gRPC's nested prefixes: "Connection refused"; the status where it gives no other."""
    details = (error.details() or "").rsplit("last error: ", 1)[-1].rsplit("to remote host: ", 1)[-1]
    return (details or error.code().name)[: limits.MAX_SENTENCE]
