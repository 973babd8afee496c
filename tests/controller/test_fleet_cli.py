"""The command line, as people and scripts use it: real processes."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parkfleet.simulators.processes import Child
from tests.controller.raw_agent import RawAgent, goodbye, heartbeat
from tests.eventually import eventually
from tests.identity.guarded import guarded

PARKFLEET = [sys.executable, "-m", "parkfleet"]


async def parkfleet(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command."""
    process = await asyncio.create_subprocess_exec(
        *PARKFLEET, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    # The boxes around usage errors break lines wherever they must.
    return process.returncode, out.decode(), " ".join(err.decode().replace("│", " ").split())


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Child]:
    """A controller process, once it listens."""
    command = [*PARKFLEET, "controller", "run", "--listen", "127.0.0.1:0", "--heartbeat", "1s"]
    async with Child("controller", command, tmp_path / "controller.log") as child:
        await eventually(lambda: "listening on" in child.output() or not child.running)
        yield child


def address_of(controller: Child) -> str:
    """What its listening line says."""
    return controller.output().split("controller listening on ")[1].split()[0]


async def test_fleet_list_json_against_a_real_controller(controller: Child) -> None:
    """Scripts see the gateway come online and go offline."""
    address = address_of(controller)
    assert await parkfleet("fleet", "list", "--json", "--controller", address) == (0, "[]\n", "")
    async with RawAgent(address) as agent:
        await agent.join()
        await agent.say(heartbeat(sequence=1))
        _, out, _ = await parkfleet("fleet", "list", "--json", "--controller", address)
        (gateway,) = json.loads(out)
        assert (gateway["park"], gateway["gateway"], gateway["state"]) == ("p1", "gw-01", "online")
        assert set(gateway) >= {"since", "last_seen", "version", "buffer", "delivered", "broker", "meters", "lines"}
        await agent.say(goodbye("enough"))
        await agent.ended()
    _, out, _ = await parkfleet("fleet", "list", "--json", "--controller", address, "--park", "p1")
    (gateway,) = json.loads(out)
    assert (gateway["state"], gateway["reason"]) == ("offline", "enough")


async def test_fleet_list_for_people(controller: Child) -> None:
    """A table, and a hint when it would be empty."""
    address = address_of(controller)
    code, out, _ = await parkfleet("fleet", "list", "--controller", address)
    assert (code, "controller: {url: HOST:PORT}" in out) == (0, True)
    async with RawAgent(address) as agent:
        await agent.join()
        code, out, _ = await parkfleet("fleet", "list", "--controller", address)
        assert code == 0
        assert "gw-01" in out
        assert "1 gateway, 1 online" in out


async def test_fleet_watch_tells_coming_and_going(controller: Child, tmp_path: Path) -> None:
    """One line each, and it leaves with 0 at Ctrl-C and with 1 when the controller goes."""
    address = address_of(controller)
    command = [*PARKFLEET, "fleet", "watch", "--controller", address]
    async with (
        Child("watch", command, tmp_path / "watch.log") as watch,
        Child("json", [*command, "--json"], tmp_path / "json.log") as as_json,
    ):
        async with RawAgent(address) as agent:
            await agent.join()
            await eventually(lambda: "p1/gw-01  online" in watch.output())
            await eventually(lambda: '"state": "online"' in as_json.output())
        await eventually(lambda: "p1/gw-01  offline  the connection ended" in watch.output())
        watch.send_signal(signal.SIGINT)
        assert await watch.wait() == 0
        await controller.stop()
        assert await as_json.wait() == 1
        assert "the controller is stopping" in as_json.output()


async def test_controller_leaves_cleanly_on_sigterm(controller: Child) -> None:
    """With a goodbye to its agents and exit code 0."""
    async with RawAgent(address_of(controller)) as agent:
        await agent.join()
        assert await controller.stop() == 0
        assert (await agent.last_words())[-1].goodbye.reason == "the controller is stopping"


async def test_second_controller_on_the_port_is_refused_in_a_sentence(controller: Child) -> None:
    """Exit code 1, and nothing of gRPC's own."""
    code, out, err = await parkfleet("controller", "run", "--listen", address_of(controller))
    assert (code, out) == (1, "")
    assert err.startswith("not started: cannot listen on")
    assert "another process has the port" in err


async def test_second_controller_on_the_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Each would take the other's gateways for lost."""
    async with guarded(tmp_path) as first:
        code, _, err = await parkfleet("controller", "run", "--data", str(first.data), "--listen", "127.0.0.1:0")
        assert (code, "another controller uses" in err, "--database" in err) == (1, True, True), err


async def test_no_controller_is_told_with_the_remedy() -> None:
    """Exit code 1 for scripts."""
    for verb in ("list", "watch"):
        code, out, err = await parkfleet("fleet", verb, "--controller", "127.0.0.1:9")
        assert (code, out) == (1, "")
        assert err == (
            "no controller at 127.0.0.1:9: Connection refused. Start one with `parkfleet controller run`, "
            "or name its address with --controller HOST:PORT"
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["controller", "run", "--listen", "0.0.0.0:0"], "add --data DIR, so that gateways have certificates"),
        (["controller", "run", "--listen", "[::]:0", "--data", "/nowhere"], "such as --name fleet.example.org"),
        (["controller", "run", "--certificate-life", "1s"], "must be from 10s to"),
        (["controller", "run", "--listen", "7443"], "expected HOST:PORT"),
        (["controller", "run", "--database", "postgresql://x@y/z"], "add --data DIR"),
        (["controller", "run", "--database", "postgresql://x:secret@y/z"], "every user of this machine can read"),
        (["controller", "run", "--data", "d", "--database", "mysql://x@y/z"], "expected postgresql:"),
        (["controller", "run", "--web-key", "k"], "go together"),
        (["controller", "run", "--web", "everywhere"], "expected HOST:PORT"),
        (["controller", "run", "--listen", "::1:7443"], "stands in brackets"),
        (["controller", "run", "--heartbeat", "soon"], "expected a duration"),
        (["controller", "run", "--heartbeat", "5ms"], "must be from 100ms to 1h"),
        (["controller", "run", "--log-level", "loud"], "expected debug"),
        (["fleet", "list", "--controller", "nonsense"], "expected HOST:PORT"),
    ],
)
async def test_wrong_usage_is_told(arguments: list[str], told: str) -> None:
    """Exit code 2, with what was expected."""
    code, _, err = await parkfleet(*arguments)
    assert (code, told in err) == (2, True), err


@pytest.mark.parametrize("arguments", [["controller", "run"], ["fleet", "list"], ["fleet", "watch"]])
async def test_help_teaches(arguments: list[str]) -> None:
    """An example and the exit codes."""
    _, out, _ = await parkfleet(*arguments, "--help")
    assert f"parkfleet {' '.join(arguments)}" in out
    assert "Exit codes: 0" in out


async def test_agent_help_does_not_import_the_controller() -> None:
    """Nor gRPC: a small box has neither the time nor the memory."""
    probe = (
        "import sys; sys.argv = ['parkfleet', 'agent', '--help']\n"
        "try:\n import parkfleet.cli; parkfleet.cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name == 'grpc' or name.startswith('parkfleet.controller')])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", probe, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().splitlines()[-1] == "[]"
