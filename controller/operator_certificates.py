"""OperatorCertificates: certificates with which operators show who they are in TLS. In the database.

They are of the authority that also signs the gateways', and told apart by their name: operator:NAME, which no gateway
can have. What one may do is looked up whenever it is used, as with a session.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Row, Table, Text, insert, select, update

from parkfleet.controller.authority import (
    MAX_COMMON_NAME,
    Authority,
    certificate_of,
    common_name,
    requested_key,
    serial_of,
)
from parkfleet.controller.database import Database, metadata
from parkfleet.controller.people import PeopleError

PREFIX: Final = "operator:"
#: As an API token's. Seconds.
MAX_LIFE_S: Final = 366 * 86400
#: Certificates of one user that hold.
MAX_CERTIFICATES: Final = 20

CERTIFICATES: Final = Table(
    "operator_certificate",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("user_name", Text),
    Column("issued_ms", BigInteger),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)


@dataclass(frozen=True, slots=True)
class OperatorCertificate:
    """A certificate, by its number."""

    serial: str
    user: str
    issued_ms: int
    expires_ms: int
    revoked_ms: int | None


class OperatorCertificates:
    """Those of one database. authority: who signs them; None: nobody here."""

    def __init__(self, database: Database, authority: Authority | None, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._authority = authority
        self._clock = clock

    async def issue(self, user: str, request: bytes, life_s: float) -> tuple[bytes, OperatorCertificate]:
        """A certificate (PEM) for the key of a request (PKCS #10, DER). Raises PeopleError, RequestError."""
        if self._authority is None:
            raise PeopleError("this controller has no authority, which would sign a certificate")
        if not 0 < life_s <= MAX_LIFE_S:
            raise PeopleError(f"a certificate holds for {MAX_LIFE_S // 86400} days at most: --ttl 90d")
        name = f"{PREFIX}{user}"
        if len(name) > MAX_COMMON_NAME:
            raise PeopleError(f"{user} is too long for a certificate, which holds {MAX_COMMON_NAME} characters")
        now = self._clock()
        issued = self._authority.client(name, requested_key(request), now, life_s)
        made = OperatorCertificate(issued.serial, user, int(now * 1000), issued.not_after_ms, None)
        async with self._database.write() as connection:
            holds = (CERTIFICATES.c.revoked_ms.is_(None), CERTIFICATES.c.expires_ms > int(now * 1000))
            found = await connection.execute(select(CERTIFICATES).where(CERTIFICATES.c.user_name == user, *holds))
            if len(found.all()) >= MAX_CERTIFICATES:
                raise PeopleError(f"{user} has {MAX_CERTIFICATES} certificates already, the limit: revoke some")
            row = {"serial": made.serial, "user_name": user, "issued_ms": made.issued_ms, "expires_ms": made.expires_ms}
            await connection.execute(insert(CERTIFICATES).values(**row))
        return issued.pem.encode(), made

    async def owner(self, pem: bytes) -> OperatorCertificate | None:
        """Whose a certificate is that TLS has let through; None when it is no operator's, or holds no more."""
        try:
            certificate = certificate_of(pem)
        except ValueError:
            return None
        name = common_name(certificate)
        found = await self.find(serial_of(certificate)) if name.startswith(PREFIX) else None
        if found is None or found.user != name.removeprefix(PREFIX) or found.revoked_ms is not None:
            return None
        return found if found.expires_ms > int(self._clock() * 1000) else None

    async def find(self, serial: str) -> OperatorCertificate | None:
        """The one with that number."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(CERTIFICATES).where(CERTIFICATES.c.serial == serial))).first()
        return _made(row) if row else None

    async def all(self) -> list[OperatorCertificate]:
        """Every one, the newest first."""
        order = (CERTIFICATES.c.issued_ms.desc(), CERTIFICATES.c.serial)
        async with self._database.read() as connection:
            return [_made(row) for row in await connection.execute(select(CERTIFICATES).order_by(*order))]

    async def revoke(self, serial: str) -> None:
        """No use of it any more."""
        mine = (CERTIFICATES.c.serial == serial, CERTIFICATES.c.revoked_ms.is_(None))
        async with self._database.write() as connection:
            await connection.execute(update(CERTIFICATES).where(*mine).values(revoked_ms=int(self._clock() * 1000)))


def _made(row: Row[Any]) -> OperatorCertificate:
    return OperatorCertificate(row.serial, row.user_name, row.issued_ms, row.expires_ms, row.revoked_ms)
