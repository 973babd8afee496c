"""The connection to a broker: against a real one, and against ones that refuse, vanish or talk nonsense."""

import asyncio
from pathlib import Path

import pytest

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import BrokerError, MqttConnection, Will
from parkfleet.simulators.broker import RunningBroker, free_port, running_broker
from parkfleet.simulators.moody_broker import MoodyBroker
from parkfleet.simulators.proxy import LinkProxy
from tests.eventually import eventually

Inbox = list[tuple[str, bytes, bool]]


async def listening(url: str, topic: str) -> tuple[MqttConnection, Inbox]:
    inbox: Inbox = []
    connection = await MqttConnection.open(
        BrokerConfig(url), "listener", on_message=lambda *message: inbox.append(message)
    )
    await connection.subscribe(topic)
    return connection, inbox


async def test_publish_is_acknowledged_and_arrives(broker: RunningBroker) -> None:
    """A publish future is done when the broker has the message; a subscriber gets it."""
    listener, inbox = await listening(broker.url, "t/#")
    publisher = await MqttConnection.open(BrokerConfig(broker.url), "publisher")
    await asyncio.gather(*(publisher.publish("t/1", bytes([n])) for n in range(200)))
    await eventually(lambda: len(inbox) == 200)
    assert [payload[0] for _, payload, _ in inbox] == list(range(200))
    await publisher.close()
    await listener.close()


async def test_publish_keeps_the_receive_maximum() -> None:
    """A broker that lets two be in flight gets two; the others wait, in order, and fail with the connection."""
    heard: list[bytes] = []
    silent = True

    def mood(_: str, payload: bytes) -> int | None:
        heard.append(payload)
        return None if silent else 0

    async with MoodyBroker(mood, receive_maximum=2) as broker:
        connection = await MqttConnection.open(BrokerConfig(broker.url), "c")
        acks = [connection.publish("t", bytes([n])) for n in range(5)]
        await eventually(lambda: len(heard) == 2)
        await connection.close()
        assert all(isinstance(ack.exception(), BrokerError) for ack in acks)
        silent = False
        connection = await MqttConnection.open(BrokerConfig(broker.url), "c")
        await asyncio.gather(*(connection.publish("t", bytes([n])) for n in range(20)))
        assert heard[2:] == [bytes([n]) for n in range(20)]
        await connection.close()


async def test_link_cut_fails_what_is_under_way(through_link: BrokerConfig, link: LinkProxy) -> None:
    """When the link breaks, `lost` says so and no publish future hangs."""
    connection = await MqttConnection.open(through_link, "publisher")
    await connection.publish("t", b"before")
    await link.cut()
    pending = connection.publish("t", b"after")
    assert "broke" in await connection.lost
    with pytest.raises(BrokerError):
        await pending
    with pytest.raises(BrokerError):
        await connection.publish("t", b"later still")
    await connection.close()


async def test_will_is_told_when_we_vanish(broker: RunningBroker, link: LinkProxy, through_link: BrokerConfig) -> None:
    """The broker tells our will when the link breaks, and not when we say goodbye."""
    listener, inbox = await listening(broker.url, "will")
    polite = await MqttConnection.open(through_link, "polite", will=Will("will", b"polite is gone"))
    await polite.close()
    vanishing = await MqttConnection.open(through_link, "vanishing", will=Will("will", b"vanishing is gone"))
    await link.cut()
    await vanishing.lost
    await eventually(lambda: inbox)
    assert [payload for _, payload, _ in inbox] == [b"vanishing is gone"]
    await listener.close()


async def test_session_is_remembered(broker: RunningBroker) -> None:
    """A broker that still has our session says so; a clean one is not remembered."""
    for expiry, present in ((60, False), (60, True), (0, False)):
        connection = await MqttConnection.open(BrokerConfig(broker.url), "again", session_expiry=expiry)
        assert connection.session_present is present
        await connection.close()


async def test_broker_not_there() -> None:
    """Nobody listens: one sentence with the address."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(BrokerError, match=f"cannot reach the broker {url}: .*refused"):
        await MqttConnection.open(BrokerConfig(url), "nobody")


@pytest.mark.usefixtures("mosquitto")
async def test_broker_refuses_us(tmp_path: Path) -> None:
    """A broker that wants a password says why it refuses."""
    (tmp_path / "passwords").write_text("")
    extra = f"allow_anonymous false\npassword_file {tmp_path}/passwords"
    async with running_broker(tmp_path, extra=extra) as broker:
        with pytest.raises(BrokerError, match="refuses us: Not authorized"):
            await MqttConnection.open(BrokerConfig(broker.url), "stranger")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x84", b"\x00" * 64])
async def test_peer_that_is_no_broker(greeting: bytes) -> None:
    """A peer that talks something else, or closes at once, is named, not waited for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(BrokerError, match=r"cannot reach the broker|refuses us"):
            await MqttConnection.open(BrokerConfig(url), "guest")


async def test_password_file_missing(broker: RunningBroker) -> None:
    """A password file that cannot be read is told by name."""
    config = BrokerConfig(broker.url, username="u", password_file="secret.txt")
    with pytest.raises(BrokerError, match=r"cannot read password_file secret.txt: No such file"):
        await MqttConnection.open(config, "forgetful")
