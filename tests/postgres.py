"""A real PostgreSQL for tests: Debian's server in a folder of its own, gone with the test run."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

import asyncpg

USER: Final = "parkfleet"
#: initdb takes up to 3 s on an idle machine. Seconds.
START_S: Final = 120


class PostgresMissingError(Exception):
    """PostgreSQL's server is not installed here."""


class Postgres:
    """A server on a free port of this machine while its block runs. It wants a password, as a real one does."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(8)
        self.port = _free_port()
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="parkfleet-postgres-"))
        self._data = self._folder / "data"

    def __enter__(self) -> Self:
        try:
            password = self._folder / "password"
            password.write_text(self.password)
            if os.getuid() == 0:
                shutil.chown(self._folder, "nobody", "nogroup")
                shutil.chown(password, "nobody", "nogroup")
            initdb = ("initdb", "-D", self._data, "-U", USER, "--pwfile", password, "--auth=scram-sha-256", "-N")
            self._run(*map(str, initdb))
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it; returns when it takes connections."""
        # Its data need not outlive the machine: without fsync a test's database is made in a tenth of a second.
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        log = self._folder / "log"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(log), "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Ends it: immediate is what a crash looks like to its clients, fast breaks them off in order."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def url(self, name: str) -> str:
        """Of a database, without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    async def create(self, name: str) -> str:
        """Makes a database; its url."""
        await self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    async def execute(self, statement: str, name: str = "postgres") -> list[tuple[object, ...]]:
        """Runs a statement; its rows."""
        connection = await asyncpg.connect(self.url(name), password=self.password)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        """Runs one of its programs: as nobody when we are root, which the server refuses to be."""
        drop = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups") if os.getuid() == 0 else ()
        command = [*drop, str(self._programs / program), *arguments]
        output = self._folder / f"{program}.out"  # no pipe: the server would keep it open
        with output.open("wb") as file:
            done = subprocess.run(
                command, cwd="/", stdout=file, stderr=file, stdin=subprocess.DEVNULL, timeout=START_S, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{output.read_text()}")


def _programs() -> Path:
    """The folder of the newest server's programs. Raises PostgresMissingError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if where := shutil.which("initdb"):
        return Path(where).resolve().parent
    raise PostgresMissingError("PostgreSQL's server is not installed: apt install postgresql")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database_name(test: str) -> str:
    """A name for a test's database that no other test has."""
    return f"{re.sub(r'[^a-z0-9]+', '_', test.lower())[:40]}_{secrets.token_hex(4)}"
