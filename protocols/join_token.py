"""Join token: the one string that lets a gateway enrol: where, at which authority, and the secret that opens the door.

`pfj1_` and base32 (RFC 4648, lower case, without padding) of: SHA-256 of the authority's certificate, the token's id,
its secret, the address in UTF-8, and CRC-32 of all that, so that a copy with a piece missing is known as such.
"""

import base64
import binascii
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final

from parkfleet.protocols.address import split_address

PREFIX: Final = "pfj1_"
FINGERPRINT_BYTES: Final = 32
ID_BYTES: Final = 5  # 8 letters
SECRET_BYTES: Final = 20
#: A DNS name has at most 253 characters; then colon and port.
MAX_ADDRESS: Final = 260
#: Bytes of the whole, of which base32 makes 8/5 as many letters.
MAX_BYTES: Final = FINGERPRINT_BYTES + ID_BYTES + SECRET_BYTES + MAX_ADDRESS + 4

_ID = re.compile(r"[a-z2-7]{8}")
_LEAST: Final = FINGERPRINT_BYTES + ID_BYTES + SECRET_BYTES + len("a:1") + 4


class TokenError(ValueError):
    """A string that is no join token; the message says what to do."""


@dataclass(frozen=True)
class JoinToken:
    """A token taken apart."""

    address: str  # HOST:PORT where gateways enrol
    fingerprint: bytes  # SHA-256 of the authority's certificate (DER)
    id: str  # may be logged
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls, address: str, fingerprint: bytes) -> "JoinToken":
        """One that nobody had before."""
        return cls(address, fingerprint, _letters(secrets.token_bytes(ID_BYTES)), secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Takes apart what an installer pasted. Raises TokenError, which never quotes it."""
        text = "".join(text.split()).lower()  # a mail may have broken its line, a scanner speaks in capitals
        if not text.startswith(PREFIX):
            raise TokenError(f"a join token begins with {PREFIX}: copy what `parkfleet fleet token create` printed")
        body = text.removeprefix(PREFIX)
        if len(body) > MAX_BYTES * 8 // 5 + 1:
            raise TokenError("the token is too long: copy it alone")
        try:
            raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
        except (binascii.Error, ValueError):
            raise TokenError("the token is damaged: copy it whole, letters a to z and digits 2 to 7") from None
        if len(raw) < _LEAST or zlib.crc32(raw[:-4]).to_bytes(4) != raw[-4:] or _letters(raw) != body:
            raise TokenError("the token is damaged, or not whole: copy all of it")
        fingerprint, rest = raw[:FINGERPRINT_BYTES], raw[FINGERPRINT_BYTES:-4]
        name, secret, address = (
            rest[:ID_BYTES],
            rest[ID_BYTES : ID_BYTES + SECRET_BYTES],
            rest[ID_BYTES + SECRET_BYTES :],
        )
        try:
            return cls(_checked(address.decode()), fingerprint, _letters(name), secret)
        except ValueError:
            raise TokenError("the token names no address: have another one made") from None

    def text(self) -> str:
        """The string. It is a secret."""
        name = base64.b32decode(self.id.upper())
        raw = self.fingerprint + name + self.secret + _checked(self.address).encode()
        return PREFIX + _letters(raw + zlib.crc32(raw).to_bytes(4))


def is_token_id(text: str) -> bool:
    """Whether a token may be called so."""
    return _ID.fullmatch(text) is not None


def _checked(address: str) -> str:
    """Raises ValueError for what is no address."""
    if len(address) > MAX_ADDRESS or not address.isprintable() or " " in address or split_address(address)[1] == 0:
        raise ValueError("no address")
    return address


def _letters(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
