"""Envelope: what stands around a batch's body: a msgpack array of eight, or nine.

[version, codec, schema id, epoch, first seq, count of seqs, flags, body, parts of a joined batch]

A chained batch (codec 3) has the schema of the batch it continues; in the schema's place stands that batch's link,
with which its body here, outside the message, begins: naming what it continues costs no bytes.
"""

from dataclasses import dataclass, replace
from typing import Final

import msgpack

from parkfleet.protocols.payload.errors import PayloadError

VERSION: Final = 1
#: Flag bit: the batch was asked for again by time, it may be old.
REPLAYED: Final = 1
#: Flag bit: there was no room for every reading at the gateway; these are a minute's.
THINNED: Final = 2
#: The codec of chained batches, and the bytes of a link at the beginning of their bodies (chain/coding.py).
CHAINED: Final = 3
LINK_BYTES: Final = 4
#: A broker's usual limits are far below; a decoder's memory is bounded by it.
MAX_BYTES: Final = 16 * 1024 * 1024
#: Batches that one message may stand for, once waiting ones are joined: a year of 5 s batches.
MAX_COUNT: Final = 6_500_000


@dataclass(frozen=True)
class Envelope:
    """A batch, or several joined, as published."""

    codec: int
    schema_id: int  # 32 bits, unsigned; of a chained batch its link
    epoch: int  # 32 bits, not 0
    seq_first: int  # from 1
    seq_count: int  # from 1
    flags: int
    body: bytes
    parts: bytes = b""  # of a joined batch: which rows are of which seq (parts.py)

    @property
    def seq_last(self) -> int:
        return self.seq_first + self.seq_count - 1

    @property
    def replayed(self) -> bool:
        return bool(self.flags & REPLAYED)

    def pack(self) -> bytes:
        """The message's payload."""
        schema_id, body = self.schema_id, self.body
        if self.codec == CHAINED:
            schema_id, body = int.from_bytes(body[:LINK_BYTES], "big"), body[LINK_BYTES:]
        fields = [self.codec, schema_id, self.epoch, self.seq_first, self.seq_count, self.flags, body]
        return bytes(msgpack.packb([VERSION, *fields, self.parts] if self.parts else [VERSION, *fields]))

    @classmethod
    def unpack(cls, data: bytes) -> "Envelope":
        """Reads a payload. Raises PayloadError for anything that is no envelope of a version we know."""
        if len(data) > MAX_BYTES:
            raise PayloadError(f"batch of {len(data)} bytes: at most {MAX_BYTES}")
        try:
            fields = msgpack.unpackb(data, max_array_len=9, max_map_len=0, max_ext_len=0, max_str_len=0)
        except Exception as error:  # msgpack raises many kinds for hostile bytes, all of them mean this
            raise PayloadError(f"not an envelope: {error}") from None
        if not isinstance(fields, list) or not fields:
            raise PayloadError("not an envelope: no array")
        if type(fields[0]) is not int or fields[0] != VERSION:
            raise PayloadError(f"envelope version {fields[0]!r}: this decoder knows {VERSION}")
        numbers, bodies = fields[1:7], fields[7:]
        if len(bodies) not in (1, 2) or not all(type(number) is int for number in numbers):
            raise PayloadError("an envelope has seven integers and a body, perhaps parts")
        if not all(type(body) is bytes for body in bodies):
            raise PayloadError("body and parts of an envelope are bytes")
        envelope = cls(*fields[1:])
        in_range = (
            0 <= envelope.codec <= 255
            and 0 <= envelope.schema_id < 2**32
            and 1 <= envelope.epoch < 2**32
            and 1 <= envelope.seq_first < 2**62
            and 1 <= envelope.seq_count <= MAX_COUNT
            and 0 <= envelope.flags < 2**16
        )
        if not in_range:
            raise PayloadError("a number of the envelope is out of its range")
        if envelope.codec == CHAINED:
            return replace(envelope, body=envelope.schema_id.to_bytes(LINK_BYTES, "big") + envelope.body)
        return envelope
