"""Remote hands, with a real agent: what an operator has a gateway do, and what comes back."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from parkfleet.controller.desk import DeskError, checked
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.server import ControllerServer
from parkfleet.proto.remote_pb2 import Capture, DeedOutput, Logs, Read, RemoteCall, Restart
from parkfleet.simulators.broker import RunningBroker
from parkfleet.simulators.processes import Child
from tests.agent.site import Site, stopped, subscribed
from tests.controller.test_fleet_cli import parkfleet
from tests.eventually import eventually
from tests.installer.test_capture import dissected

KEY = GatewayKey("demo", "gw-01")


@pytest.fixture
async def server(site: Site, broker: RunningBroker) -> AsyncIterator[ControllerServer]:
    """A controller in this process, and a gateway that is configured for it."""
    async with ControllerServer("127.0.0.1:0", 0.2) as server:
        path = site.configure(broker.port)
        document = {**yaml.safe_load(path.read_text()), "controller": {"url": server.address}}
        path.write_text(yaml.safe_dump(document))
        yield server


@pytest.fixture
async def agent(site: Site, server: ControllerServer) -> AsyncIterator[Child]:
    """The gateway's agent, connected, with some readings."""
    async with site.agent() as child:
        await eventually(lambda: online(server))
        await eventually(site.answers(more=10))
        yield child


def online(server: ControllerServer) -> bool:
    gateway = server.fleet.registry.get(KEY)
    return gateway is not None and gateway.is_online


async def hands(server: ControllerServer, *arguments: str, reason: str = "test") -> tuple[int, str, str]:
    """`parkfleet fleet …` against the controller."""
    verb, *rest = arguments
    return await parkfleet("fleet", verb, "demo/gw-01", *rest, "--reason", reason, "--controller", server.address)


async def test_logs_are_those_of_the_agent(server: ControllerServer, agent: Child, tmp_path: Path) -> None:
    """As on its standard error; the deed itself stands there, with who asked and why."""
    await hands(server, "logs", reason="is it well?")
    code, out, err = await hands(server, "logs", "--since", "1h")
    assert (code, err) == (0, "")
    assert "info    connected to the controller" in out
    assert "is it well?" in out
    assert (tmp_path / "journal.jsonl").exists()
    code, out, _ = await hands(server, "logs", "--lines", "1", "--json")
    (line,) = out.splitlines()
    assert json.loads(line).keys() == {"ts", "level", "text"}


async def test_read_shows_a_meter_now(server: ControllerServer, agent: Child) -> None:
    """Every point with its registers; a meter that is not there is told."""
    code, out, _ = await hands(server, "read", "m1")
    assert code == 0
    assert {"voltage_l1", "power_active", "energy_import"} <= {line.split()[0] for line in out.splitlines()[1:]}
    code, _, err = await hands(server, "read", "m9")
    assert code == 3
    assert "no meter 'm9'" in err


async def test_scan_finds_the_meters(server: ControllerServer, agent: Child) -> None:
    """Through the agent that polls them."""
    code, out, err = await hands(server, "scan", "hall", "--units", "1-3", "--json")
    assert code == 0, err
    findings = json.loads(out.splitlines()[-1])["findings"]
    assert {finding["unit"]["unit"] for finding in findings} == {1, 2}


async def test_replay_sends_again(server: ControllerServer, site: Site, broker: RunningBroker) -> None:
    """What the broker had acknowledged; the consumer knows it by its seq."""
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches > 3 and online(server))
        code, out, err = await hands(server, "replay", "--from", "1h")
        assert code == 0, err
        assert int(out.split()[0]) > 0
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_restart_is_done_when_it_is_back(server: ControllerServer, site: Site, broker: RunningBroker) -> None:
    """The agent ends in order, begins anew as the same process, and no reading is lost."""
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches > 2 and online(server))
        code, _, err = await hands(server, "restart")
        assert code == 0, err
        assert err.endswith("demo/gw-01 is back")
        assert online(server)
        assert agent.output().count("the agent begins anew") == 1
        batches = subscriber.batches
        await eventually(lambda: subscriber.batches > batches + 2)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok, site.verdict(subscriber)


async def test_capture_opens_in_wireshark(server: ControllerServer, agent: Child, tmp_path: Path) -> None:
    """Raw frames of a line, fetched from afar."""
    file = tmp_path / "hall.pcapng"
    code, _, err = await hands(server, "capture", "hall", "--seconds", "2", "-o", str(file))
    assert code == 0, err
    packets = await dissected(file)
    assert {"1", "2"} <= {unit for packet in packets for unit in packet.get("mbtcp.unit_id", "").split(",")}


async def test_gateway_that_is_away_is_told(server: ControllerServer) -> None:
    """Nothing waits for it."""
    code, _, err = await hands(server, "logs")
    assert code == 3
    assert "demo/gw-01 is not connected to this controller" in err


async def test_gateway_that_goes_away_ends_the_deed(server: ControllerServer, agent: Child) -> None:
    """The operator hears of it at once, and not at the end of the time."""
    call = RemoteCall(park="demo", gateway="gw-01", reason="x", within_s=600, capture=Capture(line="hall", seconds=500))
    with pytest.raises(DeskError, match="session ended"):
        async for _ in server.desk.do(KEY, call, "alice"):
            agent.kill()


async def test_what_a_gateway_says_unasked_changes_nothing(server: ControllerServer, agent: Child) -> None:
    """A piece of a deed that is another's, or nobody's."""
    call = RemoteCall(park="demo", gateway="gw-01", reason="x", within_s=60, logs=Logs())
    pieces = []
    async for data in server.desk.do(KEY, call, "alice"):
        server.desk.said(GatewayKey("demo", "gw-02"), DeedOutput(id=1, data=b"lie"))
        server.desk.said(KEY, DeedOutput(id=99, data=b"lie"))
        pieces.append(data)
    assert b"lie" not in b"".join(pieces)
    server.desk.said(KEY, DeedOutput(id=1, data=b"late"))


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (RemoteCall(reason="x", within_s=10), "logs", "does not say what to logs"),
        (RemoteCall(reason="x", within_s=10, read=Read()), "logs", "does not say what to logs"),
        (RemoteCall(reason=" ", within_s=10, logs=Logs()), "logs", "--reason"),
        (RemoteCall(reason="x" * 300, within_s=10, logs=Logs()), "logs", "--reason"),
        (RemoteCall(reason="x", restart=Restart()), "restart", "takes from 1 to 3600 s"),
        (RemoteCall(reason="x", within_s=10, capture=Capture(seconds=11)), "capture", "takes from 1 s"),
        (RemoteCall(reason="x", within_s=10, capture=Capture(seconds=10)), "capture", ""),
    ],
)
def test_checked_before_it_is_passed_on(call: RemoteCall, kind: str, told: str) -> None:
    """Each deed has a reason and a bound."""
    assert told in checked(call, kind)
    assert bool(told) == bool(checked(call, kind))
