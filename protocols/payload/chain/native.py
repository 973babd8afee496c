"""Native: one side's memory in codec 2 through native/chain.pyx. Same interface and bytes as pure.py."""

from collections.abc import Sequence
from copy import copy

from parkfleet.native import chain
from parkfleet.protocols.payload.chain.layout import layouts
from parkfleet.protocols.payload.chain.prior import Prior
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import MAX_READINGS, Rows


class Chain:
    """See pure.Chain."""

    def __init__(self, schema: Schema, prior: Prior, most: int = MAX_READINGS, teach: bool = False) -> None:
        columns = [
            (*plain, layout.kinds, layout.quantities)
            for plain, layout in zip(schema.layouts, layouts(schema, prior.quantities), strict=True)
        ]
        self._chain = chain.Chain(schema.set_of, columns, prior.cells, prior.weights, most, teach)

    def copy(self) -> "Chain":
        """See pure.Chain.copy."""
        new = copy(self)
        new._chain = self._chain.copy()
        return new

    def pause(self) -> None:
        """See pure.Chain.pause."""
        self._chain.pause()

    def encode(self, rows: Sequence[Rows], last: bool = False) -> bytes:
        """See pure.Chain.encode."""
        return self._chain.encode([(r.entry, r.ts, r.slots, r.quality, r.texts) for r in rows], last)

    def decode(self, body: bytes, last: bool = False) -> list[Rows]:
        """See pure.Chain.decode."""
        try:
            found = self._chain.decode(body, last)
        except ValueError as error:
            raise PayloadError(str(error)) from None
        return [Rows(*block) for block in found]

    def learned(self) -> tuple[bytes, bytes]:
        """Cells and weights as they are now: for the prior's trainer."""
        return self._chain.learned()
