"""Chain: codecs 2 and 3: an adaptive range coder, in batches that stand alone and in batches that continue others."""

from parkfleet.protocols.payload.chain.coding import KEY, Decoder, Encoder, begin_chain
from parkfleet.protocols.payload.envelope import CHAINED

__all__ = ["CHAINED", "KEY", "Decoder", "Encoder", "begin_chain"]
