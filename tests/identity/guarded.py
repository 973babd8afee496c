"""A guarded controller: a process with certificates, and boxes that enrol at it, as people do it."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from parkfleet.controller.client import FleetClient
from parkfleet.controller.logins import Login, Logins
from parkfleet.controller.operators_client import OperatorsClient
from parkfleet.proto import operators_pb2
from parkfleet.simulators.processes import Child
from tests.eventually import eventually

PARKFLEET = [sys.executable, "-m", "parkfleet"]


async def command(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path | None = None
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `parkfleet …`."""
    import os

    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *PARKFLEET, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env={**os.environ, **(env or {})}
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    # The boxes around usage errors break lines wherever they must.
    return process.returncode, out.decode(), " ".join(err.decode().replace("│", " ").split())


class Guarded:
    """A controller process that takes connections."""

    def __init__(self, child: Child, data: Path) -> None:
        self.child = child
        self.data = data

    @property
    def sessions(self) -> str:
        """host:port for gateways."""
        return self._said(r"controller listening on (\S+)")

    @property
    def enrolment(self) -> str:
        """host:port for boxes that enrol."""
        return self._said(r"boxes enrol at ([^\s,]+)")

    @property
    def operators(self) -> str:
        """host:port for operators."""
        return self._said(r"operators at ([^\s,]+)")

    @property
    def env(self) -> dict[str, str]:
        """For commands of the first admin, who is signed in."""
        home = str(self.data.parent / "admin")
        return {
            "PARKFLEET_CONTROLLER": self.operators,
            "PARKFLEET_CA": str(self.data / "ca.pem"),
            "XDG_CONFIG_HOME": home,
        }

    @property
    def first_password(self) -> str:
        """The first admin's, as it was said once."""
        return self._said(r"the first user is admin, password \(shown this once\): (\S+)")

    async def sign_in(self) -> None:
        """As `fleet login` does, without its process."""
        ca = (self.data / "ca.pem").read_bytes()
        request = operators_pb2.SignInRequest(user="admin", password=self.first_password)
        async with FleetClient(self.operators, ca=ca) as fleet:
            answer = await OperatorsClient(fleet).call("SignIn", request)
        logins = Logins(self.data.parent / "admin" / "parkfleet" / "logins.json")
        logins.keep(Login(self.operators, "admin", answer.token, answer.person.expires_ms, ca.decode()))

    async def fleet(self, *arguments: str) -> str:
        """`parkfleet fleet …`, which must succeed; what it prints."""
        code, out, err = await command("fleet", *arguments, env=self.env)
        assert code == 0, err
        return out

    async def token(self, park: str = "p1", *options: str) -> str:
        """A join token."""
        return (await self.fleet("token", "create", "--park", park, "--reason", "test", *options)).strip()

    async def enrol(self, token: str, config: Path, *options: str) -> tuple[int, str, str]:
        """`parkfleet agent enroll` of a box whose gateway.yaml is, or will be, there."""
        return await command("agent", "enroll", "-", "--config", str(config), *options, stdin=token)

    def _said(self, pattern: str) -> str:
        return str(re.findall(pattern, self.child.output())[-1])


@asynccontextmanager
async def guarded(folder: Path, *options: str, listen: str = "127.0.0.1:0") -> AsyncIterator[Guarded]:
    """A controller with its data in folder/data; what was there before it knows. It ends with the block."""
    data = folder / "data"
    run = [*PARKFLEET, "controller", "run", "--listen", listen, "--data", str(data), "--heartbeat", "1s", *options]
    log = folder / "controller.log"
    said = log.read_text().count("controller listening") if log.exists() else 0
    async with Child("controller", run, log) as child:
        await eventually(lambda: child.output().count("controller listening") > said or not child.running)
        assert child.running, child.output()
        controller = Guarded(child, data)
        if "the first user is admin" in child.output():
            await controller.sign_in()
        yield controller
