"""Gatehouse: decides who gets in: issues, renews and revokes the gateways' certificates, and checks who shows one.

One object a process, over a database that several may share: what another one revokes is heard on the bus.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.authority import Authority, AuthorityError, certificate_of, common_name, serial_of
from parkfleet.controller.bus import Bus
from parkfleet.controller.checks import RefusedError, check_name
from parkfleet.controller.database import Database
from parkfleet.controller.deny_list import DenyList, RevokedError
from parkfleet.controller.enrolments import Application, Enrolments, Outcome
from parkfleet.controller.guard import peer_address
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.identity_store import TOPIC, GatewayIdentity, IdentityStore
from parkfleet.controller.refusal_log import RefusalLog
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.token_store import TokenInfo, TokenStore
from parkfleet.controller.witness import Witness
from parkfleet.protocols.files import write_durably
from parkfleet.protocols.join_token import JoinToken
from parkfleet.protocols.reclaim import CHALLENGE_BYTES, CHALLENGE_S, proof

log = logging.getLogger(__name__)

#: A gateway's certificate: the longest link outage and a long holiday of park IT fit in the third that is left when
#: its renewal is due. Seconds.
CERTIFICATE_S: Final = 90 * 86400.0
#: An answer that was lost on the way is asked for again: the same certificate is the answer then. Seconds.
SAME_AGAIN_S: Final = 60.0
#: The revoked certificates, for a broker.
CRL_FILE: Final = "crl.pem"


#: What keeps somebody with a certificate out.
GATE_ERRORS: Final = (IdentityError, RevokedError)


@dataclass(frozen=True)
class Credential:
    """A certificate of ours that a gateway has shown."""

    key: GatewayKey
    serial: str
    certificate: x509.Certificate


class Gatehouse:
    """Made by open(). clock: ms UTC."""

    def __init__(
        self, database: Database, authority: Authority, folder: Path, life_s: float, clock: Callable[[], int], bus: Bus
    ) -> None:
        self.authority = authority
        self.tokens = TokenStore(database)
        self.store = IdentityStore(database, bus)
        self.enrolments = Enrolments(database, authority, life_s, bus)
        self.deny = DenyList()
        self.witness: Witness | None = None  # where there is an audit log
        self._refusals = RefusalLog()
        self._folder = folder
        self.life_s = life_s
        self._now = clock
        self._writing = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        database: Database,
        folder: Path,
        clock: Callable[[], int],
        life_s: float = CERTIFICATE_S,
        bus: Bus | None = None,
    ) -> "Gatehouse":
        """With the authority in a folder, which is made if there is none; bus: before it runs.

        Raises AuthorityError, OSError, one of UNAVAILABLE.
        """
        bus = bus or Bus(database)
        authority = Authority.at(folder, clock() / 1000)
        gatehouse = cls(database, authority, folder, life_s, clock, bus)
        if not await gatehouse.store.bind(authority, clock()):
            raise AuthorityError(
                f"the database is of another authority than {folder}: copy authority.pem and secrets.key from the data "
                "folder of the controller that made it"
            )
        await gatehouse.reload()
        bus.subscribe(TOPIC, gatehouse.reload)
        return gatehouse

    async def reload(self, _: list[str] | None = None) -> None:
        """Takes in what was revoked, by whomever. Raises one of UNAVAILABLE."""
        revoked = await self.store.revoked(self._now())
        for one in revoked:
            if ended := self.deny.revoke(one.serial, one.told):
                log.warning("%s: %d streams are ended", one.told, ended)
        await self._write_crl([(one.serial, one.at_ms) for one in revoked])

    async def create_token(
        self, address: str, park: str, uses: int, ttl_ms: int, approve: bool, author: str, reason: str
    ) -> tuple[JoinToken, TokenInfo]:
        """A new token; what it says is said once."""
        token = JoinToken.new(address, self.authority.fingerprint)
        now = self._now()
        info = TokenInfo(token.id, park, uses, 0, approve, now, now + ttl_ms, author, reason)
        await self.tokens.add(token, info)
        log.info("join token %s for park %s, %d uses, was made by %s", token.id, park, uses, author)
        return token, info

    async def apply(self, application: Application) -> Outcome:
        """An application to become a gateway. Raises IdentityError, RequestError."""
        outcome = await self.enrolments.apply(application, self._now())
        if outcome.new:
            word = "is enrolled" if outcome.certificate else "waits for approval"
            log.info("%s %s with join token %s, from %s", outcome.key, word, application.token, application.peer)
        if outcome.replaced:
            await self.reload()
        return outcome

    async def tell(self, fact: AuditFact, peer: str) -> None:
        """Tells of a box that got in, or did not."""
        if fact.result is AuditResult.REFUSED:
            self._refusals.tell(fact.action, peer, fact.detail)
        if self.witness is not None:
            await self.witness.tell(replace(fact, peer=peer_address(peer)))

    async def approve(self, number: int, park: str, by: str) -> GatewayKey:
        """Says yes to a box that waits, of a park or of any (""). Raises IdentityError."""
        outcome = await self.enrolments.approve(number, park, by, self._now())
        log.info("%s is enrolled: approved by %s", outcome.key, by)
        if outcome.replaced:
            await self.reload()
        return outcome.key

    async def deny_enrolment(self, number: int, park: str, by: str, reason: str) -> GatewayKey:
        """Says no to a box that waits, of a park or of any (""). Raises IdentityError."""
        key = await self.enrolments.deny(number, park, by, reason, self._now())
        log.info("%s is denied its enrolment by %s: %s", key, by, reason)
        return key

    async def revoke(self, key: GatewayKey, by: str, reason: str) -> GatewayIdentity:
        """Lets a gateway's box never in again; its streams are ended when this returns. Raises IdentityError."""
        identity = await self.store.revoke(key, by, reason, self._now())
        log.warning("%s", identity.revoked_told())
        await self.reload()
        return identity

    async def revoke_token(self, token: str, park: str, by: str) -> TokenInfo:
        """A join token of a park, or of any (""), opens no door any more. Raises IdentityError."""
        info = await self.tokens.revoke(token, park, by, self._now())
        log.info("join token %s was revoked by %s", token, by)
        return info

    async def open_for_replacement(self, key: GatewayKey, ttl_ms: int, by: str) -> GatewayIdentity:
        """For so long another box may take a gateway's name, with a join token. Raises IdentityError."""
        identity = await self.store.open_for_replacement(key, self._now() + ttl_ms)
        log.warning("gateway %s may be replaced by another box: opened by %s", key, by)
        return identity

    async def renew(self, credential: Credential, key: ec.EllipticCurvePublicKey | None = None) -> str:
        """A further certificate, PEM, for who has shown one. key: of another key. Raises IdentityError."""
        wanted = key or credential.certificate.public_key()
        assert isinstance(wanted, ec.EllipticCurvePublicKey)
        issued = self.authority.client(str(credential.key), wanted, self._now() / 1000, self.life_s)
        again_ms = round(1000 * min(SAME_AGAIN_S, self.life_s / 20))
        pem = await self.store.renew(credential.key, credential.serial, issued, again_ms, self._now())
        log.info("%s has a new certificate", credential.key)
        return pem

    def credential(self, pem: bytes) -> Credential:
        """A certificate that somebody shows, if it is one of ours and a gateway's. Its dates are not looked at.

        Raises IdentityError.
        """
        try:
            certificate = certificate_of(pem)
            park, _, gateway = common_name(certificate).partition("/")
        except ValueError:
            raise IdentityError(Fault.UNPROVEN, "what was shown is no certificate") from None
        if not self.authority.signed(certificate):
            told = "is not of this controller's authority: enrol this box here, with a join token of this controller"
            raise IdentityError(Fault.UNPROVEN, f"the certificate of {park[:64]}/{gateway[:64]} {told}")
        try:
            check_name("park", park)
            check_name("gateway", gateway)
        except RefusedError:
            raise IdentityError(Fault.UNPROVEN, "the certificate that was shown is no gateway's") from None
        return Credential(GatewayKey(park, gateway), serial_of(certificate), certificate)

    def challenge(self) -> bytes:
        """What a gateway without a valid certificate signs, to prove that it has the key."""
        until = (self._now() // 1000 + int(CHALLENGE_S)).to_bytes(8)
        body = until + secrets.token_bytes(CHALLENGE_BYTES - 8 - 32)
        return body + self._sealed(body)

    async def reclaim(self, pem: bytes, nonce: bytes, signature: bytes) -> str:
        """A new certificate for who proves to have the key of an old one, PEM. Raises IdentityError."""
        credential = self.credential(pem)
        if len(nonce) != CHALLENGE_BYTES or not hmac.compare_digest(nonce[-32:], self._sealed(nonce[:-32])):
            raise IdentityError(Fault.UNPROVEN, "this is no challenge of ours: ask for another one")
        if int.from_bytes(nonce[:8]) < self._now() / 1000:
            raise IdentityError(Fault.UNPROVEN, f"the challenge is older than {CHALLENGE_S:g} s: ask for another one")
        key = credential.certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        shown = credential.certificate.fingerprint(hashes.SHA256())
        try:
            key.verify(signature, proof(nonce, shown), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            told = f"the proof is not signed with the key of the certificate of {credential.key}"
            raise IdentityError(Fault.UNPROVEN, told) from None
        return await self.renew(credential)

    async def _write_crl(self, revoked: list[tuple[str, int]]) -> None:
        """For the broker. A disk that refuses keeps nobody from being revoked here."""
        crl = self.authority.revocations(revoked, self._now() / 1000)
        async with self._writing:
            try:
                await asyncio.to_thread(write_durably, self._folder / CRL_FILE, crl, 0o644)
            except OSError as error:
                log.error("the list of revoked certificates for the broker cannot be written: %s", error)

    def _sealed(self, body: bytes) -> bytes:
        """The same for all replicas: they have one authority."""
        return hmac.digest(self.authority.secret(b"challenge"), body, hashlib.sha256)
