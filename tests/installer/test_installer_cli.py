"""The installer's commands as he types them: processes of their own, beside a running agent or alone on the line."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.eventually import eventually
from tests.installer.conftest import MODELS, bus, configure, running, simulated


class Done(NamedTuple):
    """What a command left behind."""

    code: int | None
    out: str
    err: str


async def started(*arguments: str, stderr: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "parkfleet", "agent", *arguments)
    env = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=stderr, env=env)


async def ended(process: asyncio.subprocess.Process) -> Done:
    out, err = await process.communicate()
    return Done(process.returncode, out.decode(), err.decode())


async def parkfleet(*arguments: str) -> Done:
    """`parkfleet agent …`, to its end."""
    return await ended(await started(*arguments))


async def test_read_beside_a_running_agent(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """The table has every point with its registers; the agent keeps its port."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        async with running(path):
            shown = await parkfleet("read", "m1", "--config", str(path))
            unknown = await parkfleet("read", "m9", "--config", str(path))
            meters[0].faults.silent = True
            silent = await parkfleet("read", "m1", "--config", str(path))
        assert line.early == 0
    assert shown.code == 0, shown.err
    assert "m1  line bus, unit 1, eastron-sdm630" in shown.out
    row = next(row.split() for row in shown.out.splitlines() if row.startswith("energy_export_l3"))
    assert row[2:4] == ["kWh", "good"]
    assert row[4:6] == ["input", "356:"]
    assert [len(word) for word in row[6:]] == [4, 4]
    assert (unknown.code, unknown.err) == (
        1,
        "the running agent has no meter 'm9': meters are m1, m12, m2, m3, m7\n",
    )
    assert silent.code == 3
    assert "no answer in time" in silent.out


