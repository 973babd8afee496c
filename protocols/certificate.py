"""Certificate: the little that is read of a certificate where no library for them is loaded: on the gateway.

Nothing here decides whether a certificate is to be trusted; TLS does.
"""

import hashlib
import re
import ssl
from datetime import UTC, datetime
from typing import Final, NamedTuple

#: A chain of two certificates with a key has 2 kB. Bytes.
MAX_PEM_BYTES: Final = 64 * 1024

_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----[^-]+-----END \1-----\n?")
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


class CertificateError(ValueError):
    """Bytes that are no certificate."""


class Validity(NamedTuple):
    """From when until when a certificate holds, in seconds since 1970, UTC."""

    begin: float
    end: float

    def at(self, part: float) -> float:
        """The time when so much of its life is over."""
        return self.begin + part * (self.end - self.begin)

    def holds(self, now: float) -> bool:
        """Whether it does at a time."""
        return self.begin <= now <= self.end

    def __str__(self) -> str:
        return f"from {moment(self.begin)} to {moment(self.end)}"


def moment(seconds: float) -> str:
    """A time in a sentence: 2026-11-23 14:00:05 UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s after 1970"


def pem_blocks(pem: bytes) -> list[tuple[str, bytes]]:
    """(what, text) of each block of a PEM file. Raises CertificateError for a file that is too long."""
    if len(pem) > MAX_PEM_BYTES:
        raise CertificateError(f"a certificate's file has at most {MAX_PEM_BYTES} bytes, this one {len(pem)}")
    return [(found[1].decode(), found[0]) for found in _BLOCK.finditer(pem)]


def certificates(pem: bytes) -> list[bytes]:
    """The certificates of a PEM file, each as PEM. Raises CertificateError when there is none."""
    found = [text for what, text in pem_blocks(pem) if what == "CERTIFICATE"]
    if not found:
        raise CertificateError("no certificate stands in it")
    return found


def private_key(pem: bytes) -> bytes:
    """The private key of a PEM file, as PEM. Raises CertificateError when there is none."""
    for what, text in pem_blocks(pem):
        if what.endswith("PRIVATE KEY"):
            return text
    raise CertificateError("no private key stands in it")


def der(pem: bytes) -> bytes:
    """The first certificate's own bytes. Raises CertificateError."""
    try:
        return ssl.PEM_cert_to_DER_cert(certificates(pem)[0].decode())
    except ValueError as error:  # binascii.Error is one
        raise CertificateError(f"not a certificate: {error}") from None


def fingerprint(pem: bytes) -> bytes:
    """SHA-256 of the first certificate. Raises CertificateError."""
    return hashlib.sha256(der(pem)).digest()


def validity(pem: bytes) -> Validity:
    """From when until when the first certificate holds. Raises CertificateError."""
    _, certificate, _ = _part(der(pem), _SEQUENCE)
    _, body, _ = _part(certificate, _SEQUENCE)
    tag, _, rest = _part(body)
    if tag == _VERSION:
        _, _, rest = _part(rest)  # serial number
    for _ in range(2):  # signature algorithm, issuer
        _, _, rest = _part(rest, _SEQUENCE)
    _, dates, _ = _part(rest, _SEQUENCE)
    tag, begin, rest = _part(dates)
    tag_end, end, _ = _part(rest)
    return Validity(_time(tag, begin), _time(tag_end, end))


def _part(data: bytes, expected: int | None = None) -> tuple[int, bytes, bytes]:
    """(tag, content, rest) of the first part of DER bytes (X.690). Raises CertificateError."""
    if len(data) < 2:
        raise CertificateError("not a certificate: it ends early")
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        if not 2 < start <= 6:
            raise CertificateError("not a certificate: a length that none has")
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        raise CertificateError("not a certificate: it ends early")
    if expected is not None and tag != expected:
        raise CertificateError(f"not a certificate: 0x{tag:02x} stands where 0x{expected:02x} should")
    return tag, data[start : start + length], data[start + length :]


def _time(tag: int, text: bytes) -> float:
    """Seconds since 1970 of a time as RFC 5280 (4.1.2.5) allows them. Raises CertificateError."""
    try:
        digits = text.decode("ascii").removesuffix("Z")
        if tag == _UTC_TIME:
            digits = ("20" if int(digits[:2]) < 50 else "19") + digits
        elif tag != _GENERALIZED_TIME:
            raise ValueError("another type")
        if not text.endswith(b"Z") or len(digits) != 14 or not digits.isdigit():
            raise ValueError("another form")
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise CertificateError(f"not a certificate: {text[:20]!r} is no time") from None
