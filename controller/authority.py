"""Authority: the controller's own certificate authority: its key, and what it signs.

ECDSA on P-256 throughout: gRPC's TLS library takes no Ed25519. Key and certificate of the authority stand in one file,
0600, so that they never disagree; the certificate stands beside it for whoever is to trust it.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from parkfleet.protocols.files import write_durably

#: Key and certificate together; a secret.
AUTHORITY_FILE: Final = "authority.pem"
#: The certificate alone; no secret.
CA_FILE: Final = "ca.pem"

#: Whoever trusts the authority does so by its certificate: it outlives the boxes. Days.
AUTHORITY_DAYS: Final = 20 * 365
#: Of the controller's own certificates; a new one is made when two thirds are over. Days.
SERVER_DAYS: Final = 90
#: A certificate begins so long before it is issued, at most a tenth of its life, for clocks a little behind. Seconds.
BACKDATED_S: Final = 3600.0
#: X.520's bound of a common name, which holds PARK/GATEWAY.
MAX_COMMON_NAME: Final = 64
#: A request on P-256 has about 200 bytes.
MAX_REQUEST_BYTES: Final = 4096

_DNS = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


#: What the library raises for bytes that are no certificate, key or request of any kind it knows.
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class AuthorityError(Exception):
    """The authority cannot be used; the message says what to do."""


class RequestError(ValueError):
    """A request for a certificate that is none, or not of the kind we sign."""


@dataclass(frozen=True)
class Issued:
    """A gateway's certificate."""

    serial: str  # hexadecimal
    key_hash: str  # SHA-256 of the public key, hexadecimal
    pem: str
    not_before_ms: int
    not_after_ms: int


class Authority:
    """Signs with one key. Times are seconds since 1970, UTC; lives are seconds."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @classmethod
    def new(cls, now: float) -> Self:
        """One that nobody had before."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("ParkFleet authority")
        begin = _moment(now) - timedelta(seconds=BACKDATED_S)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def at(cls, folder: Path, now: float) -> Self:
        """The one in a folder, which is made if there is none. Raises AuthorityError, OSError."""
        path = folder / AUTHORITY_FILE
        try:
            authority = cls._read(path)
        except FileNotFoundError:
            authority = cls.new(now)
            write_durably(path, _key_pem(authority._key) + authority.pem)
        if not (folder / CA_FILE).exists() or (folder / CA_FILE).read_bytes() != authority.pem:
            write_durably(folder / CA_FILE, authority.pem, 0o644)
        return authority

    @classmethod
    def existing(cls, folder: Path) -> Self:
        """The one in a folder. Raises AuthorityError."""
        try:
            return cls._read(folder / AUTHORITY_FILE)
        except FileNotFoundError:
            raise AuthorityError(f"no {AUTHORITY_FILE} in {folder}: start the controller once") from None

    @classmethod
    def _read(cls, path: Path) -> Self:
        """Raises FileNotFoundError, AuthorityError."""
        try:
            pem = path.read_bytes()
            key = serialization.load_pem_private_key(pem, None)
            certificate = x509.load_pem_x509_certificate(pem)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise AuthorityError(f"cannot read the authority, {path}: {error.strerror}") from None
        except UNREADABLE:
            raise AuthorityError(f"{path} is no authority of ours: bring back the right file from a backup") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"{path}: its key is not that of its certificate. Bring back the right file")
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        """Its certificate, for whoever is to trust it."""
        return certificate_pem(self.certificate)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its certificate."""
        return self.certificate.fingerprint(hashes.SHA256())

    def secret(self, purpose: bytes) -> bytes:
        """A key for another purpose, that only who has the authority's key can derive."""
        own = self._key.private_numbers().private_value.to_bytes(32)
        return hmac.digest(own, b"parkfleet " + purpose, hashlib.sha256)

    def server(self, names: Iterable[str], now: float, life_s: float = SERVER_DAYS * 86400) -> tuple[bytes, bytes]:
        """(key, chain) of a server that is called by names or addresses, both PEM, with a key of its own.

        Raises ValueError for what is no name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        found = [_general_name(name) for name in dict.fromkeys(names)]
        builder = self._leaf("ParkFleet server", key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, now, life_s)
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
        return _key_pem(key), certificate_pem(builder.sign(self._key, hashes.SHA256())) + self.pem

    def client(self, name: str, key: ec.EllipticCurvePublicKey, now: float, life_s: float) -> Issued:
        """A certificate for who is called so: PARK/GATEWAY. Raises ValueError for a name that is too long."""
        if len(name) > MAX_COMMON_NAME:
            raise ValueError(f"{name} has {len(name)} characters: a certificate's name has at most {MAX_COMMON_NAME}")
        builder = self._leaf(name, key, ExtendedKeyUsageOID.CLIENT_AUTH, now, life_s)
        certificate = builder.sign(self._key, hashes.SHA256())
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return Issued(
            serial_of(certificate), key_hash(key), certificate_pem(certificate).decode(), _ms(begin), _ms(end)
        )

    def revocations(self, revoked: Iterable[tuple[str, int]], now: float) -> bytes:
        """The list (RFC 5280, PEM) of revoked certificates: (serial, ms UTC).

        It holds as long as the authority: one that ended would have a broker refuse every gateway.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_moment(now) - timedelta(seconds=BACKDATED_S))
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for serial, at_ms in revoked:
            one = x509.RevokedCertificateBuilder(int(serial, 16), _moment(at_ms / 1000))
            builder = builder.add_revoked_certificate(one.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def signed(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is one of ours."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, *UNREADABLE):
            return False
        return True

    def _leaf(
        self, name: str, key: ec.EllipticCurvePublicKey, purpose: x509.ObjectIdentifier, now: float, life_s: float
    ) -> x509.CertificateBuilder:
        begin = _moment(now) - timedelta(seconds=min(BACKDATED_S, life_s / 10))
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(min(_moment(now) + timedelta(seconds=life_s), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(authority_key, critical=False)
        )


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request (PKCS #10, DER) proves to have; what else it says does not matter. Raises RequestError."""
    if len(request) > MAX_REQUEST_BYTES:
        raise RequestError(f"a request has at most {MAX_REQUEST_BYTES} bytes, this one {len(request)}")
    try:
        found = x509.load_der_x509_csr(request)
        signed, key = found.is_signature_valid, found.public_key()
    except UNREADABLE:
        raise RequestError("this is no request for a certificate (PKCS #10, DER)") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestError("the key of a request is one on the curve P-256, this is another")
    if not signed:
        raise RequestError("the request is not signed with its own key")
    return key


def certificate_of(pem: bytes) -> x509.Certificate:
    """A certificate. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as error:
        raise ValueError(f"no certificate: {error}") from None


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """As text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def serial_of(certificate: x509.Certificate) -> str:
    """Its number at its authority, as the database has it."""
    return f"{certificate.serial_number:x}"


def key_hash(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key, hexadecimal."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def common_name(certificate: x509.Certificate) -> str:
    """Whose it is; "" where it does not say."""
    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return ""
    return str(found[0].value) if len(found) == 1 else ""


def check_server_name(name: str) -> None:
    """Raises ValueError for what a server cannot be called in its certificate."""
    _general_name(name)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    if not _DNS.fullmatch(name):
        raise ValueError(f"expected a name such as fleet.example.org or an address such as 10.0.0.5, got {name[:80]!r}")
    return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _moment(seconds: float) -> datetime:
    """Whole seconds: certificates know no others."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
