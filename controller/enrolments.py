"""Enrolments: how a box with a join token becomes a gateway with a certificate: at once, or when an operator says yes.

One key enrols once with a token: whoever asks again with both, because an answer was lost or approval takes its time,
gets what became of the first request, and uses the token no further.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.authority import MAX_COMMON_NAME, Authority, Issued, key_hash, requested_key
from parkfleet.controller.bus import Bus
from parkfleet.controller.database import Database
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.identity_store import check_free, claim, keep
from parkfleet.controller.identity_tables import enrolment, gateway_certificate
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.token_store import TokenInfo, proven, take_use


@dataclass(frozen=True)
class Application:
    """What a box asks for."""

    token: str
    secret: bytes
    request: bytes  # PKCS #10, DER
    gateway: str  # the name it would like
    park: str  # the one it expects; "" for whichever the token says
    peer: str


@dataclass(frozen=True)
class Pending:
    """A request an operator is to decide. Times in ms UTC."""

    number: int
    key: GatewayKey
    token: str
    key_hash: str
    peer: str
    requested_ms: int


@dataclass(frozen=True)
class Outcome:
    """What became of an application: a certificate, or None while it waits."""

    key: GatewayKey
    certificate: str | None  # PEM
    new: bool  # not asked before
    replaced: bool = False  # another box had the name


class Enrolments:
    """All requests to become a gateway. life_s: seconds for which a certificate holds."""

    def __init__(self, database: Database, authority: Authority, life_s: float, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._authority = authority
        self._life_s = life_s

    async def apply(self, application: Application, now_ms: int) -> Outcome:
        """Takes an application. Raises IdentityError, RequestError."""
        key = requested_key(application.request)
        async with self._database.write() as connection:
            token = await proven(connection, application.token, application.secret)
            same = (enrolment.c.token == token.id, enrolment.c.key_hash == key_hash(key))
            before = (await connection.execute(select(enrolment).where(*same))).first()
            if before is not None:
                return await self._again(connection, before, token)
            name = _named(application, token)
            await take_use(connection, token, now_ms)
            row = _row(application, name, key_hash(key), now_ms)
            if token.approve:
                await check_free(connection, name, now_ms)
                await connection.execute(insert(enrolment).values(row))
                return Outcome(name, None, new=True)
            issued, replaced = await self._issue(connection, name, application.request, now_ms)
            row |= {"state": "issued", "serial": issued.serial, "decided_ms": now_ms, "decided_by": token.author}
            await connection.execute(insert(enrolment).values(row))
            return Outcome(name, issued.pem, new=True, replaced=replaced)

    async def pending(self, park: str = "") -> list[Pending]:
        """Requests that wait, the oldest first."""
        query = select(enrolment).where(enrolment.c.state == "pending").order_by(enrolment.c.number)
        if park:
            query = query.where(enrolment.c.park == park)
        async with self._database.read() as connection:
            return [_pending(row) for row in await connection.execute(query)]

    async def approve(self, number: int, park: str, by: str, now_ms: int) -> Outcome:
        """Says yes to a request: its box has a certificate when it asks again. Raises IdentityError."""
        async with self._database.write() as connection:
            waiting = await _waiting(connection, number, park)
            request = bytes.fromhex(waiting.request)
            name = GatewayKey(waiting.park, waiting.gateway)
            issued, replaced = await self._issue(connection, name, request, now_ms)
            decided = {"state": "issued", "serial": issued.serial, "decided_ms": now_ms, "decided_by": by}
            await connection.execute(update(enrolment).where(enrolment.c.number == number).values(decided))
            return Outcome(name, issued.pem, new=False, replaced=replaced)

    async def deny(self, number: int, park: str, by: str, reason: str, now_ms: int) -> GatewayKey:
        """Says no to a request. Raises IdentityError."""
        async with self._database.write() as connection:
            waiting = await _waiting(connection, number, park)
            decided = {"state": "denied", "decided_ms": now_ms, "decided_by": by, "reason": reason}
            await connection.execute(update(enrolment).where(enrolment.c.number == number).values(decided))
            return GatewayKey(waiting.park, waiting.gateway)

    async def _again(self, connection: AsyncConnection, before: Any, token: TokenInfo) -> Outcome:
        """What became of a request that was made before. Raises IdentityError."""
        name = GatewayKey(before.park, before.gateway)
        if before.state == "denied":
            why = f": {before.reason}" if before.reason else ""
            raise IdentityError(Fault.REFUSED, f"{before.decided_by} denied {name} its enrolment{why}")
        if before.state == "pending":
            if token.revoked_ms is not None:
                raise IdentityError(Fault.REFUSED, f"join token {token.id} was revoked while {name} was waiting")
            return Outcome(name, None, new=False)
        of_serial = gateway_certificate.c.serial == before.serial
        found = (await connection.execute(select(gateway_certificate).where(of_serial))).first()
        if found is None or found.revoked_ms is not None:
            why = f" ({found.revoked_reason})" if found is not None else ""
            told = f"the certificate that {name} had of this token was revoked{why}: enrol with another token"
            raise IdentityError(Fault.REFUSED, told)
        return Outcome(name, found.certificate, new=False)

    async def _issue(
        self, connection: AsyncConnection, name: GatewayKey, request: bytes, now_ms: int
    ) -> tuple[Issued, bool]:
        """A new box's certificate, and whether it takes the place of another. Raises IdentityError."""
        replaced = await claim(connection, self._bus, name, now_ms)
        issued = self._authority.client(str(name), requested_key(request), now_ms / 1000, self._life_s)
        await keep(connection, name, issued, "enrolled", now_ms)
        return issued, replaced


async def _waiting(connection: AsyncConnection, number: int, park: str) -> Any:
    query = select(enrolment).where(enrolment.c.number == number).with_for_update()
    found = (await connection.execute(query)).first()
    if found is None or park not in ("", found.park):
        raise IdentityError(Fault.UNKNOWN, f"there is no request {number}: see `parkfleet fleet gateway pending`")
    if found.state != "pending":
        told = f"request {number} of {found.park}/{found.gateway} is {found.state} already, by {found.decided_by}"
        raise IdentityError(Fault.REFUSED, told)
    return found


def _named(application: Application, token: TokenInfo) -> GatewayKey:
    """The name it will have. Raises IdentityError."""
    if application.park not in ("", token.park):
        told = f"the token is of park {token.park}, this gateway's configuration says {application.park}"
        raise IdentityError(Fault.WRONG, f"{told}: have a token made for that park, or correct gateway.yaml")
    name = GatewayKey(token.park, application.gateway)
    if len(str(name)) > MAX_COMMON_NAME:
        told = f"the certificate's name {name} would have {len(str(name))} characters, {MAX_COMMON_NAME} are allowed"
        raise IdentityError(Fault.WRONG, f"{told}: choose a shorter one with --gateway")
    return name


def _row(application: Application, name: GatewayKey, key: str, now_ms: int) -> dict[str, Any]:
    return {
        "token": application.token,
        "park": name.park,
        "gateway": name.gateway,
        "key_hash": key,
        "request": application.request.hex(),
        "peer": application.peer,
        "requested_ms": now_ms,
        "state": "pending",
        "decided_by": "",
        "reason": "",
        "serial": "",
    }


def _pending(row: Any) -> Pending:
    name = GatewayKey(row.park, row.gateway)
    return Pending(row.number, name, row.token, row.key_hash, row.peer, row.requested_ms)
