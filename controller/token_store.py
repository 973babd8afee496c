"""Token store: join tokens in the database: their hash, whose they are, how often they were used."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.database import Database
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.identity_tables import join_token
from parkfleet.protocols.certificate import moment
from parkfleet.protocols.join_token import JoinToken

#: A token for the whole fleet is a mistake, and one that never ends too. Uses, and seconds.
MAX_USES: Final = 10_000
TTL_S: Final = (60.0, 365 * 86400.0)


@dataclass(frozen=True)
class TokenInfo:
    """A token without its secret. Times in ms UTC."""

    id: str
    park: str
    uses: int
    used: int
    approve: bool  # an operator says yes to each gateway
    created_ms: int
    expires_ms: int
    author: str
    reason: str
    revoked_ms: int | None = None
    revoked_by: str = ""

    def state(self, now_ms: int) -> str:
        """active, or why it opens no door any more: revoked, expired, used up."""
        if self.revoked_ms is not None:
            return "revoked"
        if self.expires_ms <= now_ms:
            return "expired"
        return "used up" if self.used >= self.uses else "active"


class TokenStore:
    """All join tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: JoinToken, info: TokenInfo) -> None:
        """Keeps a new token; of its secret only the hash."""
        async with self._database.write() as connection:
            row = {**vars(info), "hash": hashlib.sha256(token.secret).digest()}
            await connection.execute(insert(join_token).values(row))

    async def all(self) -> list[TokenInfo]:
        """The newest first; those that ended too."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(join_token).order_by(join_token.c.created_ms.desc()))
            return [_info(row) for row in rows]

    async def revoke(self, token: str, park: str, by: str, now_ms: int) -> TokenInfo:
        """A token of a park, or of any (""), opens no door any more. Raises IdentityError."""
        async with self._database.write() as connection:
            same = join_token.c.id == token
            row = (await connection.execute(select(join_token).where(same).with_for_update())).first()
            if row is None or park not in ("", row.park):
                raise IdentityError(Fault.UNKNOWN, f"there is no token {token}: see `parkfleet fleet token list`")
            if row.revoked_ms is None:
                await connection.execute(update(join_token).where(same).values(revoked_ms=now_ms, revoked_by=by))
            return _info((await connection.execute(select(join_token).where(same))).one())


async def proven(connection: AsyncConnection, token: str, secret: bytes) -> TokenInfo:
    """The token whose secret that is, kept from others until the transaction ends. Raises IdentityError."""
    row = (await connection.execute(select(join_token).where(join_token.c.id == token).with_for_update())).first()
    if row is None or not hmac.compare_digest(bytes(row.hash), hashlib.sha256(secret).digest()):
        raise IdentityError(Fault.UNPROVEN, "this join token is not known here: have another one made")
    return _info(row)


async def take_use(connection: AsyncConnection, token: TokenInfo, now_ms: int) -> None:
    """One use of a token that is proven. Raises IdentityError when it opens no door any more."""
    match token.state(now_ms):
        case "revoked":
            raise IdentityError(Fault.REFUSED, f"join token {token.id} was revoked: have another one made")
        case "expired":
            end = moment(token.expires_ms / 1000)
            raise IdentityError(Fault.REFUSED, f"join token {token.id} expired on {end}: have another one made")
        case "used up":
            told = f"join token {token.id} has been used {token.used} of {token.uses} times: have another one made"
            raise IdentityError(Fault.REFUSED, told)
    used = update(join_token).where(join_token.c.id == token.id).values(used=join_token.c.used + 1)
    await connection.execute(used)


def _info(row: Any) -> TokenInfo:
    columns = {key: value for key, value in row._mapping.items() if key != "hash"}
    return TokenInfo(**columns)
