"""Shifted clock: sets the wall clock that one process sees, while it runs; everybody else keeps the time."""

import mmap
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
#: So long around a step a reading may still bear the time of before. Seconds.
UNSURE_S: Final = 15.0


class ShiftedClock:
    """For children that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """folder: for the library and the file that says the shift."""
        library, file = folder / "shifted_clock.so", folder / "clock"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as stream:
            self._shared = mmap.mmap(stream.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "PF_CLOCK": str(file)}
        self._steps: list[tuple[float, int]] = [(0.0, 0)]  # when, and the shift since then

    def shift(self, seconds: int) -> None:
        """From now on their clock is ahead by so much; below 0: behind."""
        self._shared[:] = struct.pack("=q", seconds)
        self._steps.append((time.time(), seconds))

    def shifts_at(self, moment: float) -> set[int]:
        """By how much it was ahead at a unix time; around a step both answers."""
        ends = [began for began, _ in self._steps[1:]] + [float("inf")]
        return {
            seconds
            for (began, seconds), ended in zip(self._steps, ends, strict=True)
            if began - UNSURE_S <= moment <= ended + UNSURE_S
        }
