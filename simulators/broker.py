"""Broker: an MQTT 5 broker of our own for demonstrations and tests: mosquitto, or iotcore where there is none."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from parkfleet.simulators.processes import Child


class NoBrokerError(Exception):
    """No broker can be started; the message says what to install."""


@dataclass(frozen=True)
class RunningBroker:
    """A broker that accepts connections."""

    name: str
    port: int
    child: Child

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


def mosquitto_path() -> str | None:
    """Debian's mosquitto, also where /usr/sbin is not on the PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/usr/local/sbin")


@contextlib.asynccontextmanager
async def running_broker(directory: Path, port: int | None = None, extra: str = "") -> AsyncIterator[RunningBroker]:
    """Starts a broker with its files in a directory; it ends with the block.

    port: default is a free one. extra: further lines for mosquitto.conf, which no other broker can stand in for.
    Raises NoBrokerError.
    """
    port = port or free_port()
    command, name = _command(directory, port, extra)
    async with Child(name, command, directory / "broker.log") as child:
        await _accepts(child, port)
        yield RunningBroker(name, port, child)


def free_port() -> int:
    """A TCP port of the loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(directory: Path, port: int, extra: str) -> tuple[list[str], str]:
    if mosquitto := mosquitto_path():
        config = directory / "mosquitto.conf"
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence true"]
        lines += [f"persistence_location {directory}/", extra]
        if os.geteuid() == 0:
            lines.append("user root")  # otherwise it becomes a user who may not write into our directory
        config.write_text("\n".join(lines) + "\n")
        return [mosquitto, "-c", str(config)], "mosquitto"
    if extra:
        raise NoBrokerError("these settings need mosquitto itself: `apt install mosquitto`")
    if importlib.util.find_spec("iotcore"):
        config = directory / "iotcore.toml"
        config.write_text(_iotcore_config(port))
        return [sys.executable, "-c", _IOTCORE, str(config)], "iotcore"
    raise NoBrokerError(
        "there is no MQTT broker: `apt install mosquitto`, or `pip install parkfleet[demo]`,"
        " or name one that runs with --broker mqtt://host:port"
    )


async def _accepts(child: Child, port: int) -> None:
    """Returns when the broker accepts connections. Raises NoBrokerError when it ends instead."""
    ended = asyncio.create_task(child.wait())
    try:
        while not ended.done():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.wait({ended}, timeout=0.02)
        raise NoBrokerError(f"{child.name} does not start: {child.output().strip()[-300:]}")
    finally:
        ended.cancel()


_IOTCORE = "import sys; from iotcore import IotCoreBroker; IotCoreBroker(config_path=sys.argv[1]).run_forever()"


def _iotcore_config(port: int) -> str:
    """rumqttd's configuration: one MQTT 5 listener, payloads up to 1 MiB (its own limit is 20 kB)."""
    return f"""
id = 0

[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 1000
max_segment_size = 10485760
max_segment_count = 10

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""
