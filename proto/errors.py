"""Errors: what gRPC says of a failed call, in the words of its last cause."""

from enum import Enum
from typing import Final

from grpc import aio

from parkfleet.proto import limits


class TlsFault(Enum):
    """Why a TLS connection does not come about, as far as gRPC's client tells."""

    DATES = "dates"  # the server's certificate does not hold now, by our clock
    AUTHORITY = "authority"  # it is of another authority than ours
    PURPOSE = "purpose"  # it is no server's
    NAME = "name"  # it is of a server that is called otherwise
    CLOSED = "closed"  # the server hung up: it may not have liked our certificate, or have none of its own


_SIGNS: Final = (
    ("certificate has expired", TlsFault.DATES),
    ("certificate is not yet valid", TlsFault.DATES),
    ("unsupported certificate purpose", TlsFault.PURPOSE),
    ("Hostname Verification Check failed", TlsFault.NAME),
    ("CERTIFICATE_VERIFY_FAILED", TlsFault.AUTHORITY),
    ("Socket closed", TlsFault.CLOSED),
    ("Connection reset by peer", TlsFault.CLOSED),
    ("WRONG_VERSION_NUMBER", TlsFault.CLOSED),
)

#: What a controller says, as UNAVAILABLE, when it is there and its database is not.
DATABASE_AWAY: Final = "the controller's database is away: try again"


def cause(error: aio.AioRpcError) -> str:
    """The last cause, without gRPC's nested prefixes: "Connection refused"; the status where it gives no other."""
    details = (error.details() or "").rsplit("last error: ", 1)[-1].rsplit("to remote host: ", 1)[-1]
    return (details or error.code().name)[: limits.MAX_SENTENCE]


def tls_fault(error: aio.AioRpcError) -> TlsFault | None:
    """What of TLS went wrong before the call was heard; None when it was something else."""
    details = error.details() or ""
    if "failed to connect" not in details:
        return None
    return next((fault for sign, fault in _SIGNS if sign in details), None)
