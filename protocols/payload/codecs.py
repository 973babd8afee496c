"""Codecs: which one an envelope names, compiled where it can be, in pure Python where not.

PARKFLEET_PURE=1 in the environment takes the pure one also where the compiled one is there.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Final, Protocol

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows

#: The codec an agent of this version writes.
CODEC: Final = 1


def encode(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """The body of a batch, in codec CODEC. rows: by entry ascending, each with at least one row."""
    return _delta().encode(schema, rows)


def decode(codec: int, schema: Schema, body: bytes) -> list[Rows]:
    """The rows of a body. Raises PayloadError."""
    if codec != CODEC:
        raise PayloadError(f"codec {codec}: this decoder knows {CODEC}")
    return _delta().decode(schema, body)


class _Codec(Protocol):
    def encode(self, schema: Schema, rows: Sequence[Rows]) -> bytes: ...
    def decode(self, schema: Schema, body: bytes) -> list[Rows]: ...


@cache
def _delta() -> _Codec:
    from parkfleet.protocols.payload import delta

    if os.environ.get("PARKFLEET_PURE") == "1":
        return delta
    try:
        from parkfleet.protocols.payload import delta_native
    except ImportError:  # not compiled: a consumer needs no compiler
        return delta
    return delta_native
