"""Errors of the payload: what comes from a broker and cannot be used."""


class PayloadError(Exception):
    """A message that is not what its topic says; the text names what is wrong with it."""


class ChainError(PayloadError):
    """A chained batch whose predecessor is missing: not wrong in itself. Replay that one, or wait for the next key."""
