"""Live chain: live batches coded as chained ones on their way out; in the buffer each stands alone.

Made for each connection, so that the first batch after a reconnect is a key. What is refused, sent again, joined,
thinned or replayed goes as it is stored, and the next live batch is a key again; so it is when somebody asks for a gap.
"""

from parkfleet.agent.store import StoredBatch
from parkfleet.protocols.payload.chain import KEY, Encoder
from parkfleet.protocols.payload.codecs import decode
from parkfleet.protocols.payload.schema import Schema


class LiveChain:
    """The memory of what one connection has carried."""

    def __init__(self, key_every: int) -> None:
        """key_every: 1: every batch stands alone (nothing to do); n: every n-th one does."""
        self._key_every = key_every
        self._schema_id = 0
        self._encoder: Encoder | None = None
        self._after = (0, 0)  # epoch and seq of the batch that was coded last

    def wants(self, batch: StoredBatch) -> bool:
        """Whether a batch may be chained."""
        return self._key_every > 1 and batch.codec == KEY and batch.count == 1 and batch.level == 0

    def knows(self, schema_id: int) -> bool:
        """Whether `learn` was called for it."""
        return self._encoder is not None and self._schema_id == schema_id

    def learn(self, schema_id: int, packed: bytes) -> None:
        """The schema of the batches to come; the first of them is a key. Raises PayloadError."""
        self._schema_id, self._schema = schema_id, Schema.unpack(packed)
        self._encoder = Encoder(self._schema, self._key_every)

    def coded(self, batch: StoredBatch) -> tuple[int, bytes]:
        """(codec, body) to send. Raises PayloadError for a stored body that is damaged."""
        assert self._encoder is not None
        if self._after != (batch.epoch, batch.seq - 1):
            self._encoder.break_chain()
        rows = decode(batch.codec, self._schema, batch.body)
        made = self._encoder.encode(rows)
        self._after = batch.epoch, batch.seq
        return made

    def broken(self) -> None:
        """Something that was sent has not arrived, here or at a consumer: the next batch is a key."""
        self._after = (0, 0)
