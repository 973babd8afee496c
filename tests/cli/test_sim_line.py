"""parkfleet sim line: simulated meters of any models, for whoever tries the installer's commands without a cabinet."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.installer.test_installer_cli import parkfleet


async def started(*arguments: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "parkfleet", "sim", "line", *arguments)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)


async def test_line_on_a_device_is_scanned_and_read(tmp_path: Path) -> None:
    """At its own setting, and only there; Ctrl-C ends it in order."""
    bus = tmp_path / "bus"
    meters = ("3=socomec-countis-e24", "5=fuxin-gas")
    process = await started(*meters, "--device", str(bus), "--baud", "19200", "--parity", "E")
    assert process.stdout is not None
    told = (await process.stdout.readline()).decode()
    assert told.startswith(f"serial://{bus}?baud=19200: units 3, 5")
    options = ("--line", f"serial://{bus}", "--baud", "9600,19200", "--parity", "N,E", "--units", "3-5")
    scanned = await parkfleet("scan", *options, "--timeout", "50ms", "--json")
    process.send_signal(signal.SIGINT)
    await process.communicate()
    found = json.loads(scanned.out)["findings"]
    assert [(f["unit"]["unit"], f["unit"]["address"]["baud"], f["candidates"][0]["profile"]) for f in found] == [
        (3, 19200, "socomec-countis-e24"),
        (5, 19200, "fuxin-gas"),
    ]
    assert found[0]["candidates"][0]["signed"]
    assert process.returncode == 0
    assert not bus.exists()


async def test_line_over_tcp() -> None:
    """Port 0 chooses one."""
    process = await started("1=abb-b23", "--tcp", "0")
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split(": ")[0]
    scanned = await parkfleet("scan", "--line", url, "--units", "1", "--json")
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    (finding,) = json.loads(scanned.out)["findings"]
    assert finding["candidates"][0]["profile"] == "abb-b23"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("eastron-sdm630",), "expected UNIT=PROFILE"),
        (("0=eastron-sdm630",), "from 1 to 247"),
        (("1=eastron-sdm631",), "did you mean 'eastron-sdm630'?"),
        (("1=abb-b23", "1=abb-b23"), "a unit id of its own"),
        (("1=abb-b23", "--baud", "9601"), "no port has 9601 baud"),
        (("1=abb-b23", "--parity", "X"), "expected the parity"),
        (("1=abb-b23", "--device", "/nowhere/bus"), "there is no folder"),
        (("1=abb-b23", "--device", "/etc/hostname"), "is there already"),
    ],
)
async def test_line_options_that_are_wrong(arguments: tuple[str, ...], told: str) -> None:
    """A sentence and exit code 1."""
    process = await started(*arguments)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert told in err.decode()
