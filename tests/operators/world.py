"""A controller with people, in this process: real gRPC, a real database, and whoever a test needs to call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from parkfleet.controller.access import Grant
from parkfleet.controller.client import FleetClient
from parkfleet.controller.config_access import ConfigBelonging
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.database import Database
from parkfleet.controller.operators import Operators
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.proto import config_pb2, fleet_pb2, operators_pb2
from parkfleet.proto.config_pb2_grpc import FleetConfigurationStub
from parkfleet.proto.fleet_pb2_grpc import FleetStub
from parkfleet.proto.operators_pb2_grpc import AuditStub, OperatorsStub
from parkfleet.protocols.document import Document
from tests.conftest import DatabaseAt

#: Layers of a region with two parks, a park outside it, and a label across.
LAYERS = {
    "region/north": "broker: {url: mqtt://10.0.0.1:1883}\ncontroller: {url: 10.0.0.2:7443}\n",
    "park/p1": "region: north\nlabels: [lte]\n",
    "park/p2": "region: north\n",
    "park/p3": "broker: {url: mqtt://10.0.0.3:1883}\ncontroller: {url: 10.0.0.2:7443}\n",
    "label/lte": "buffer: {flush: 60s}\n",
    **{
        f"gateway/{park}/gw-01": "lines: [{id: hall, url: tcp://10.0.0.5}]\n"
        "meters: [{id: m01, line: hall, unit: 1, profile: schneider-iem3155}]\n"
        for park in ("p1", "p2", "p3")
    },
}

STUBS: dict[str, Any] = {
    "Fleet": FleetStub,
    "FleetConfiguration": FleetConfigurationStub,
    "Operators": OperatorsStub,
    "Audit": AuditStub,
}


@dataclass
class World:
    """The controller, and its clock, which a test may set on."""

    server: ControllerServer
    operators: Operators
    database: Database
    config: ConfigFleet
    now: list[float] = field(default_factory=lambda: [1_790_000_000.0])

    async def user(self, name: str, *grants: str) -> str:
        """A user without a password that anybody knows, and the token of a session of theirs."""
        await self.operators.people.add(name, "no hash", map(Grant.parse, grants))
        return (await self.operators.credentials.open_session(name)).token

    async def call(self, token: str, method: str, request: Any) -> Any:
        """One call; of a stream, all answers. Raises AioRpcError."""
        service, _, name = method.partition("/")
        async with FleetClient(self.server.address, token=token) as client:
            answer = getattr(STUBS[service](client.channel), name)(request)
            if isinstance(answer, aio.UnaryStreamCall):
                return [one async for one in answer]
            return await answer

    async def code(self, token: str, method: str, request: Any) -> grpc.StatusCode:
        """How a call ends."""
        try:
            await self.call(token, method, request)
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def audit(self) -> list[dict[str, Any]]:
        """The newest entries, the newest first, with those that tell of a beginning."""
        head = await self.operators.audit.head()
        return list(reversed(await self.operators.audit.page(max(0, head.number - 50))))


@asynccontextmanager
async def world(database_at: DatabaseAt) -> AsyncIterator[World]:
    """A controller with the layers above and nobody in it."""
    database = await database_at.open()
    storage = await Storage.load(database, SecretBox(b"k" * 32))
    config = storage.config
    for layer, text in LAYERS.items():
        name, document = LayerName.parse(layer), Document("x.yaml", text)
        await config.store_proposal(config.propose(name, read_layer(name, document), document), "founder", "begin")
    now = [1_790_000_000.0]
    operators = Operators(database, ConfigBelonging(config), lambda: now[0])
    try:
        async with ControllerServer("127.0.0.1:0", 10.0, storage=storage, operators=operators) as server:
            yield World(server, operators, database, config, now)
    finally:
        await database.close()


def change(layer: str, key: str, value: str, dry_run: bool = False) -> config_pb2.ChangeLayerRequest:
    """A change of one value."""
    request = config_pb2.ChangeLayerRequest(layer=layer, reason="test", author="somebody else", dry_run=dry_run)
    request.settings.settings.add(key=key, value=value)
    return request


LIST = fleet_pb2.ListGatewaysRequest()
WHO = operators_pb2.WhoAmIRequest()


def sqlite_at(folder: Path) -> DatabaseAt:
    """A database in a folder."""
    return DatabaseAt(f"sqlite:///{folder}/controller.db")
