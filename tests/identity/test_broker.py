"""The broker: Debian's mosquitto with what `controller broker-config` made: who may what, and who may not."""

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parkfleet.controller.database import Database
from parkfleet.controller.gatehouse import Gatehouse
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, PublishRefusedError
from parkfleet.simulators.processes import Child
from tests.eventually import eventually
from tests.identity.conftest import LIFE_S, Box, Clock, new_token
from tests.identity.guarded_broker import GuardedBroker

GW = GatewayKey("p1", "gw-01")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Gatehouse]:
    """By the real clock, for TLS looks at it too."""
    database = await Database.open(f"sqlite:///{tmp_path}/house.db")
    yield await Gatehouse.open(database, tmp_path / "data", lambda: time.time_ns() // 1_000_000, LIFE_S)
    await database.close()


@pytest.fixture
async def guarded_broker(house: Gatehouse, tmp_path: Path) -> AsyncIterator[tuple[GuardedBroker, Child]]:
    """A broker that runs."""
    broker = GuardedBroker(tmp_path / "data", tmp_path)
    broker.main.write_text("user root\n" + await broker.configure())
    async with broker.child() as child:
        await eventually(lambda: "running" in child.output() or not child.running)
        assert child.running, child.output()
        yield broker, child


async def identity(house: Gatehouse, folder: Path, name: str) -> Path:
    """The folder of an enrolled gateway."""
    box = Box(name)
    outcome = await box.enrols(house, await new_token(house))
    assert outcome.certificate is not None
    (folder / name).mkdir()
    (folder / name / "gateway.pem").write_bytes(box.key_pem + outcome.certificate.encode())
    return folder / name


async def refuses(broker: BrokerConfig) -> str:
    """Why a connection does not come about."""
    with pytest.raises(BrokerError) as caught:
        connection = await MqttConnection.open(broker, "x")
        await connection.lost  # the end of the handshake as TLS 1.3 tells it: after it
        raise connection.error()
    return str(caught.value)


async def test_gateway_writes_its_own_topics_only(
    house: Gatehouse, guarded_broker: tuple[GuardedBroker, Child], tmp_path: Path
) -> None:
    """And reads its own requests only, whatever it subscribes to; a consumer reads all, and may request."""
    broker, _ = guarded_broker
    heard: dict[str, list[str]] = {"gateway": [], "consumer": []}
    gateway = await MqttConnection.open(
        broker.as_gateway(await identity(house, tmp_path, "gw-01")),
        "any",
        on_message=lambda topic, *_: heard["gateway"].append(topic),
    )
    consumer = await MqttConnection.open(
        broker.as_consumer(), "sink", on_message=lambda topic, *_: heard["consumer"].append(topic)
    )
    await gateway.subscribe("pf/v1/#", "pf/v1/p1/gw-01/request", "pf/v1/p1/gw-02/request")
    await consumer.subscribe("pf/v1/#")
    own = [f"pf/v1/p1/gw-01/{channel}" for channel in ("batch", "event", "status", "schema/0123abcd")]
    for topic in own:
        await gateway.publish(topic, b"x")
    foreign = ["pf/v1/p1/gw-02/batch", "pf/v1/p2/gw-01/batch", "pf/v1/p1/gw-01/request", "pf/v1/p1/gw-01", "other"]
    for topic in foreign:
        with pytest.raises(PublishRefusedError, match="Not authorized"):
            await gateway.publish(topic, b"x")
    with pytest.raises(PublishRefusedError, match="Not authorized"):
        await consumer.publish(own[0], b"x")
    await consumer.publish("pf/v1/p1/gw-02/request", b"x")
    await consumer.publish("pf/v1/p1/gw-01/request", b"x")
    await eventually(lambda: heard["gateway"])
    await eventually(lambda: len(heard["consumer"]) == 6)
    assert set(heard["gateway"]) == {"pf/v1/p1/gw-01/request"}
    assert sorted(heard["consumer"][:4]) == sorted(own)
    await gateway.close()
    await consumer.close()


async def test_gateway_cannot_push_another_one_out(
    house: Gatehouse, guarded_broker: tuple[GuardedBroker, Child], tmp_path: Path
) -> None:
    """By taking its client id: the broker goes by the certificate."""
    broker, child = guarded_broker
    victim = await MqttConnection.open(broker.as_gateway(await identity(house, tmp_path, "gw-01")), "p1/gw-01")
    thief = await MqttConnection.open(broker.as_gateway(await identity(house, tmp_path, "gw-02")), "p1/gw-01")
    await victim.publish("pf/v1/p1/gw-01/event", b"still there")
    assert not victim.lost.done()
    assert "as p1/gw-02" in child.output()
    await victim.close()
    await thief.close()


async def test_strangers_do_not_get_in(
    house: Gatehouse, guarded_broker: tuple[GuardedBroker, Child], tmp_path: Path
) -> None:
    """Without a certificate, with one of another authority, with a wrong password."""
    broker, child = guarded_broker
    ca = str(broker.files / "ca.pem")
    await refuses(BrokerConfig(f"mqtts://127.0.0.1:{broker.gateways}", ca=ca))
    database = await Database.open(f"sqlite:///{tmp_path}/other.db")
    other = await Gatehouse.open(database, tmp_path / "other", Clock(), LIFE_S)
    await refuses(broker.as_gateway(await identity(other, tmp_path, "gw-01")))
    assert "refuses us: Not authorized" in await refuses(broker.as_consumer("root"))
    assert "New client connected" not in child.output()
    await database.close()


async def test_revoked_gateway_is_refused_after_a_reload(
    house: Gatehouse, guarded_broker: tuple[GuardedBroker, Child], tmp_path: Path
) -> None:
    """The command is called again and the broker told to reload; the others stay connected meanwhile."""
    broker, child = guarded_broker
    revoked = broker.as_gateway(await identity(house, tmp_path, "gw-01"))
    other = await MqttConnection.open(broker.as_gateway(await identity(house, tmp_path, "gw-02")), "x")
    await (await MqttConnection.open(revoked, "x")).close()
    await house.revoke(GW, "bob", "stolen")
    pair = (broker.files / "broker.pem").read_bytes()
    await broker.configure()
    assert (broker.files / "broker.pem").read_bytes() == pair  # it is good for long
    child.send_signal(signal.SIGHUP)
    await eventually(lambda: "Reloading config" in child.output())
    await refuses(revoked)
    await other.publish("pf/v1/p1/gw-02/event", b"x")
    await other.close()
