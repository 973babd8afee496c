"""The demo, as a user runs it: a verdict, a report, and nothing left behind."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from parkfleet.simulators import broker as brokers
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.processes import Child
from tests.eventually import eventually

DEMO = [sys.executable, "-m", "parkfleet", "demo", "--plain"]


def processes(marker: str) -> list[str]:
    """Command lines of all processes that carry a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if marker in command:
            found.append(command)
    return found


async def test_demo_with_outage(tmp_path: Path) -> None:
    """Unattended with the link cut in the middle: exit 0, and a report that adds up."""
    report = tmp_path / "demo.json"
    command = [*DEMO, "--duration", "12s", "--outage", "4s", "--report", str(report), "--keep", str(tmp_path / "kept")]
    async with Child("demo", command, tmp_path / "log") as demo:
        assert await demo.wait() == 0, demo.output()
    told = json.loads(report.read_text())
    assert told["ok"] is True
    assert told["gateway_online"] is True
    assert told["meters"] >= 24
    assert told["readings_answered"] == told["readings_delivered"] > 0
    assert (told["lost"], told["duplicates"], told["mismatched"]) == (0, 0, 0)
    assert told["outage_s"] == 4
    assert told["bytes_on_wire"] > told["payload_bytes"] > 0
    assert told["batches"] > 0


async def test_demo_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C judges, ends all processes, and removes all files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with Child("demo", ["env", f"TMPDIR={scratch}", *DEMO], tmp_path / "log", grace_s=20) as demo:
        await eventually(lambda: "controller says online" in demo.output())
        assert processes(str(scratch))
        demo.send_signal(signal.SIGINT)
        assert await demo.wait() == 0, demo.output()
    assert "OK: every answered reading arrived once and unchanged" in demo.output()
    assert processes(str(scratch)) == []
    assert list(scratch.iterdir()) == []


async def test_demo_killed_leaves_no_process(tmp_path: Path) -> None:
    """Even kill -9 of the demo takes its children with it."""
    async with Child("demo", [*DEMO, "--keep", str(tmp_path / "kept")], tmp_path / "log") as demo:
        await eventually(lambda: "controller says online" in demo.output())
        demo.kill()
        await demo.wait()
    await eventually(lambda: processes(str(tmp_path / "kept")) == [])


async def test_demo_with_a_broker_that_runs(broker: RunningBroker, tmp_path: Path) -> None:
    """--broker uses one that is there."""
    command = [*DEMO, "--broker", broker.url, "--duration", "6s"]
    async with Child("demo", command, tmp_path / "log") as demo:
        assert await demo.wait() == 0, demo.output()
    assert f"broker {broker.url}" in demo.output()


async def test_demo_without_a_broker(tmp_path: Path) -> None:
    """A broker that is not there is one sentence and exit code 2."""
    async with Child("demo", [*DEMO, "--broker", "mqtt://127.0.0.1:9"], tmp_path / "log") as demo:
        assert await demo.wait() == 2
    assert "cannot reach the broker mqtt://127.0.0.1:9" in demo.output()


async def test_broker_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mosquitto is not installed, iotcore takes its place, and speaks MQTT 5."""
    monkeypatch.setattr(brokers, "mosquitto_path", lambda: None)
    async with brokers.running_broker(tmp_path) as running:
        assert running.name == "iotcore"
        command = [*DEMO, "--broker", running.url, "--duration", "6s"]
        async with Child("demo", command, tmp_path / "log") as demo:
            assert await demo.wait() == 0, demo.output()


async def test_no_broker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is neither, the sentence says what to install."""
    monkeypatch.setattr(brokers, "mosquitto_path", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(brokers.NoBrokerError, match="apt install mosquitto"):
        async with brokers.running_broker(tmp_path):
            await asyncio.sleep(0)
