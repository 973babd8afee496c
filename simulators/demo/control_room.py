"""Control room: the demo's controller as a process, and the first admin's hands at it.

With the controller's own packages it is one for a fleet: it makes its authority, the admin signs in and makes a join
token, the gateway enrols. Where only the agent's packages are installed, everything goes in plain text on this machine.
"""

import asyncio
import contextlib
import importlib.util
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parkfleet.controller.client import FleetClient, FleetError
from parkfleet.simulators.processes import Child

PARKFLEET: Final = (sys.executable, "-m", "parkfleet")
#: Of the controller's own packages, one that nothing else needs.
NEEDED: Final = "sqlalchemy"


class ControlRoomError(Exception):
    """The controller does not start, or the gateway does not enrol; the message says why."""


@dataclass(frozen=True)
class ControlRoom:
    """A controller that takes connections. Addresses are host:port."""

    child: Child
    sessions: str
    operators: str
    ca: bytes | None = None  # PEM; None: plain
    admin: str = ""  # who is signed in: the session's token

    def client(self) -> FleetClient:
        """For what the admin asks."""
        return FleetClient(self.operators, token=self.admin, ca=self.ca)

    async def enrol(self, config: Path, park: str) -> None:
        """Has the gateway whose gateway.yaml that is enrol as an installer does. Raises ControlRoomError."""
        if self.ca is None:
            return
        command = (*PARKFLEET, "agent", "enroll", "-", "--config", str(config))
        pipe = asyncio.subprocess.PIPE
        box = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        _, told = await box.communicate((await self._join_token(park)).encode())
        if box.returncode:
            raise ControlRoomError(f"the gateway does not enrol: {told.decode().strip()[-500:]}")

    async def _join_token(self, park: str) -> str:
        from parkfleet.proto.identity_pb2 import CreateTokenRequest
        from parkfleet.proto.identity_pb2_grpc import FleetIdentityStub

        request = CreateTokenRequest(park=park, uses=1, ttl_ms=3_600_000, reason="demo")
        async with self.client() as fleet:
            answer = await FleetIdentityStub(fleet.channel).CreateToken(request)
        return str(answer.text)


@contextlib.asynccontextmanager
async def control_room(folder: Path) -> AsyncIterator[ControlRoom]:
    """A controller with its files in a folder; it ends with the block. Raises ControlRoomError."""
    guarded = importlib.util.find_spec(NEEDED) is not None
    options = ("--data", str(folder / "controller")) if guarded else ()
    command = [
        *PARKFLEET,
        "controller",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--heartbeat",
        "1s",
        "--web",
        "off",
        *options,
    ]
    async with Child("controller", command, folder / "controller.log") as child:
        sessions = await _said(child, r"controller listening on (\S+)")
        if not guarded:
            yield ControlRoom(child, sessions, sessions)
            return
        operators = await _said(child, r"operators at ([^\s,]+)")
        ca = (folder / "controller" / "ca.pem").read_bytes()
        password = await _said(child, r"the first user is admin, password \(shown this once\): (\S+)")
        yield ControlRoom(child, sessions, operators, ca, await _signed_in(operators, ca, password))


async def _signed_in(operators: str, ca: bytes, password: str) -> str:
    """The token of the admin's session. Raises ControlRoomError."""
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto.operators_pb2 import SignInRequest

    try:
        async with FleetClient(operators, ca=ca) as fleet:
            answer = await OperatorsClient(fleet).call("SignIn", SignInRequest(user="admin", password=password))
    except FleetError as error:
        raise ControlRoomError(str(error)) from None
    return str(answer.token)


async def _said(child: Child, pattern: str) -> str:
    """What the child says, once it does. Raises ControlRoomError when it ends instead."""
    ended = asyncio.create_task(child.wait())
    try:
        while not (found := re.search(pattern, child.output())):
            if ended.done():
                raise ControlRoomError(f"the controller does not start: {child.output().strip()[-500:]}")
            await asyncio.wait({ended}, timeout=0.02)
        return found[1]
    finally:
        ended.cancel()
