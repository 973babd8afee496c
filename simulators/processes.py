"""Processes: children that never outlive us, each with its output in a file."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Final, Self

#: util-linux, part of every Debian: Linux ends the command when our process ends, however that happens. Done by a
#: program and not between fork and exec (preexec_fn), where gRPC's threads make anything unsafe.
_DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")


class Child:
    """A started command. Ends with the block, politely first."""

    def __init__(self, name: str, command: list[str], log: Path, grace_s: float = 6.0) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(_DIE_WITH_PARENT if shutil.which("setpriv") else ()),
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches us alone; we end the children in order
            )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Of the command itself: setpriv becomes it."""
        assert self._process is not None
        return self._process.pid

    async def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL when it has not left in its grace; returns the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._send(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._send(signal.SIGKILL)
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL: what a power cut looks like to a process."""
        self._send(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Any other signal."""
        self._send(number)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
