"""A guarded broker: mosquitto, with what `parkfleet controller broker-config` makes."""

import shutil
import subprocess
from pathlib import Path

from parkfleet.protocols.config import BrokerConfig
from parkfleet.simulators.broker import free_port, mosquitto_path
from parkfleet.simulators.processes import Child
from tests.identity.guarded import command

PASSWORD = "open sesame"


class GuardedBroker:
    """mosquitto, configured by the command, restarted by nobody."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data = data
        self.files = folder / "mosquitto"
        self.gateways, self.consumers = free_port(), free_port()
        self.main = folder / "mosquitto.conf"
        self.log = folder / "mosquitto.log"

    async def configure(self) -> str:
        """Calls the command; what it prints."""
        addresses = ("--listen", f"127.0.0.1:{self.gateways}", "--consumers-at", f"127.0.0.1:{self.consumers}")
        options = ("--data", str(self.data), "--out", str(self.files), "--consumer", "tsdb", *addresses)
        code, out, err = await command("controller", "broker-config", "mosquitto", *options)
        assert code == 0, err
        return out

    def child(self) -> Child:
        """The broker's process."""
        path = mosquitto_path()
        assert path is not None, "apt install mosquitto"
        (self.files / "password").write_text(f"{PASSWORD}\n")
        tool = shutil.which("mosquitto_passwd")
        assert tool is not None
        subprocess.run([tool, "-b", str(self.files / "passwords"), "tsdb", PASSWORD], check=True, capture_output=True)
        return Child("mosquitto", [path, "-c", str(self.main)], self.log)

    def as_gateway(self, box: Path) -> BrokerConfig:
        """How the gateway whose identity that is connects."""
        pair = str(box / "gateway.pem")
        return BrokerConfig(f"mqtts://127.0.0.1:{self.gateways}", ca=str(self.files / "ca.pem"), cert=pair, key=pair)

    def as_consumer(self, user: str = "tsdb") -> BrokerConfig:
        """How a consumer connects."""
        ca, password = str(self.files / "ca.pem"), str(self.files / "password")
        return BrokerConfig(f"mqtts://127.0.0.1:{self.consumers}", ca=ca, username=user, password_file=password)
