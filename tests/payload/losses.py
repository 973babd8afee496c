"""Losses: chained batches through a link that loses, repeats and swaps them, to a consumer that asks for its gaps."""

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from parkfleet.protocols.payload.chain import KEY, Encoder
from parkfleet.protocols.payload.codecs import encode
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, GapSeen, Output, Rejected
from parkfleet.protocols.payload.envelope import REPLAYED, Envelope
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Rows
from parkfleet.protocols.payload.topics import GatewayTopics

TOPICS = GatewayTopics("park", "gw")
EPOCH = 7
#: Of the batches: those that never come, that come twice, that come behind their follower.
LOST, REPEATED, SWAPPED = 0.08, 0.04, 0.04


@dataclass
class Losses:
    """What became of the batches."""

    sent: int = 0
    lost: int = 0
    refused: int = 0  # until the next key, or until they came again
    wrong: int = 0  # decoded to other rows
    untold: int = 0  # neither decoded nor named in a gap
    missing: int = 0  # after the replay

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def lose_batches(schema: Schema, batches: Sequence[list[Rows]], key_every: int, seed: int = 1) -> Losses:
    """Seqs from 1. A gap that the consumer names comes again as the gateway replays it: each batch a key."""
    chance, found, now = random.Random(seed), Losses(), [0.0]
    encoder = Encoder(schema, key_every)
    consumer = Consumer(clock=lambda: now[0])
    consumer.feed(TOPICS.schema(schema.id), schema.pack())
    decoded: dict[int, list[Rows]] = {}

    def fed(codec: int, seq: int, body: bytes, flags: int = 0) -> list[Output]:
        outputs = consumer.feed(TOPICS.batch, Envelope(codec, schema.id, EPOCH, seq, 1, flags, body).pack())
        for output in outputs:
            if isinstance(output, BatchDecoded):
                decoded[output.envelope.seq_first] = output.rows
        return outputs

    sent = [(codec, seq, body) for seq, rows in enumerate(batches, 1) for codec, body in [encoder.encode(rows)]]
    arriving = _as_they_arrive(sent, chance)
    for codec, seq, body in arriving:
        found.refused += any(isinstance(output, Rejected) for output in fed(codec, seq, body))
    now[0] += 60  # longer than a gap may stay open
    gaps = [gap for output in consumer.due() if isinstance(output, GapSeen) for gap in output.gaps]
    told = {seq for first, last in gaps for seq in range(first, last + 1)}
    for seq in sorted(told):
        fed(KEY, seq, encode(schema, batches[seq - 1]), REPLAYED)
    last = max(seq for _, seq, _ in arriving)  # behind it nobody can know of a gap
    expected = range(1, last + 1)
    found.sent, found.lost = len(sent), len({seq for _, seq, _ in sent} - {seq for _, seq, _ in arriving})
    found.wrong = sum(rows != batches[seq - 1] for seq, rows in decoded.items())
    found.untold = sum(seq not in decoded and seq not in told for seq in expected)
    found.missing = sum(seq not in decoded for seq in expected)
    return found


def _as_they_arrive(sent: Sequence[tuple[int, int, bytes]], chance: random.Random) -> list[tuple[int, int, bytes]]:
    arriving = []
    for batch in sent:
        fate = chance.random()
        if fate < LOST:
            continue
        arriving += [batch, batch] if fate < LOST + REPEATED else [batch]
        if fate > 1 - SWAPPED and len(arriving) > 1:
            arriving[-2:] = arriving[:-3:-1]
    return arriving
