"""Who has locked a port is named as far as Linux tells."""

import asyncio
import os
import sys
from pathlib import Path

from parkfleet.agent.port_holder import holder

_LOCKS = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


async def test_holder_of_a_locked_port(tmp_path: Path) -> None:
    """The process that has the lock, by its script's name; nobody once it is gone."""
    script = tmp_path / "busy-tool"
    script.write_text(_LOCKS)
    ours, theirs = os.openpty()
    try:
        device, pipe = os.ttyname(theirs), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, script, device, stdin=pipe, stdout=pipe)
        assert process.stdout is not None
        await process.stdout.readline()
        assert holder(device).startswith("busy-tool")
        assert f"(process {process.pid})" in holder(device)
        await process.communicate(b"")
        assert holder(device) == ""
    finally:
        os.close(ours)
        os.close(theirs)


def test_holder_where_nothing_is_told(tmp_path: Path) -> None:
    """No such device, no list of locks, a process that has ended or hides."""
    assert holder(str(tmp_path / "ttyUSB9")) == ""
    assert holder("/dev/null", tmp_path) == ""
    place = Path("/dev/null").stat()
    inode = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
    (tmp_path / "locks").write_text(f"1: POSIX ADVISORY\n2: FLOCK  ADVISORY  WRITE 77 {inode} 0 EOF\n")
    assert holder("/dev/null", tmp_path) == "a program (process 77)"
