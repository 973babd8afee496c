"""`parkfleet tail` as a consumer's first look: every reading once, gaps told, JSON for scripts."""

import json
import sys
from array import array
from pathlib import Path

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import MqttConnection
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.scans import pack_scans, pack_series
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from parkfleet.protocols.payload.topics import GatewayTopics
from parkfleet.protocols.profile import Factor
from parkfleet.protocols.quality import Quality
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.processes import Child
from tests.eventually import eventually

SCHEMA = Schema((Entry("m01", "p", "power", (Column("voltage_l1", "V", "int", "gauge", Factor(1, 1, 0)),)),))
TOPICS = GatewayTopics("demo", "gw-01")


def batch(seq: int, raw: int, quality: int = Quality.GOOD) -> bytes:
    rows = Rows(0, array("q", [1000 * seq]), array("q", [raw]), bytearray([quality]))
    return Envelope(CODEC, SCHEMA.id, 7, seq, 1, 0, encode(SCHEMA, [rows])).pack()


def in_json(seq: int, raw: int) -> bytes:
    rows = Rows(0, array("q", [1000 * seq]), array("q", [raw]), bytearray([Quality.GOOD]))
    return pack_scans(SCHEMA, Envelope(CODEC, SCHEMA.id, 7, seq, 1, 0, b""), [rows])


async def test_tail_json_shows_each_reading_once(broker: RunningBroker, tmp_path: Path) -> None:
    """Readings come as JSON objects with all a consumer needs; a repeated batch is not shown, a gap is told.

    Whether the gateway sends compact batches or JSON.
    """
    command = [sys.executable, "-m", "parkfleet", "tail", "--broker", broker.url, "--park", "demo", "--json"]
    command += ["--gap-age", "0.2"]
    publisher = await MqttConnection.open(BrokerConfig(broker.url), "publisher")
    await publisher.publish(TOPICS.schema(SCHEMA.id), SCHEMA.pack(), retain=True)
    async with Child("tail", [*command, "--count", "4"], tmp_path / "tail.log") as tail:
        ready = publisher.publish(TOPICS.status, b'{"state":"online","ts":1}', retain=True)
        await ready
        await eventually(lambda: "gw-01 is online" in tail.output())
        await publisher.publish(TOPICS.batch, b"\xff not a batch")
        for payload in (batch(1, 2301), batch(1, 2301), batch(2, 0, Quality.TIMEOUT)):
            await publisher.publish(TOPICS.batch, payload)
        await publisher.publish(TOPICS.series(SCHEMA.id), pack_series(SCHEMA), retain=True)
        await publisher.publish(TOPICS.json, in_json(5, 2299))
        await eventually(lambda: "# gap: batches 3 to 4 of gw-01 have not come" in tail.output())
        await publisher.publish(TOPICS.batch, batch(6, 2298))
        assert await tail.wait() == 0
    await publisher.close()
    lines = tail.output().splitlines()
    readings = [json.loads(line) for line in lines if line.startswith("{")]
    names = {"park": "demo", "gateway": "gw-01", "meter": "m01", "point": "voltage_l1", "unit": "V", "epoch": 7}
    assert readings == [
        {**names, "ts": 1000, "value": 230.1, "quality": "good", "seq": 1},
        {**names, "ts": 2000, "value": None, "quality": "timeout", "seq": 2},
        {**names, "ts": 5000, "value": 229.9, "quality": "good", "seq": 5},
        {**names, "ts": 6000, "value": 229.8, "quality": "good", "seq": 6},
    ]
    assert any(line.startswith("# not usable, pf/v1/demo/gw-01/batch: not an envelope") for line in lines)
