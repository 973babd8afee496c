"""A site with real controller processes and a simulated fleet in this process: what the fault tests break."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from parkfleet.agent.identity import Credentials
from parkfleet.controller.access import Grant
from parkfleet.controller.authority import Authority
from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_client import ConfigClient
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import ConfigStore
from parkfleet.controller.credentials import SESSIONS
from parkfleet.controller.database import Database
from parkfleet.controller.people import People
from parkfleet.controller.view import GatewayView
from parkfleet.proto import config_pb2 as pb
from parkfleet.protocols.certificate import validity
from parkfleet.protocols.document import Document
from parkfleet.simulators.fleet.gateway import SimulatedGateway
from tests.config.fleet import LAYERS
from tests.eventually import eventually_so
from tests.identity.guarded import Guarded

REGION = "region/north"
#: Of alice's session.
TOKEN = f"pfs_{'0' * 12}_{'0' * 64}"
DAY_S = 86400.0
#: Pauses before a gateway's next try, so that a test need not wait for those of real life. Seconds.
SOON = (0.2, 2.0)


def credentials(authority: Authority, key: ec.EllipticCurvePrivateKey, name: str) -> Credentials:
    """A gateway's, as if it had enrolled; one key for all saves the time to make them."""
    issued = authority.client(name, key.public_key(), time.time(), DAY_S)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = issued.pem.encode()
    return Credentials(authority.pem, pem, chain, validity(chain))


def gateways(data: Path, number: int, url: Callable[[], str], trial_s: float = 0.0) -> list[SimulatedGateway]:
    """So many of park p1, enrolled at the authority in a controller's folder."""
    authority = Authority.at(data, time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    return [
        SimulatedGateway("p1", name, url, credentials(authority, key, f"p1/{name}"), trial_s, reconnect_s=SOON)
        for name in names(number)
    ]


def names(number: int) -> list[str]:
    """Of gateways."""
    return [f"gw-{one:05}" for one in range(number)]


@asynccontextmanager
async def running(fleet: Iterable[SimulatedGateway]) -> AsyncIterator[None]:
    """The gateways while the block runs."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(gateway.run()) for gateway in fleet]
        try:
            yield
        finally:
            for task in started:
                task.cancel()


async def prepare(data: Path, number: int, url: str = "", password: str | None = None) -> None:
    """A configuration for so many gateways, and alice, who has signed in, before any controller runs."""
    data.mkdir(exist_ok=True)
    database = await Database.open(url or f"sqlite:///{data}/controller.db", password)
    store = ConfigStore(database, SecretBox.at(data / "secrets.key"))
    layers = {layer: text for layer, text in LAYERS.items() if not layer.startswith("gateway/")}
    layers |= {f"gateway/p1/{name}": LAYERS["gateway/p1/gw-01"] for name in names(number)}
    for layer, text in layers.items():
        name = LayerName.parse(layer)
        await store.append(name, read_layer(name, Document("x.yaml", text)), "alice", "begin", 1000, 0)
    await People(database).add("alice", "no password", [Grant.parse("admin@fleet")])
    _, identity, secret = TOKEN.split("_")
    session = {"id": identity, "hash": hashlib.sha256(secret.encode()).hexdigest(), "user_name": "alice"}
    async with database.write() as connection:
        await connection.execute(insert(SESSIONS).values(**session, created_ms=0, expires_ms=2**53))
    await database.close()


class Operator:
    """Who asks one controller process."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client
        self._config = ConfigClient(client)

    async def set(self, layer: str, key: str, value: str) -> int:
        """Changes a layer; the revision, once the controller has said that it is stored. Raises FleetError."""
        setting = pb.Setting(key=key, value=value)
        request = pb.ChangeLayerRequest(
            layer=layer, author="alice", reason="test", settings=pb.Settings(settings=[setting])
        )
        outcome = await self._config.change(request)
        assert outcome.result.HasField("stored"), outcome.problems
        return int(outcome.result.stored.revision)

    async def history(self, layer: str) -> list[int]:
        """The numbers of a layer's revisions, the newest first."""
        answer = await self._config.call("GetHistory", pb.GetHistoryRequest(layer=layer, limit=100))
        return [entry.info.revision for entry in answer.entries]

    async def listed(self) -> list[GatewayView]:
        """The fleet."""
        return await self._client.list_gateways()

    async def sees(self, condition: Callable[[list[GatewayView]], bool], within_s: float = 60.0) -> None:
        """Waits until the fleet is so."""

        async def so() -> bool:
            return condition(await self.listed())

        await eventually_so(so, within_s)


@asynccontextmanager
async def operator(controller: Guarded) -> AsyncIterator[Operator]:
    """An operator's connection to a controller process."""
    ca = (controller.data / "ca.pem").read_bytes()
    async with FleetClient(controller.operators, token=TOKEN, ca=ca) as client:
        yield Operator(client)


def same_authority(one: Path, other: Path) -> None:
    """What the manual says to copy for another replica."""
    other.mkdir(parents=True, exist_ok=True)
    for name in ("authority.pem", "secrets.key"):
        shutil.copy(one / name, other / name)
