"""Enrolling: a box trades a join token for a certificate, and a gateway proves that it has the key of its old one.

For short-lived commands: what is imported here takes 30 MB that an agent need not have in memory.
"""

import asyncio
import hashlib
import hmac
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from parkfleet.agent.identity import Credentials, Enrolled, IdentityError, IdentityFolder
from parkfleet.agent.tls_faults import told_dates, told_fault
from parkfleet.proto import enrolment_pb2 as pb
from parkfleet.proto import limits
from parkfleet.proto.enrolment_pb2_grpc import CertificateRenewalStub, EnrolmentStub
from parkfleet.proto.errors import cause, tls_fault
from parkfleet.protocols.address import split_address
from parkfleet.protocols.certificate import CertificateError, fingerprint, validity
from parkfleet.protocols.join_token import JoinToken
from parkfleet.protocols.reclaim import proof

T = TypeVar("T")

#: For each call, on a poor link. Seconds.
CALL_S: Final = 30.0
#: How often a box that waits may ask, whatever the controller says. Seconds.
ASK_AGAIN_S: Final = (1.0, 60.0)
#: Who waits is told so this often. Seconds.
SAY_AGAIN_S: Final = 60.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)


class EnrolError(Exception):
    """It did not come about; the message says why and what to do."""


class UnreachableError(EnrolError):
    """No controller answers, or not the right one: it may be tried again."""


class RefusedError(EnrolError):
    """The controller said no."""


@dataclass(frozen=True)
class Wish:
    """What a box would like to be."""

    gateway: str
    park: str = ""  # as its configuration says; "" where it says nothing


@dataclass(frozen=True)
class Enrolment:
    """What became of it."""

    enrolled: Enrolled
    credentials: Credentials


async def enrol(token: JoinToken, wish: Wish, folder: IdentityFolder, say: Callable[[str], None]) -> Enrolment:
    """Trades a token for a certificate; waits for an operator's yes where the token asks for one. Raises EnrolError.

    May be broken off at any point: called again with the same token, it goes on.
    """
    try:
        key = folder.new_key(_made_key)
        say(f"reaching the controller at {token.address}")
        ca = await trusted_authority(token)
        request = _request(key)
        say(f"the key of this box: {_key_words(key)}")
        answer = await _certificate(token, wish, ca, request, say)
        given = answer.certificate
        enrolled = Enrolled(answer.park, answer.gateway, given.controller, given.enrolment)
        return Enrolment(enrolled, folder.keep(key, given.certificate, ca, enrolled))
    except OSError as error:
        raise EnrolError(f"cannot write {folder.folder}: {error.strerror or error}") from None
    except IdentityError as error:
        raise EnrolError(str(error)) from None


async def trusted_authority(token: JoinToken) -> bytes:
    """The certificate of the authority that the token names, PEM. Nothing of the token is said. Raises EnrolError.

    Whoever answers shows a certificate; it is asked over a connection that only the holder of that certificate can
    have for its authority, and is believed if that has the token's fingerprint.
    """
    host, port = split_address(token.address)
    try:
        shown = await asyncio.to_thread(ssl.get_server_certificate, (host.strip("[]"), port), timeout=CALL_S)
        dates = validity(shown.encode())
    except (OSError, CertificateError) as error:
        raise UnreachableError(f"no controller answers at {token.address}: {error}") from None
    if not dates.holds(now := time.time()):
        raise UnreachableError(told_dates(dates, now))
    async with _channel(token.address, shown.encode()) as channel:
        answer: pb.Authority = await _call(EnrolmentStub(channel).GetAuthority, pb.GetAuthorityRequest(), token.address)
    try:
        found = fingerprint(answer.certificate)
    except CertificateError:
        found = b""
    if not hmac.compare_digest(found, token.fingerprint):
        raise UnreachableError(
            f"what answers at {token.address} is not the controller of this token: its authority is "
            f"{found.hex()[:16]}…, the token's {token.fingerprint.hex()[:16]}…. The token was not shown to it"
        )
    return answer.certificate


