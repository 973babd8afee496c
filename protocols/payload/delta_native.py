"""Delta, compiled: codec 1 through native/series.pyx. Same interface and bytes as delta.py."""

from collections.abc import Sequence

from parkfleet.native import series
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import MAX_READINGS, Rows


def encode(schema: Schema, rows: Sequence[Rows]) -> bytes:
    """See delta.encode."""
    blocks = [(r.entry, schema.set_of[r.entry], r.ts, r.slots, r.quality, r.texts) for r in rows]
    return series.encode(blocks, schema.layouts, MAX_READINGS)


def decode(schema: Schema, body: bytes) -> list[Rows]:
    """See delta.decode."""
    try:
        found = series.decode(body, schema.set_of, schema.layouts, MAX_READINGS)
    except ValueError as error:
        raise PayloadError(str(error)) from None
    return [Rows(*block) for block in found]
