"""Credentials: sessions and API tokens: what stands for somebody who has shown who they are. In the database.

A token is PREFIX_ID_SECRET. Only a hash of the secret is kept; it is 256 random bits, so SHA-256 will do. The id is
public: it stands in lists and in the audit log. What a token may do is looked up whenever it is used: a user who was
disabled, or lost a grant, is so for the very next call.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Column, Row, Table, Text, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.access import Grant, Principal, Via
from parkfleet.controller.caller import Proof
from parkfleet.controller.database import UNAVAILABLE, Database, metadata
from parkfleet.controller.operator_certificates import OperatorCertificates
from parkfleet.controller.people import USERS, PeopleError, grants_of

#: A working day: signing in each morning is no burden. Seconds.
SESSION_S: Final = 12 * 3600
#: The longest life of an API token; a script that nobody has looked at for a year is to be looked at. Seconds.
MAX_TOKEN_S: Final = 366 * 86400
#: Tokens of one user that are neither revoked nor expired.
MAX_TOKENS: Final = 100

#: While the database is away, who was recognised so long ago at most may go on looking; changes wait anyway, for they
#: are told in it. Somebody who was disabled at another replica meanwhile sees so long what they saw before. Seconds.
GRACE_S: Final = 300
MAX_RECENT: Final = 1000

SESSION: Final = "pfs"
API_TOKEN: Final = "pfa"
_TOKEN = re.compile(rf"({SESSION}|{API_TOKEN})_([0-9a-f]{{12}})_([0-9a-f]{{64}})")

SESSIONS: Final = Table(
    "operator_session",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", Text),
    Column("user_name", Text),
    Column("created_ms", BigInteger),
    Column("expires_ms", BigInteger),
)
TOKENS: Final = Table(
    "api_token",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", Text),
    Column("name", Text),
    Column("user_name", Text),
    Column("grants", Text),
    Column("created_ms", BigInteger),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)


class Issued(NamedTuple):
    """A token that was just made: the only time its secret is there."""

    token: str
    id: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An API token, without its secret."""

    id: str
    name: str
    user: str
    grants: tuple[Grant, ...]
    created_ms: int
    expires_ms: int
    revoked_ms: int | None

    @property
    def prefix(self) -> str:
        """How the token begins: what is shown of it."""
        return f"{API_TOKEN}_{self.id}"


