"""Capture: what goes over a line, as Wireshark sees it."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.control_client import ControlClient, ControlError, connected
from parkfleet.agent.control_messages import socket_path
from parkfleet.protocols.modbus.rtu import frame
from parkfleet.protocols.pcapng import PcapWriter, Piece
from parkfleet.simulators.meter import SimulatedMeter
from tests.installer.conftest import bus, configure, running, simulated
from tests.installer.test_control import told
from tests.installer.test_installer_cli import parkfleet

MS = 1_000_000


async def dissected(path: Path) -> list[dict[str, str]]:
    """Each packet as Wireshark takes it apart: time, protocol's own fields, comment, whether it is malformed."""
    tshark = shutil.which("tshark")
    if tshark is None:
        assert not os.environ.get("CI"), "tshark is missing: .ci/run installs it"
        pytest.skip("needs tshark: sudo apt install tshark")
    fields = ("frame.time_epoch", "modbus.func_code", "mbtcp.unit_id", "frame.comment", "_ws.malformed", "tcp.port")
    wanted = [word for field in fields for word in ("-e", field)]
    process = await asyncio.create_subprocess_exec(
        tshark, "-r", str(path), "-T", "json", *wanted, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    packets = [packet["_source"]["layers"] for packet in json.loads(out)]
    return [{name: ",".join(values) for name, values in packet.items()} for packet in packets]


async def test_capture_of_a_serial_line_opens_in_wireshark(tmp_path: Path) -> None:
    """Requests and answers are taken apart, each with the bytes that stood on the wire."""
    meters = [simulated("eastron-sdm630", 1), simulated("siemens-pac2200", 2)]
    async with bus(tmp_path, meters) as line:
        path = configure(tmp_path, line)
        file = tmp_path / "bus.pcapng"
        async with running(path) as configuration:
            async with connected(socket_path(configuration)) as client:
                await told(client, lambda state: state.scans > 0)
            option = ("--seconds", "2s", "-o", str(file), "--config", str(path))
            done = await parkfleet("line", "capture", "bus", *option)
    assert done.code == 0, done.err
    packets = await dissected(file)
    if packets[-1]["frame.comment"].startswith("the capture ends here"):
        packets.pop()
    assert {packet["mbtcp.unit_id"] for packet in packets} == {"1", "2"}
    assert all(packet["frame.comment"].startswith("RTU: ") for packet in packets)
    assert not any("_ws.malformed" in packet for packet in packets)
    assert {packet["modbus.func_code"] for packet in packets} <= {"3", "4"}
    times = [float(packet["frame.time_epoch"]) for packet in packets]
    assert times == sorted(times)


async def test_capture_tells_what_is_no_frame(tmp_path: Path) -> None:
    """A broken answer stands there as it came, with the reason, and what follows is taken apart again."""
    writer = PcapWriter("bus", rtu=True)
    request, answer = frame(1, b"\x03\0\0\0\x01"), frame(1, b"\x03\x02\0\x07")
    pieces = [
        Piece(False, 0, request),
        Piece(True, 5 * MS, answer[:3]),
        Piece(True, 9 * MS, b"\xff" + answer[4:]),
        Piece(False, 300 * MS, request),
        Piece(True, 305 * MS, answer),
        Piece(True, 900 * MS, b"\0"),
    ]
    path = tmp_path / "bus.pcapng"
    path.write_bytes(writer.header() + b"".join(map(writer.add, pieces)) + writer.end())
    packets = await dissected(path)
    told = [packet["frame.comment"].partition(":")[0] for packet in packets]
    assert told == ["RTU", "the check sum does not match", "RTU", "RTU", "the capture ends here"]


async def test_capture_leaves_the_line_as_it_was(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """One look at a time; who hangs up ends his; polling goes on without an error."""
    async with bus(tmp_path, meters) as line, running(configure(tmp_path, line)) as configuration:
        path = socket_path(configuration)
        async with connected(path) as client:
            await told(client, lambda state: state.scans > 0)
            size = len(await client.capture("bus"))
            async with connected(path) as other:
                with pytest.raises(ControlError, match="captured already"):
                    await other.capture("bus")
                with pytest.raises(ControlError, match="there is no line 'hall'"):
                    await other.capture("hall")
            while size < 5000:
                size += len(await client.capture("bus"))
                await asyncio.sleep(0.01)  # what the line needs for more
        async with connected(path) as third:
            await eventually_captures(third)
            await third.capture("bus", last=True)
            assert (await third.status()).lines[0].errors == {}


async def eventually_captures(client: ControlClient) -> None:
    """The agent has noticed that the one before has hung up."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.capture("bus")
            except ControlError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_capture_without_an_agent(tmp_path: Path) -> None:
    """Nobody polls: there is nothing to see."""
    async with bus(tmp_path, [simulated("eastron-sdm630", 1)]) as line:
        path = configure(tmp_path, line)
        done = await parkfleet("line", "capture", "bus", "-o", str(tmp_path / "x"), "--config", str(path))
    assert done.code == 3
    assert not (tmp_path / "x").exists()


PIECES = st.lists(st.builds(Piece, st.booleans(), st.integers(0, 2**62), st.binary(max_size=300)), max_size=20)


@given(PIECES, st.booleans(), st.text(max_size=300))
def test_writer_takes_any_bytes(pieces: list[Piece], rtu: bool, name: str) -> None:
    """Whatever stands on a wire, the file's blocks fit together, and no byte of it is lost."""
    writer = PcapWriter(name, rtu)
    file = writer.header() + b"".join(map(writer.add, pieces)) + writer.end()
    at, captured = 0, 0
    while at < len(file):
        kind, size = (int.from_bytes(file[at + skip : at + skip + 4], "little") for skip in (0, 4))
        assert size % 4 == 0 and file[at + size - 4 : at + size] == size.to_bytes(4, "little")
        captured += kind == 6
        at += size
    assert at == len(file)
    assert captured <= len(pieces)
    assert bool(captured) == bool(pieces)
