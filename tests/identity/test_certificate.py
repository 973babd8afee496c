"""Certificate: the little reader agrees with the library, and survives any bytes."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.authority import Authority
from parkfleet.protocols.certificate import (
    MAX_PEM_BYTES,
    CertificateError,
    Validity,
    certificates,
    fingerprint,
    moment,
    pem_blocks,
    private_key,
    validity,
)

KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY = Authority.new(1_790_000_000.0)
GOOD = AUTHORITY.client("p1/gw-01", KEY.public_key(), 1_790_000_000.0, 86400.0).pem.encode()
DER = x509.load_pem_x509_certificate(GOOD).public_bytes(serialization.Encoding.DER)


def as_pem(der: bytes) -> bytes:
    """Any bytes as the certificate of a PEM file."""
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@given(
    st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)),
    st.integers(1, 10**9),
    st.text("abc", min_size=1, max_size=60),
)
def test_validity_agrees_with_the_library(begin: datetime, seconds: int, name: str) -> None:
    """Before and after 2050, where the form of times changes."""
    begin = begin.replace(microsecond=0, tzinfo=UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(seconds=seconds))
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert validity(pem) == Validity(begin.timestamp(), begin.timestamp() + seconds)
    assert fingerprint(pem) == x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())


@given(st.binary(max_size=400))
def test_validity_refuses_any_bytes(data: bytes) -> None:
    """As bytes of a file, and as the content of a block."""
    for pem in (data, as_pem(data)):
        with pytest.raises(CertificateError):
            validity(pem)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_validity_survives_a_changed_byte(at: int, change: int) -> None:
    """It reads something or refuses; it raises nothing else."""
    data = bytearray(DER)
    data[at] ^= change
    try:
        found = validity(as_pem(bytes(data)))
    except CertificateError:
        return
    assert str(found).startswith("from ")


def test_files_with_key_and_certificates_come_apart() -> None:
    """In whichever order they stand."""
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    both = b"words before\n" + key + GOOD + AUTHORITY.pem
    assert private_key(both) == key
    assert certificates(both) == [GOOD, AUTHORITY.pem]
    for empty in (b"", GOOD, b"-----BEGIN PRIVATE KEY-----\nabc\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CertificateError, match="no private key"):
            private_key(empty)
    with pytest.raises(CertificateError, match="no certificate"):
        certificates(key)
    with pytest.raises(CertificateError, match="at most"):
        pem_blocks(b"x" * (MAX_PEM_BYTES + 1))


def test_validity_in_words() -> None:
    """As sentences name it."""
    span = Validity(0.0, 90.0)
    assert str(span) == "from 1970-01-01 00:00:00 UTC to 1970-01-01 00:01:30 UTC"
    assert (span.at(2 / 3), span.holds(90.0), span.holds(90.5), span.holds(-1.0)) == (60.0, True, False, False)
    assert moment(1e18) == "1e+18 s after 1970"
