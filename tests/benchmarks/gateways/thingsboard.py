"""ThingsBoard IoT Gateway 3.8.5: configured for speed, and its telemetry counted.

`make bench-agent` installs it into build/thingsboard. Block reads (one request a meter), SQLite store, no rate limits,
no statistics, no remote configuration; what is not named keeps its default.
"""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from parkfleet.protocols.config import BrokerConfig
from parkfleet.protocols.mqtt import MqttConnection
from tests.benchmarks.gateways.account import Account, Arrival, taken
from tests.benchmarks.gateways.ground import UNITS, VALUES, Ground
from tests.benchmarks.harness import ROOT

VENV: Final = ROOT / "build" / "thingsboard"
_NO_LIMIT: Final = "0:0,"
_LIMITS: Final = (
    "rateLimits",
    "dpRateLimits",
    "messagesRateLimits",
    "deviceMessagesRateLimits",
    "deviceRateLimits",
    "deviceDpRateLimits",
)


@dataclass(frozen=True)
class ThingsBoard:
    """The peer."""

    name: str = "ThingsBoard IoT Gateway 3.8.5"

    def command(self, _: Ground) -> list[str]:
        """See Gateway."""
        return [str(VENV / "bin" / "thingsboard-gateway")]

    def environment(self, ground: Ground) -> dict[str, str]:
        """See Gateway."""
        return {"TB_GW_CONFIG_DIR": str(ground.folder / "tb")}

    @asynccontextmanager
    async def company(self, ground: Ground) -> AsyncIterator[None]:
        """What of a ThingsBoard server it cannot do without: an answer to what its limits are, which is: none."""
        limits = {"rateLimits": {}, "gatewayRateLimits": {}, "maxInflightMessages": 100, "maxPayloadSize": 65536}

        def answer(topic: str, payload: bytes, _retained: bool) -> None:
            if b"getSessionLimits" in payload:
                connection.publish(topic.replace("request", "response"), json.dumps(limits).encode())

        connection = await MqttConnection.open(BrokerConfig(ground.broker.url), "platform", on_message=answer)
        try:
            await connection.subscribe("v1/devices/me/rpc/request/+")
            yield
        finally:
            await connection.close()

    def configure(self, ground: Ground, interval_s: float) -> None:
        """See Gateway."""
        for name in ("tb", "logs", "data"):
            (ground.folder / name).mkdir(exist_ok=True)
        folder = ground.folder / "tb"
        (shipped,) = VENV.glob("lib/python3*/site-packages/thingsboard_gateway/config")
        shutil.copy(shipped / "logs.json", folder)
        (folder / "tb_gateway.json").write_text(json.dumps(_general(ground)))
        (folder / "modbus.json").write_text(json.dumps({"master": {"slaves": _slaves(ground, interval_s)}}))

    def account(self, ground: Ground) -> Account:
        """See Gateway."""
        found = Account()
        for arrival in _arrivals(ground):
            found.add(arrival)
        return found


def _arrivals(ground: Ground) -> Iterator[Arrival]:
    for ns, topic, payload in taken(ground.taken):
        if topic == "v1/gateway/telemetry":
            for meter, rows in msgspec.json.decode(payload).items():
                for row in rows:
                    values = row["values"]
                    arrived_ms = ns / 1e6 - ground.base_ms
                    yield Arrival(meter, int(values["v_0"]), int(values["v_2"]), arrived_ms, len(values))


def _general(ground: Ground) -> dict[str, object]:
    return {
        "thingsboard": {
            "host": "127.0.0.1",
            "port": ground.broker.port,
            "remoteShell": False,
            "remoteConfiguration": False,
            "statistics": {"enable": False},
            "maxPayloadSizeBytes": 65536,
            "checkingDeviceActivity": {"checkDeviceInactivity": False},
            "security": {"type": "accessToken", "accessToken": "bench"},
            "qos": 1,
            "reportStrategy": {"type": "ON_RECEIVED"},
            **dict.fromkeys(_LIMITS, _NO_LIMIT),
        },
        "storage": {"type": "sqlite", "data_file_path": "./data/", "max_read_records_count": 1000},
        "connectors": [{"type": "modbus", "name": "Modbus", "configuration": "modbus.json"}],
    }


def _slaves(ground: Ground, interval_s: float) -> list[dict[str, object]]:
    return [
        {
            "host": "127.0.0.1",
            "port": ground.ports[number // UNITS],
            "type": "tcp",
            "method": "socket",
            "unitId": 1 + number % UNITS,
            "deviceName": f"m{number:05}",
            "timeout": 5,
            "byteOrder": "BIG",
            "wordOrder": "BIG",
            "pollPeriod": round(1000 * interval_s),
            "connectAttemptTimeMs": 5000,
            "connectAttemptCount": 5,
            "waitAfterFailedAttemptsMs": 30000,
            "attributes": [],
            "timeseries": [
                {
                    "tag": "v_${address}",
                    "type": "32float",
                    "functionCode": 3,
                    "objectsCount": 2,
                    "address": f"0-{2 * VALUES - 1}",
                    "maxRegistersPerRequest": 2 * VALUES,
                }
            ],
        }
        for number in range(ground.count)
    ]
