"""Codecs: which one an envelope names, compiled where it can be, in pure Python where not.

    1  delta     columns of differences (delta.py)
    2  key       adaptive range coder, each batch alone (chain/)
    3  chained   the same, continuing the batch before

PARKFLEET_PURE=1 in the environment takes the pure ones also where the compiled ones are there.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Final, Protocol

from parkfleet.protocols.payload import chain
from parkfleet.protocols.payload.errors import ChainError, PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows

DELTA: Final = 1
#: The codec of a batch that stands alone, as an agent of this version writes it.
CODEC: Final = chain.KEY


def encode(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """The body of a batch that stands alone, in codec CODEC. rows: by entry ascending, each with at least one row."""
    return chain.begin_chain(schema).encode(rows, last=True)


def decode(codec: int, schema: Schema, body: bytes) -> list[Rows]:
    """The rows of a body that stands alone. Raises PayloadError; ChainError for one that does not (see Decoder)."""
    if codec == DELTA:
        return _delta().decode(schema, body)
    if codec == chain.KEY:
        return chain.begin_chain(schema).decode(body, last=True)
    if codec == chain.CHAINED:
        raise ChainError("a chained batch needs the ones before it")
    raise PayloadError(f"codec {codec}: this decoder knows 1 to 3")


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
