"""Syncs: what a process writes to its disk and how often it syncs it, counted between it and the C library."""

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("peers") / "syncs.c"


@dataclass(frozen=True)
class Written:
    """Since the process began."""

    syncs: int
    writes: int
    bytes: int


class SyncCounter:
    """For one child process: start it with `environment`, read `written` at any moment."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "syncs"
        self._file.write_bytes(bytes(24))
        library = folder / "syncs.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "PF_SYNCS": str(self._file)}

    @property
    def written(self) -> Written:
        return Written(*struct.unpack("<3Q", self._file.read_bytes()))
