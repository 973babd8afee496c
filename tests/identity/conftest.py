"""A gatehouse on a database and in a folder of its own; time passes when a test says so."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from parkfleet.controller.database import Database
from parkfleet.controller.enrolments import Application, Outcome
from parkfleet.controller.gatehouse import Gatehouse
from parkfleet.protocols.join_token import JoinToken
from tests.conftest import DatabaseAt

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
LIFE_S = 90 * 86400.0

Make = Callable[..., Awaitable[Gatehouse]]


@dataclass
class Box:
    """A box: its key, and what it asks for."""

    gateway: str = "gw-01"
    park: str = ""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def request(self) -> bytes:
        """PKCS #10."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """The key as it stands in a file."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    async def enrols(self, house: Gatehouse, token: JoinToken) -> Outcome:
        """Applies with a token. Raises IdentityError."""
        wish = Application(token.id, token.secret, self.request, self.gateway, self.park, "ipv4:10.0.0.9:40000")
        return await house.apply(wish)


@dataclass
class Clock:
    """ms UTC."""

    ms: int = NOW_MS

    def __call__(self) -> int:
        return self.ms

    def pass_days(self, days: float) -> None:
        """Moves it on."""
        self.ms += round(days * DAY_MS)


async def new_token(
    house: Gatehouse, park: str = "p1", uses: int = 1, days: float = 1, approve: bool = False
) -> JoinToken:
    """A join token of alice's."""
    facts = ("127.0.0.1:7444", park, uses, round(days * DAY_MS), approve, "alice", "test")
    token, _ = await house.create_token(*facts)
    return token


@pytest.fixture
def clock() -> Clock:
    """The controller's clock."""
    return Clock()


@pytest.fixture
async def house(database_at: DatabaseAt, tmp_path: Path, clock: Clock) -> AsyncIterator[Gatehouse]:
    """On SQLite, and on PostgreSQL."""
    database: Database = await database_at.open()
    yield await Gatehouse.open(database, tmp_path, clock, LIFE_S)
    await database.close()
