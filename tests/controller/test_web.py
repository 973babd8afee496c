"""What a controller tells those who watch over it: metrics, health, reflection."""

import asyncio
import json
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from parkfleet.controller.config_layers import LayerName, read_layer
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.database import Database
from parkfleet.controller.listeners import BindError
from parkfleet.controller.server import ControllerServer
from parkfleet.controller.storage import Storage
from parkfleet.controller.web import WebServer, web_app
from parkfleet.protocols.document import Document
from tests.config.fleet import LAYERS
from tests.controller.raw_agent import RawAgent, goodbye, heartbeat, hello
from tests.eventually import eventually

Status = health_pb2.HealthCheckResponse
#: A line of the format: name, labels, a number.
LINE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? -?\d+(\.\d+)?(e[+-]?\d+)?')


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ControllerServer]:
    """A controller with storage."""
    database = await Database.open(f"sqlite:///{tmp_path}/controller.db")
    storage = await Storage.load(database, SecretBox(b"k" * 32), 'site"a')
    async with ControllerServer("127.0.0.1:0", 10.0, storage=storage) as started:
        yield started
    await database.close()


@pytest.fixture
async def web(server: ControllerServer) -> AsyncIterator[WebServer]:
    """Its pages."""
    async with WebServer(web_app(server), "127.0.0.1:0") as started:
        yield started


async def got(url: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and text of a page."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=20, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def numbers(web: WebServer) -> dict[str, float]:
    """The metrics, by name and labels."""
    code, text = await got(f"{web.url}/metrics")
    assert code == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(LINE.fullmatch(line.replace('\\"', "")) for line in lines), text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_metrics_count_what_happens(server: ControllerServer, web: WebServer) -> None:
    """Gateways by state and drift, sessions, refusals, commits, and the process itself."""
    storage = server._storage
    assert storage is not None
    for layer, text in LAYERS.items():
        document = Document("x.yaml", text)
        name = LayerName.parse(layer)
        proposal = storage.config.propose(name, read_layer(name, document), document)
        await storage.config.store_proposal(proposal, "alice", "begin")
    async with RawAgent(server.address) as one, RawAgent(server.address) as two, RawAgent(server.address) as bad:
        await one.join("gw-02")
        await two.join("gw-03")
        await one.say(heartbeat(sequence=1))
        await two.say(goodbye("enough"))
        await two.ended()
        await bad.say(hello(protocol=9))
        await bad.ended()
        await eventually(lambda: server.fleet.heartbeats == 1 and server.door.counts.refused == 1)
        found = await numbers(web)
    assert found['parkfleet_gateways{state="online"}'] == found['parkfleet_gateways{state="offline"}'] == 1
    assert found['parkfleet_configuration{state="pending"}'] == 1
    assert found['parkfleet_configuration{state="unmanaged"}'] == 2
    assert found["parkfleet_sessions"] == found["parkfleet_heartbeats_total"] == 1
    assert (found["parkfleet_sessions_begun_total"], found["parkfleet_sessions_refused_total"]) == (2, 1)
    assert found["parkfleet_commits_total"] >= 5 and found["parkfleet_storing"] == 1
    assert found["process_resident_memory_bytes"] > 10_000_000 and found["process_open_fds"] > 5


async def test_every_metric_stands_in_the_manual(web: WebServer) -> None:
    """With its meaning."""
    manual = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")
    for name in await numbers(web):
        assert f"`{name.partition('{')[0]}`" in manual, name


async def test_health_says_what_is_wrong(server: ControllerServer, web: WebServer) -> None:
    """With 503, which takes a load balancer's traffic elsewhere; gRPC's health service agrees, and tells watchers."""
    assert await got(f"{web.url}/healthz") == (200, '{"ok":true,"problems":[]}')
    assert (await got(f"{web.url}/"))[0] == 404
    async with aio.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know of no methods
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        replica = server._replica
        assert replica is not None
        replica.recorder.is_storing = False
        assert (await watch.read()).status == Status.NOT_SERVING
        code, text = await got(f"{web.url}/healthz")
        assert (code, json.loads(text)["problems"]) == (503, ["the database is away: nothing can be stored"])
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == Status.NOT_SERVING
        replica.recorder.is_storing = True
        assert (await watch.read()).status == Status.SERVING
        request = health_pb2.HealthCheckRequest(service="parkfleet.v1.AgentSession")
        assert (await health.Check(request)).status == Status.SERVING
        with pytest.raises(aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


async def test_reflection_names_every_service(server: ControllerServer) -> None:
    """So that grpcurl and its kind need no .proto files."""
    async with aio.insecure_channel(server.address) as channel:
        make: Any = reflection_pb2_grpc.ServerReflectionStub  # its stubs know of no aio
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = make(channel).ServerReflectionInfo(iter([request]))
        names = {service.name for service in (await answers.read()).list_services_response.service}
    assert names >= {"parkfleet.v1.AgentSession", "parkfleet.v1.Fleet", "parkfleet.v1.FleetConfiguration"}
    assert "grpc.health.v1.Health" in names


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    certificate, key = tmp_path / "web.pem", tmp_path / "web.key"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *subject)
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_pages_over_https(server: ControllerServer, pair: tuple[Path, Path]) -> None:
    """With the certificate that it was given; one that cannot be used is told."""
    certificate, key = pair
    context = ssl.create_default_context(cafile=str(certificate))
    async with WebServer(web_app(server), "127.0.0.1:0", certificate, key) as web:
        assert web.url.startswith("https://")
        assert (await got(f"{web.url}/healthz", context))[0] == 200
    key.write_text("none")
    with pytest.raises(BindError, match="cannot use the certificate"):
        async with WebServer(web_app(server), "127.0.0.1:0", certificate, key):
            pass


async def test_a_port_that_is_taken_is_told(server: ControllerServer, web: WebServer) -> None:
    """In a sentence."""
    with pytest.raises(BindError, match="Address already in use"):
        async with WebServer(web_app(server), f"127.0.0.1:{web.port}"):
            pass


async def test_a_controller_without_storage_has_metrics_too() -> None:
    """Fewer."""
    async with AsyncExitStack() as life:
        plain = await life.enter_async_context(ControllerServer("127.0.0.1:0", 10.0))
        web = await life.enter_async_context(WebServer(web_app(plain), "127.0.0.1:0"))
        found = await numbers(web)
        assert found["parkfleet_sessions"] == 0 and "parkfleet_commits_total" not in found
