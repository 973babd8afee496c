"""Signing in to a controller's process, as a person does: the password from its first lines, then `fleet login`."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from parkfleet.simulators.processes import Child
from tests.eventually import eventually

PARKFLEET = [sys.executable, "-m", "parkfleet"]


async def command(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that gets a text on standard input."""
    process = await asyncio.create_subprocess_exec(
        *PARKFLEET,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    # The boxes around usage errors break lines wherever they must.
    return process.returncode, out.decode(), " ".join(err.decode().replace("│", " ").split())


def first_password(controller: Child) -> str:
    """The first admin's, as it was said once."""
    found = re.search(r"the first user is admin, password \(shown this once\): (\S+)", controller.output())
    assert found is not None, controller.output()
    return found[1]


async def sign_in(controller: Child, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has the commands of this test signed in as the first admin, at a controller that listens."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    await eventually(lambda: "controller listening on" in controller.output() or not controller.running)
    address = controller.output().split("controller listening on ")[1].split()[0]
    monkeypatch.setenv("PARKFLEET_CONTROLLER", address)
    code, _, err = await command("fleet", "login", "--user", "admin", stdin=f"{first_password(controller)}\n")
    assert code == 0, err
