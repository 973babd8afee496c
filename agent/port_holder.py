"""Port holder: which process has locked a serial port."""

import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


def holder(device: str, proc: Path = PROC) -> str:
    """Such as "parkfleet agent run (process 812)"; empty where Linux does not tell."""
    try:
        found = Path(device).stat()
        rows = (proc / "locks").read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 1: FLOCK  ADVISORY  WRITE 812 00:18:5 0 EOF
    processes = (words[4] for row in rows if (words := row.split())[1:2] == ["FLOCK"] and words[5:6] == [place])
    return next((f"{_name(proc / process)} (process {process})" for process in processes), "")


def _name(process: Path) -> str:
    """The program; of a script what comes behind its interpreter: parkfleet agent run."""
    try:
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "a program"
    program = Path(words[0]).name
    if program.startswith("python") and len(words) > 1:
        program = " ".join([Path(words[1]).name, *words[2:4]]).strip()
    return "".join(c for c in program if c.isprintable())[:60] or "a program"
