"""Live schema: what fresh batches are coded with: at first as it is, then with a primer, then with a newer one."""

import logging
from collections.abc import Sequence
from typing import Final

from parkfleet.agent.primer import PrimerBuilder
from parkfleet.protocols.payload.chain.coding import begin_chain
from parkfleet.protocols.payload.chain.prior import built_in
from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.schema import MAX_BYTES, Schema
from parkfleet.protocols.payload.series import Rows

log = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
#: How long is gathered for the first primer, the second, and every further one: each a schema that consumers fetch.
_GATHERED_MS: Final = (_HOUR_MS, 24 * _HOUR_MS, 7 * 24 * _HOUR_MS)


class LiveSchema:
    """Of one plan. The schema changes only in took(): the batches before it have the one before."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._packed = schema.pack()
        self._builder: PrimerBuilder | None = None

    @property
    def packed(self) -> bytes:
        """The schema's bytes, made once."""
        return self._packed

    def resume(self, packed: bytes) -> None:
        """Goes on with the schema of the newest stored batch, if it is this one with a primer."""
        try:
            found = Schema.unpack(packed)
        except PayloadError:
            return  # none is stored, or a damaged one
        if found.entries == self.schema.entries:
            self._use(found)

    def took(self, rows: Sequence[Rows], most_bytes: int = MAX_BYTES) -> None:
        """A batch was stored. Perhaps the next one has another schema, of not more bytes than that."""
        if not rows:
            return
        ts = min(block.ts[0] for block in rows)
        if self._builder is None or ts < self._builder.first_ts:  # also after the clock went back
            self._builder = PrimerBuilder(self.schema, ts, ts + self._gathered_ms())
        if not self._builder.add(rows):
            return
        primed, self._builder = self._builder.build(most_bytes), None
        if primed:
            log.info("schema %08x has a primer of %d bytes", primed.id, sum(map(len, primed.primer)))
            self._use(primed)

    def _use(self, schema: Schema) -> None:
        self.schema, self._packed = schema, schema.pack()

    def _gathered_ms(self) -> int:
        """The next step's time. Behind a primer that was gathered for a day and more, the last one's."""
        if not self.schema.primer:
            return _GATHERED_MS[0]
        first, last = _span_of(self.schema)
        built_in.cache_clear()  # 2 MB; with a primer nobody needs it for another day or week
        return _GATHERED_MS[1 if last - first < _GATHERED_MS[1] * 3 // 4 else 2]


def _span_of(schema: Schema) -> tuple[int, int]:
    """The first and the last time of a primer, ms UTC."""
    chain, times = begin_chain(Schema(schema.entries)), []
    for body in schema.primer:
        times += [ts for block in chain.decode(body) for ts in (block.ts[0], block.ts[-1])]
        chain.pause()
    return min(times), max(times)
