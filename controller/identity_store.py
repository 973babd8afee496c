"""Identity store: which gateway has which certificates, and which of them are revoked.

Invariants: a gateway's name belongs to one box at a time; who is issued a certificate stands here before he has it;
revoking is for ever: a box comes back by enrolling anew, after `replace` has opened its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from parkfleet.controller.authority import Authority, Issued
from parkfleet.controller.bus import Bus
from parkfleet.controller.database import Database, upsert
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.identity_tables import authority as authority_table
from parkfleet.controller.identity_tables import gateway_certificate as certificates
from parkfleet.controller.identity_tables import gateway_identity as identities
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.certificate import moment

#: On the bus: a gateway some of whose certificates were revoked.
TOPIC: Final = "identity"
#: A stream may be older than its certificate: what was revoked within so long counts although it has ended. Seconds.
STILL_TOLD_S: Final = 30 * 86400.0
#: A gateway's certificates are forgotten so long after their end; revoked ones never. Seconds.
FORGET_S: Final = 365 * 86400.0


@dataclass(frozen=True)
class GatewayIdentity:
    """A gateway as it is enrolled. Times in ms UTC."""

    key: GatewayKey
    enrolled_ms: int
    replace_until_ms: int | None
    revoked_ms: int | None
    revoked_by: str
    revoked_reason: str
    not_after_ms: int | None = None  # of its newest certificate

    def revoked_told(self) -> str:
        """Why its box does not get in."""
        at = moment((self.revoked_ms or 0) / 1000)
        why = f": {self.revoked_reason}" if self.revoked_reason else ""
        return f"gateway {self.key} was revoked on {at} by {self.revoked_by}{why}"


@dataclass(frozen=True)
class Revoked:
    """A certificate that is revoked."""

    serial: str
    at_ms: int
    told: str  # why, for its gateway


class IdentityStore:
    """The identities of all gateways."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def bind(self, authority: Authority, now_ms: int) -> bool:
        """Ties the database to one authority; whether it is that one."""
        row = {
            "fingerprint": authority.fingerprint.hex(),
            "certificate": authority.pem.decode(),
            "created_ms": now_ms,
        }
        async with self._database.write() as connection:
            known = (await connection.execute(select(authority_table.c.fingerprint))).scalar()
            if known is None:
                await connection.execute(insert(authority_table).values(row))
            return known in (None, row["fingerprint"])

    async def page(self, after: GatewayKey, limit: int, park: str = "") -> list[GatewayIdentity]:
        """So many enrolled gateways of a park, or of all (""), by name, those after a key."""
        newest = (
            select(certificates.c.not_after_ms)
            .where(certificates.c.park == identities.c.park, certificates.c.gateway == identities.c.gateway)
            .order_by(certificates.c.issued_ms.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = (
            select(identities, newest.label("not_after_ms"))
            .where(tuple_(identities.c.park, identities.c.gateway) > tuple_(after.park, after.gateway))
            .order_by(identities.c.park, identities.c.gateway)
            .limit(limit)
        )
        if park:
            query = query.where(identities.c.park == park)
        async with self._database.read() as connection:
            return [_identity(row) for row in await connection.execute(query)]

    async def one(self, key: GatewayKey) -> GatewayIdentity | None:
        """A gateway, if it is enrolled."""
        async with self._database.read() as connection:
            return await _found(connection, key)

    async def issued(self, key: GatewayKey) -> Sequence[Row[Any]]:
        """Its certificates, the newest first."""
        query = select(certificates).where(_of(key)).order_by(certificates.c.issued_ms.desc())
        async with self._database.read() as connection:
            return (await connection.execute(query)).all()

    async def revoked(self, now_ms: int) -> list[Revoked]:
        """Every revoked certificate on which somebody may still live, the first revoked first."""
        same = (identities.c.park == certificates.c.park) & (identities.c.gateway == certificates.c.gateway)
        query = (
            select(identities, certificates.c.serial, certificates.c.revoked_ms.label("at_ms"))
            .join(certificates, same)
            .where((certificates.c.not_after_ms > now_ms) | (certificates.c.revoked_ms > now_ms - STILL_TOLD_S * 1000))
            .where(certificates.c.revoked_ms.is_not(None))
            .order_by(certificates.c.revoked_ms)
        )
        async with self._database.read() as connection:
            return [_revoked(dict(row._mapping)) for row in await connection.execute(query)]

    async def revoke(self, key: GatewayKey, by: str, reason: str, now_ms: int) -> GatewayIdentity:
        """All its certificates, for ever. Raises IdentityError."""
        async with self._database.write() as connection:
            if (known := await _found(connection, key, lock=True)) is None:
                raise _unknown(key)
            if known.revoked_ms is None:
                values = {"revoked_ms": now_ms, "revoked_by": by, "revoked_reason": reason, "replace_until_ms": None}
                await connection.execute(update(identities).where(_named(key)).values(values))
            await _revoke_certificates(connection, key, reason or "revoked", now_ms)
            await self._bus.tell(connection, TOPIC, str(key))
            found = await _found(connection, key)
            assert found is not None
            return found

    async def open_for_replacement(self, key: GatewayKey, until_ms: int) -> GatewayIdentity:
        """Until then another box may take the name. Raises IdentityError."""
        async with self._database.write() as connection:
            await connection.execute(update(identities).where(_named(key)).values(replace_until_ms=until_ms))
            if (found := await _found(connection, key)) is None:
                raise _unknown(key)
            return found

    async def renew(self, key: GatewayKey, serial: str, issued: Issued, again_ms: int, now_ms: int) -> str:
        """Keeps a further certificate for who has shown the one of that serial; the one he gets, as PEM.

        again_ms: who asks again within so long, because the answer was lost, gets the same. Raises IdentityError when
        he is revoked.
        """
        async with self._database.write() as connection:
            known = await _found(connection, key, lock=True)
            if known is None:
                raise IdentityError(Fault.REFUSED, f"gateway {key} is not known here any more: enrol it anew")
            if known.revoked_ms is not None:
                raise IdentityError(Fault.REFUSED, known.revoked_told())
            shown = (await connection.execute(select(certificates).where(certificates.c.serial == serial))).first()
            if shown is not None and shown.revoked_ms is not None:
                at = moment(shown.revoked_ms / 1000)
                told = f"this certificate of {key} was revoked on {at}: {shown.revoked_reason}"
                raise IdentityError(Fault.REFUSED, told)
            since_ms = max(now_ms - again_ms, shown.issued_ms if shown is not None else 0)
            if (again := await _issued_since(connection, key, issued.key_hash, since_ms)) is not None:
                return again
            await keep(connection, key, issued, "renewed", now_ms)
            await _forget(connection, key, serial, now_ms)
            return issued.pem


async def claim(connection: AsyncConnection, bus: Bus, key: GatewayKey, now_ms: int) -> bool:
    """Gives a name to a new box; whether it takes the place of another. Raises IdentityError."""
    row = {"park": key.park, "gateway": key.gateway, "enrolled_ms": now_ms, "revoked_by": "", "revoked_reason": ""}
    statement = upsert(connection, identities).values(row).on_conflict_do_nothing()
    if (await connection.execute(statement)).rowcount:
        return False
    await check_free(connection, key, now_ms)
    await _revoke_certificates(connection, key, "another box has taken its place", now_ms)
    await bus.tell(connection, TOPIC, str(key))
    row |= {"replace_until_ms": None, "revoked_ms": None}
    await connection.execute(update(identities).where(_named(key)).values(row))
    return True


async def check_free(connection: AsyncConnection, key: GatewayKey, now_ms: int) -> None:
    """Raises IdentityError when a name is another box's."""
    known = await _found(connection, key, lock=True)
    if known is None or (known.replace_until_ms or 0) > now_ms:
        return
    raise IdentityError(
        Fault.TAKEN,
        f"gateway {key} is enrolled already: choose another name with --gateway, or, if this box takes its place, "
        f"have an operator open it: parkfleet fleet gateway replace {key}",
    )


async def keep(connection: AsyncConnection, key: GatewayKey, issued: Issued, cause: str, now_ms: int) -> None:
    """A certificate that is about to be handed out."""
    row = {
        "serial": issued.serial,
        "park": key.park,
        "gateway": key.gateway,
        "key_hash": issued.key_hash,
        "cause": cause,
        "issued_ms": now_ms,
        "not_after_ms": issued.not_after_ms,
        "certificate": issued.pem,
        "revoked_reason": "",
    }
    await connection.execute(insert(certificates).values(row))


async def _issued_since(connection: AsyncConnection, key: GatewayKey, key_hash: str, since_ms: int) -> str | None:
    """The newest certificate of a key that was issued after a time, as PEM."""
    of_key = (certificates.c.key_hash == key_hash, certificates.c.revoked_ms.is_(None))
    query = select(certificates.c.certificate).where(_of(key), certificates.c.issued_ms > since_ms, *of_key)
    found = (await connection.execute(query.order_by(certificates.c.issued_ms.desc()).limit(1))).scalar()
    return None if found is None else str(found)


async def _revoke_certificates(connection: AsyncConnection, key: GatewayKey, reason: str, now_ms: int) -> None:
    statement = update(certificates).where(_of(key), certificates.c.revoked_ms.is_(None))
    await connection.execute(statement.values(revoked_ms=now_ms, revoked_reason=reason))


async def _forget(connection: AsyncConnection, key: GatewayKey, shown: str, now_ms: int) -> None:
    """Those that ended long ago, but for the one that was shown just now."""
    ended = certificates.c.not_after_ms < now_ms - int(FORGET_S * 1000)
    old = (_of(key), ended, certificates.c.revoked_ms.is_(None), certificates.c.serial != shown)
    await connection.execute(delete(certificates).where(*old))


async def _found(connection: AsyncConnection, key: GatewayKey, lock: bool = False) -> GatewayIdentity | None:
    query = select(identities).where(_named(key))
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    return None if row is None else _identity(row)


def _identity(row: Any) -> GatewayIdentity:
    columns = dict(row._mapping)
    return GatewayIdentity(GatewayKey(columns.pop("park"), columns.pop("gateway")), **columns)


def _revoked(columns: dict[str, Any]) -> Revoked:
    serial, at_ms = columns.pop("serial"), columns.pop("at_ms")
    identity = GatewayIdentity(GatewayKey(columns.pop("park"), columns.pop("gateway")), **columns)
    if identity.revoked_ms is not None:
        return Revoked(serial, at_ms, identity.revoked_told())
    return Revoked(serial, at_ms, f"another box has taken the place of this one as gateway {identity.key}")


def _named(key: GatewayKey) -> Any:
    return (identities.c.park == key.park) & (identities.c.gateway == key.gateway)


def _of(key: GatewayKey) -> Any:
    return (certificates.c.park == key.park) & (certificates.c.gateway == key.gateway)


def _unknown(key: GatewayKey) -> IdentityError:
    return IdentityError(Fault.UNKNOWN, f"no gateway {key} is enrolled: see `parkfleet fleet gateway list`")
