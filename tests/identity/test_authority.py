"""Authority: what it signs holds for what it is meant for, and for nothing else."""

import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.authority import (
    Authority,
    AuthorityError,
    RequestError,
    check_server_name,
    common_name,
    requested_key,
)
from tests.identity.conftest import Box

NOW = 1_790_000_000.0


def test_at_makes_an_authority_once(tmp_path: Path) -> None:
    """Its key for nobody else to read, its certificate for everybody; the next start finds the same."""
    folder = tmp_path / "data"
    first = Authority.at(folder, NOW)
    again = Authority.at(folder, NOW + 1e6)
    assert again.fingerprint == first.fingerprint
    assert stat.S_IMODE((folder / "authority.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "ca.pem").read_bytes() == first.pem
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["authority.pem", "ca.pem"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no authority of ours"),
        (b"-----BEGIN nonsense", "no authority of ours"),
        (Box().key_pem + Authority.new(NOW).pem, "its key is not that of its certificate"),
    ],
)
def test_at_refuses_a_damaged_file(tmp_path: Path, content: bytes, told: str) -> None:
    """And leaves it as it is: a new authority would lock every gateway out."""
    (tmp_path / "authority.pem").write_bytes(content)
    with pytest.raises(AuthorityError, match=told):
        Authority.at(tmp_path, NOW)
    assert (tmp_path / "authority.pem").read_bytes() == content


def test_client_certificate_is_no_servers() -> None:
    """A gateway cannot pose as the controller to others, nor sign for them."""
    authority = Authority.new(NOW)
    issued = authority.client("p1/gw-01", Box().key.public_key(), NOW, 86400.0)
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert common_name(certificate) == "p1/gw-01"
    assert authority.signed(certificate) and not Authority.new(NOW).signed(certificate)


def test_client_certificate_never_outlives_the_authority() -> None:
    """Nor holds before it began."""
    authority = Authority.new(NOW)
    issued = authority.client("p1/gw-01", Box().key.public_key(), NOW, 1e9)
    assert issued.not_after_ms == authority.certificate.not_valid_after_utc.timestamp() * 1000
    with pytest.raises(ValueError, match="at most 64"):
        authority.client("p" * 40 + "/" + "g" * 40, Box().key.public_key(), NOW, 1.0)


def test_openssl_accepts_what_it_signs(tmp_path: Path) -> None:
    """Key and chain load, and the chain verifies with names and addresses of all kinds."""
    authority = Authority.new(NOW)
    names = ["fleet.example.org", "10.0.0.5", "::1", "[fe80::2]", "localhost", "localhost"]
    key, chain = authority.server(names, NOW)
    (tmp_path / "pair").write_bytes(key + chain)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pair")
    (tmp_path / "ca").write_bytes(authority.pem)
    command = f"openssl verify -attime {int(NOW)} -purpose sslserver -verify_hostname fleet.example.org"
    assert os.system(f"{command} -CAfile {tmp_path}/ca {tmp_path}/pair >/dev/null 2>&1") == 0
    assert os.system(f"{command}.evil -CAfile {tmp_path}/ca {tmp_path}/pair >/dev/null 2>&1") != 0


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 64, "fleet_1", "härte.example", "*", "a..b", "a/b"])
def test_server_names_that_cannot_be(name: str) -> None:
    """Are told before anything is made."""
    with pytest.raises(ValueError, match="expected a name such as"):
        check_server_name(name)


def request(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A proper request of a key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def test_requested_key_takes_p256_only() -> None:
    """gRPC's TLS library knows no Ed25519, and one kind is enough."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert requested_key(request(key)) == key.public_key()
    for other in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(RequestError, match="on the curve P-256"):
            requested_key(request(other))


@given(st.binary(max_size=600))
def test_requested_key_refuses_any_bytes(data: bytes) -> None:
    """With a sentence."""
    with pytest.raises(RequestError):
        requested_key(data)


GOOD = request(ec.generate_private_key(ec.SECP256R1()))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_requested_key_refuses_a_request_with_one_byte_changed(at: int, change: int) -> None:
    """Its own signature covers all of it."""
    data = bytearray(GOOD)
    data[at] ^= change
    with pytest.raises(RequestError):
        requested_key(bytes(data))