async def test_read_alone(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Without an agent the line itself is opened; JSON has the same facts."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        done = await parkfleet("read", "m7", "--config", str(path), "--json")
        line.unplug()
        away = await parkfleet("read", "m7", "--config", str(path))
    reading = json.loads(done.out)
    assert (done.code, reading["meter"], reading["profile"]) == (0, "m7", "chint-dtsu666")
    frequency = next(point for point in reading["points"] if point["point"] == "frequency")
    assert 45 < frequency["value"] < 65
    assert len(frequency["registers"]) == 2
    assert away.code == 3
    assert "is the adapter plugged in?" in away.err


async def test_read_chosen_points(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Some of many, by patterns."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        done = await parkfleet("read", "m1", "--config", str(path), "--json", "--points", "voltage_l?, frequency")
    points = [point["point"] for point in json.loads(done.out)["points"]]
    assert points == ["voltage_l1", "voltage_l2", "voltage_l3", "frequency"]


async def test_read_watch(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Readings come one after the other, until Ctrl-C."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        watching = await started("read", "m7", "--config", str(path), "--watch", "--interval", "100ms", "--json")
        assert watching.stdout is not None
        stamps = [json.loads(await watching.stdout.readline())["ts"] for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        done = await ended(watching)
    assert stamps == sorted(set(stamps))
    assert (done.code, done.err) == (130, "")


async def test_scan_writes_what_the_check_accepts(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """From an unknown bus to a configuration that reads it, with two commands."""
    part, whole = tmp_path / "part.yaml", tmp_path / "whole.yaml"
    url = f"serial://{tmp_path}/bus"
    async with bus(tmp_path, meters, 19200):
        options = ("--line", url, "--quick", "--units", "1-12", "--baud", "19200", "--timeout", "100ms")
        scanned = await parkfleet("scan", *options, "--write", str(part))
        assert scanned.code == 0, scanned.err
        assert "3 settings x 12 unit ids: at most" in scanned.err
        for unit, name in MODELS.items():
            assert f"unit {unit:3}  19200 8E1  {name}" in scanned.out
        whole.write_text("park: p\ngateway: g\nbroker: {url: mqtt://h}\n" + part.read_text())
        assert (await parkfleet("check", str(whole))).code == 0
        read = await parkfleet("read", "bus-012", "--config", str(whole))
    assert read.code == 0, read.err


async def test_scan_with_display(tmp_path: Path) -> None:
    """What the display shows is explained, in JSON for a script as well."""
    meter = simulated("eastron-sdm630", 1)
    async with TcpEndpoint("t", [meter], AnswerRecord()) as line:
        first = await parkfleet("scan", "--line", line.url, "--units", "1", "--json")
        seen = json.loads(first.out)["findings"][0]["candidates"][0]["seen"]
        voltage = next(point for point in seen if point["point"] == "voltage_l1")
        text = f"{voltage['value']:.1f}V"
        options = ("--line", line.url, "--units", "1", "--display", text, "--json")
        (finding,) = json.loads((await parkfleet("scan", *options)).out)["findings"]
    best = finding["explanations"][0]
    assert (best["profile"], best["shift"], best["order"]) == ("eastron-sdm630", 0, None)
    assert best["matches"][0]["shown"] == f"{text[:-1]} V"


async def test_scan_stopped(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Ctrl-C shows what was found so far."""
    async with bus(tmp_path, meters) as line:
        options = ("--line", f"{line.url}&parity=E", "--timeout", "2s", "--json")
        scanning = await started("scan", *options)
        assert scanning.stderr is not None
        while b"unit 7 at" not in await scanning.stderr.readline():
            pass
        scanning.send_signal(signal.SIGINT)
        done = await ended(scanning)
    told = json.loads(done.out)
    assert done.code == 130
    assert "stopped; found so far: 4" in done.err
    assert [finding["unit"]["unit"] for finding in told["findings"]] == [1, 2, 3, 7]
    assert told["complete"] is False


async def test_scan_of_a_busy_line(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """The agent's port is refused with whose it is; by the line's id the scan goes through the agent."""
    record = AnswerRecord()
    async with bus(tmp_path, meters, record=record) as line:
        path = configure(tmp_path, line, "1s")
        async with running(path):
            await eventually(lambda: len(record))  # the agent has its port
            refused = await parkfleet("scan", "--line", line.url, "--units", "1")
            through = await parkfleet("scan", "--line", "bus", "--config", str(path), "--units", "1-8", "--json")
        assert line.early == 0
    assert refused.code == 3
    assert f"(process {os.getpid()})" in refused.err  # the agent in this process
    assert through.code == 0, through.err
    assert "The agent goes on polling" in through.err
    assert [finding["unit"]["unit"] for finding in json.loads(through.out)["findings"]] == [1, 2, 3, 7]


async def test_scan_that_cannot_write(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Before anything is asked: no folder, and a file that no scan wrote. What a scan wrote is written anew."""
    own = tmp_path / "gateway.yaml"
    own.write_text("park: p\n")
    async with bus(tmp_path, meters) as line:
        options = ("--line", f"{line.url}&parity=E", "--units", "7", "--write")
        nowhere = await parkfleet("scan", *options, str(tmp_path / "none" / "part.yaml"))
        precious = await parkfleet("scan", *options, str(own))
        part = tmp_path / "part.yaml"
        twice = [await parkfleet("scan", *options, str(part)) for _ in range(2)]
    assert (nowhere.code, "there is no folder" in nowhere.err) == (1, True)
    assert (precious.code, "no scan wrote it" in precious.err) == (1, True)
    assert "found unit" not in nowhere.err + precious.err
    assert own.read_text() == "park: p\n"
    assert [done.code for done in twice] == [0, 0]
    assert "chint-dtsu666" in part.read_text()


async def test_scan_of_what_is_no_port(tmp_path: Path) -> None:
    """A line that is away is told as that, without advice about the wiring."""
    file = tmp_path / "notes"
    file.touch()
    for line, told in ((f"serial://{file}", "is no serial port"), ("/dev/ttyNONE7", "is the adapter plugged in?")):
        done = await parkfleet("scan", "--line", line, "--units", "1", "--baud", "9600", "--parity", "N")
        assert (done.code, told in done.err, "Nobody answered" in done.err) == (3, True, False), done.err


async def test_scan_stopped_while_it_asks_what_they_are(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Who was not asked yet is not called unknown."""
    ours, theirs = os.openpty()  # the bar is for terminals
    try:
        async with bus(tmp_path, meters[:2]) as line:
            options = ("--line", f"{line.url}&parity=E", "--units", "1-2", "--json")
            meters[1].turnaround = 0.1
            scanning = await started("scan", *options, stderr=theirs)
            seen = b""
            while b"what is unit 2" not in seen:
                seen += await asyncio.to_thread(os.read, ours, 4096)
            scanning.send_signal(signal.SIGINT)
            out, _ = await scanning.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    first, second = json.loads(out)["findings"]
    assert scanning.returncode == 130
    assert (first["asked"], second["asked"]) == (True, False)
    assert b"at most" in seen and b"about" in seen


async def test_scan_finds_nobody(tmp_path: Path) -> None:
    """An empty bus is its own exit code, with what to look at."""
    async with bus(tmp_path, []) as line:
        done = await parkfleet("scan", "--line", line.url, "--units", "1-3", "--parity", "E", "--timeout", "20ms")
    assert done.code == 4
    assert "Are A and B swapped" in done.err


async def test_wake_and_status(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Both speak with the running agent, and say so when there is none."""
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        async with running(path):
            woken = await parkfleet("wake", "m3", "--config", str(path))
            told = await parkfleet("status", "--config", str(path), "--json")
            table = await parkfleet("status", "--config", str(path))
        alone = await parkfleet("wake", "m3", "--config", str(path))
        nobody = await parkfleet("status", "--config", str(path))
    assert woken.code == 0, woken.err
    assert woken.out.startswith("m3: answers (")
    state = json.loads(told.out)
    assert (state["gateway"], state["lines"][0]["id"], state["lines"][0]["meters"]) == ("g", "bus", 5)
    assert state["agent"]["broker"]["connected"] is False
    assert "broker away" in table.out
    assert "meters 5 answer, 0 do not" in table.out
    assert (alone.code, nobody.code) == (3, 3)
    assert "no agent runs here" in nobody.err


async def test_options_that_are_wrong(tmp_path: Path) -> None:
    """Each mistake is a sentence and exit code 1."""
    for arguments, sentence in (
        (("--line", "serial:///dev/x", "--units", "0-999"), "such as 1-247"),
        (("--line", "serial:///dev/x", "--baud", "9601"), "such as 9600,19200"),
        (("--line", "serial:///dev/x", "--display", "much"), "such as 1234.5kWh"),
        (("--line", "serial:///dev/x", "--timeout", "1h"), "--timeout must be from"),
        (("--line", "gopher://x"), "expected serial://"),
        (("--line", "bus9", "--config", str(tmp_path / "none.yaml")), "cannot read it"),
    ):
        done = await parkfleet("scan", *arguments)
        assert (done.code, sentence in done.err) == (1, True), done