class Credentials:
    """The sessions and API tokens of one database."""

    def __init__(
        self, database: Database, certificates: OperatorCertificates, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._certificates = certificates
        self._clock = clock
        # By the hash of a proof: whom it stood for, and until when that holds while the database is away, ms UTC.
        self._recent: OrderedDict[str, tuple[Principal, int]] = OrderedDict()

    async def open_session(self, user: str) -> Issued:
        """A session of somebody whose password was right."""
        issued, digest = _issue(SESSION, self._now() + SESSION_S * 1000)
        row = {"id": issued.id, "hash": digest, "user_name": user, "created_ms": self._now()}
        async with self._database.write() as connection:
            await connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_ms < self._now()))
            await connection.execute(insert(SESSIONS).values(**row, expires_ms=issued.expires_ms))
        return issued

    async def close_session(self, identity: str) -> None:
        """Ends a session; one that has ended stays so."""
        async with self._database.write() as connection:
            await connection.execute(delete(SESSIONS).where(SESSIONS.c.id == identity))

    async def close_sessions(self, user: str, but: str = "") -> None:
        """Ends all sessions of a user, but the one with that id."""
        async with self._database.write() as connection:
            await connection.execute(delete(SESSIONS).where(SESSIONS.c.user_name == user, SESSIONS.c.id != but))

    async def create_token(self, user: str, name: str, grants: Iterable[Grant], life_s: float) -> Issued:
        """A new API token. Raises PeopleError."""
        issued, digest = _issue(API_TOKEN, self._now() + int(life_s * 1000))
        row = {"id": issued.id, "hash": digest, "user_name": user, "name": name, "created_ms": self._now()}
        row |= {"grants": " ".join(map(str, grants)), "expires_ms": issued.expires_ms}
        async with self._database.write() as connection:
            alive = (TOKENS.c.user_name == user, TOKENS.c.revoked_ms.is_(None), TOKENS.c.expires_ms > self._now())
            names = list((await connection.execute(select(TOKENS.c.name).where(*alive))).scalars())
            if name in names:
                raise PeopleError(f"{user} has a token {name!r} already: revoke it first, or choose another name")
            if len(names) >= MAX_TOKENS:
                raise PeopleError(f"{user} has {MAX_TOKENS} tokens already, the limit: revoke some")
            await connection.execute(insert(TOKENS).values(**row))
        return issued

    async def token(self, identity: str) -> ApiToken | None:
        """The API token with that id."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(TOKENS).where(TOKENS.c.id == identity))).first()
        return _api_token(row) if row else None

    async def tokens(self) -> list[ApiToken]:
        """All API tokens, also revoked and expired ones, the newest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(TOKENS).order_by(TOKENS.c.created_ms.desc(), TOKENS.c.id))
            return [_api_token(row) for row in rows]

    async def revoke_token(self, identity: str) -> None:
        """No use of it any more; revoked once, the time stays."""
        async with self._database.write() as connection:
            mine = (TOKENS.c.id == identity, TOKENS.c.revoked_ms.is_(None))
            await connection.execute(update(TOKENS).where(*mine).values(revoked_ms=self._now()))

    async def recognise(self, proof: Proof) -> Principal | None:
        """Whom a proof stands for; None when it is none, or holds no more.

        While the database is away, as it was at the last call of the last minutes. Raises one of UNAVAILABLE.
        """
        name = _hash(proof.token or proof.certificate.hex())
        try:
            found = await self._look_up(proof)
        except UNAVAILABLE:
            principal, until_ms = self._recent.get(name, (None, 0))
            if self._now() >= until_ms:
                raise
            return principal
        self._recent.pop(name, None)
        if found is not None:
            self._recent[name] = found[0], min(found[1], self._now() + GRACE_S * 1000)
        while len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return found[0] if found else None

    async def _look_up(self, proof: Proof) -> tuple[Principal, int] | None:
        """Whom a proof stands for, and until when, ms UTC."""
        if proof.token:
            match = _TOKEN.fullmatch(proof.token)
            return await self._of_token(match) if match else None
        owner = await self._certificates.owner(proof.certificate) if proof.certificate else None
        if owner is None:
            return None
        async with self._database.read() as connection:
            grants = await _grants_if_enabled(connection, owner.user)
        principal = Principal(owner.user, Via.CERTIFICATE, grants or (), credential=owner.serial)
        return None if grants is None else (principal, owner.expires_ms)

    async def _of_token(self, match: re.Match[str]) -> tuple[Principal, int] | None:
        """Whom a token stands for, and until when, ms UTC."""
        kind, identity, secret = match.groups()
        async with self._database.read() as connection:
            table = SESSIONS if kind == SESSION else TOKENS
            row = (await connection.execute(select(table).where(table.c.id == identity))).first()
            if not hmac.compare_digest(row.hash if row else "", _hash(secret)) or row is None:
                return None
            if row.expires_ms <= self._now() or (kind == API_TOKEN and row.revoked_ms is not None):
                return None
            grants = await _grants_if_enabled(connection, row.user_name)
        if grants is None:
            return None
        if kind == SESSION:
            return Principal(row.user_name, Via.SESSION, grants, credential=identity), row.expires_ms
        found = _api_token(row)
        return Principal(found.user, Via.API_TOKEN, grants, found.grants, identity, found.name), found.expires_ms

    async def expiry_of(self, principal: Principal) -> int:
        """When somebody's session or token ends, ms UTC; 0: it does not."""
        if principal.via is Via.CERTIFICATE:
            found = await self._certificates.find(principal.credential)
            return found.expires_ms if found else 0
        table = {Via.SESSION: SESSIONS, Via.API_TOKEN: TOKENS}.get(principal.via)
        if table is None:
            return 0
        expiry = select(table.c.expires_ms).where(table.c.id == principal.credential)
        async with self._database.read() as connection:
            return int((await connection.execute(expiry)).scalar() or 0)

    async def of_user(self, name: str, via: Via, credential: str) -> Principal | None:
        """Somebody whom other means have recognised, such as a certificate; None when there is no such user."""
        async with self._database.read() as connection:
            grants = await _grants_if_enabled(connection, name)
        return None if grants is None else Principal(name, via, grants, credential=credential)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _issue(kind: str, expires_ms: int) -> tuple[Issued, str]:
    """A new token, and the hash that is kept of it."""
    identity, secret = secrets.token_hex(6), secrets.token_hex(32)
    return Issued(f"{kind}_{identity}_{secret}", identity, expires_ms), _hash(secret)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def _grants_if_enabled(connection: AsyncConnection, name: str) -> tuple[Grant, ...] | None:
    enabled = (await connection.execute(select(USERS.c.enabled).where(USERS.c.name == name))).scalar()
    return await grants_of(connection, name) if enabled else None


def _api_token(row: Row[Any]) -> ApiToken:
    grants = tuple(Grant.parse(text) for text in row.grants.split())
    return ApiToken(row.id, row.name, row.user_name, grants, row.created_ms, row.expires_ms, row.revoked_ms)
