"""Reclaim: what a gateway signs to prove that it has the key of its old certificate."""

from typing import Final

#: How long a challenge is good for. Seconds.
CHALLENGE_S: Final = 60.0
CHALLENGE_BYTES: Final = 64

_PURPOSE: Final = b"parkfleet reclaim\0"


def proof(nonce: bytes, fingerprint: bytes) -> bytes:
    """The bytes to be signed with ECDSA and SHA-256; fingerprint: SHA-256 of the old certificate."""
    return _PURPOSE + nonce + fingerprint
