"""Harness: programs compiled for a benchmark and run on cores of their own."""

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
OUT: Final = ROOT / "build" / "bench"
PEERS: Final = Path(__file__).resolve().parent / "peers"
#: The server (or line) runs on the first core, the client that is measured on the second.
SERVER_CORE, CLIENT_CORE = "0", "1"


def compiled(source: str, *libraries: str) -> Path | None:
    """A C program of peers/, built; None when a library it needs is not installed."""
    OUT.mkdir(parents=True, exist_ok=True)
    program = OUT / source.removesuffix(".c")
    flags: list[str] = []
    for library in libraries:
        query = ["pkg-config", "--cflags", "--libs", library]
        found = subprocess.run(query, capture_output=True, text=True, check=False)
        if found.returncode:
            return None
        flags += found.stdout.split()
    command = [
        shutil.which("cc") or "gcc",
        "-O2",
        "-o",
        str(program),
        str(PEERS / source),
        *flags,
        "-lutil",
        "-pthread",
    ]
    subprocess.run(command, check=True)
    return program


@contextmanager
def served(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on its core: yields it and its first line of output; it ends with its standard input."""
    pinned = ["taskset", "-c", SERVER_CORE, *command]
    with subprocess.Popen(pinned, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.stdin.close()


def last_words(server: subprocess.Popen[str]) -> list[float]:
    """Ends a server and reads the numbers it prints then."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    return [float(word) for word in server.stdout.read().split()]


def measured(*command: str, within_s: float = 300) -> list[float]:
    """The numbers a client prints, run on its core."""
    pinned = ["taskset", "-c", CLIENT_CORE, *command]
    done = subprocess.run(pinned, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=within_s, check=True)
    return [float(word) for word in done.stdout.split()]


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs one of our client modules."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def median(numbers: Sequence[float]) -> float:
    """Of the rounds."""
    return statistics.median(numbers)