async def reclaim(folder: IdentityFolder, address: str = "") -> Credentials:
    """A new certificate by proof of the old one's key. address: of the enrolment port, if it moved.

    Raises EnrolError.
    """
    old, enrolled = _identity(folder)
    address = address or enrolled.enrolment
    own = x509.load_pem_x509_certificate(old.chain)
    key = serialization.load_pem_private_key(old.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    async with _channel(address, old.ca) as channel:
        stub = EnrolmentStub(channel)
        challenge = await _call(stub.GetChallenge, pb.GetChallengeRequest(), address, old.ca)
        signature = key.sign(proof(challenge.nonce, own.fingerprint(hashes.SHA256())), ec.ECDSA(hashes.SHA256()))
        request = pb.ReclaimRequest(certificate=old.chain, nonce=challenge.nonce, signature=signature)
        answer: pb.GatewayCertificate = await _call(stub.Reclaim, request, address, old.ca)
    return _kept(folder, answer.certificate)


async def renew_with_a_new_key(folder: IdentityFolder) -> Credentials:
    """A certificate for a new key; the old one's certificate must still hold. Raises EnrolError."""
    old, enrolled = _identity(folder)
    key = _made_key()
    async with _channel(enrolled.controller, old.ca, old) as channel:
        stub = CertificateRenewalStub(channel)
        request = pb.RenewRequest(request=_request(key))
        answer: pb.GatewayCertificate = await _call(stub.Renew, request, enrolled.controller, old.ca)
    return _kept(folder, answer.certificate, key)


async def _certificate(
    token: JoinToken, wish: Wish, ca: bytes, request: bytes, say: Callable[[str], None]
) -> pb.EnrollResponse:
    """Asks until there is a certificate. Raises EnrolError."""
    message = pb.EnrollRequest(
        token=token.id, secret=token.secret, request=request, gateway=wish.gateway, park=wish.park
    )
    waiting, said = False, time.monotonic()
    while True:
        async with _channel(token.address, ca) as channel:
            stub = EnrolmentStub(channel)
            try:
                answer: pb.EnrollResponse = await _call(stub.Enroll, message, token.address, ca)
            except UnreachableError as error:
                if not waiting:
                    raise
                say(f"{error}; trying again")
                pause_s = ASK_AGAIN_S[1] / 4
            else:
                if answer.WhichOneof("outcome") == "certificate":
                    return answer
                if not waiting:
                    say(
                        f"waiting for an operator to approve {answer.park}/{answer.gateway} "
                        "(parkfleet fleet gateway pending). Ctrl-C breaks off, the same command goes on"
                    )
                elif time.monotonic() - said >= SAY_AGAIN_S:
                    say("still waiting")
                    said = time.monotonic()
                waiting = True
                pause_s = answer.waiting.ask_again_ms / 1000
        low, high = ASK_AGAIN_S
        await asyncio.sleep(min(max(pause_s, low), high))  # as the controller says


async def _call(method: Callable[..., Awaitable[T]], request: object, address: str, ca: bytes | None = None) -> T:
    """One call; its failure as an EnrolError."""
    try:
        return await method(request, timeout=CALL_S)
    except aio.AioRpcError as error:
        fault = tls_fault(error)
        if fault is not None and ca is not None:
            raise UnreachableError(await told_fault(fault, address, ca)) from None
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise UnreachableError(f"no controller answers at {address}: {cause(error)}") from None
        raise RefusedError(f"the controller refused: {cause(error)}") from None


def _channel(address: str, ca: bytes, own: Credentials | None = None) -> aio.Channel:
    pair = (own.key, own.chain) if own is not None else (None, None)
    return aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair), options=_OPTIONS)


def _identity(folder: IdentityFolder) -> tuple[Credentials, Enrolled]:
    """Raises EnrolError."""
    try:
        credentials, enrolled = folder.credentials(), folder.enrolled()
    except IdentityError as error:
        raise EnrolError(str(error)) from None
    if credentials is None or enrolled is None:
        raise EnrolError(f"no gateway's identity in {folder.folder}: enrol with `parkfleet agent enroll TOKEN`")
    return credentials, enrolled


def _kept(folder: IdentityFolder, certificate: bytes, key: bytes | None = None) -> Credentials:
    try:
        return folder.renewed(certificate, key)
    except (IdentityError, OSError) as error:
        raise EnrolError(f"the new certificate cannot be kept: {error}") from None


def _made_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _request(key_pem: bytes) -> bytes:
    """A request (PKCS #10, DER) that says nothing but the key: the controller decides the name."""
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def _key_words(key_pem: bytes) -> str:
    """The beginning of the public key's hash, as `fleet gateway pending` shows it."""
    key = serialization.load_pem_private_key(key_pem, None)
    encoded = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()[:16]


def wished_name(given: str, configured: str, host: str) -> str:
    """The name a box would like: as it was told, as its configuration says, or that of the host."""
    if given or configured:
        return given or configured
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "-" for letter in host)
    return name.lstrip("_.-")[:64] or "gateway"
