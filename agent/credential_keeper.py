"""CredentialKeeper: keeps the gateway's certificate good for as long as the agent runs.

Connected, it asks for a further one when two thirds of the life are over. When the certificate has ended, because the
box was off for long, or when the controller hangs up on it, a short-lived child proves that the box has the key: it
loads what the agent need not have in memory.
"""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from parkfleet.agent.controller_connection import ConnectionLostError, ControllerConnection
from parkfleet.agent.identity import Credentials, IdentityError, IdentityFolder
from parkfleet.agent.tls_faults import told_fault, told_own_dates
from parkfleet.proto.errors import TlsFault
from parkfleet.protocols.address import is_loopback, split_address

log = logging.getLogger(__name__)

#: Renewal is due between these parts of the life: a fleet that enrolled in a week does not renew in an hour.
DUE: Final = (0.62, 0.70)
#: How often it is looked whether renewal is due, for clocks jump. Seconds.
LOOK_S: Final = 60.0
#: After a renewal, and after one that did not come about, it is not looked again for this part of the life, at most so
#: many seconds: a box whose clock is far ahead would take each new certificate for an old one.
AGAIN: Final = (0.02, 3600.0)
#: A child is started at once, then after pauses that double between these bounds. Seconds.
RECLAIM_AGAIN_S: Final = (15.0, 3600.0)
#: A controller that hangs up so often in a row, and for so long, may not like our certificate. One that is overloaded
#: hangs up too: ten thousand proofs would not help it. Seconds.
HUNG_UP: Final = 3
HUNG_UP_S: Final = (120.0, 240.0)
#: The longest a child may take. Seconds.
RECLAIM_S: Final = 120.0

#: Tries to get a new certificate for the key; what it was told if it did not, "" if it did.
Reclaim = Callable[[Path], Awaitable[str]]


class CredentialKeeper:
    """The credentials of one gateway's session. url is host:port; clock: seconds since 1970."""

    def __init__(
        self,
        url: str,
        folder: Path,
        reclaim: Reclaim | None = None,
        clock: Callable[[], float] = time.time,
        hung_up_s: tuple[float, float] = HUNG_UP_S,
    ) -> None:
        self._url = url
        self._folder = IdentityFolder(folder)
        self._reclaim = reclaim or reclaim_in_a_child
        self._clock = clock
        self._due = random.uniform(*DUE)
        self._hung_up = 0
        self._hung_up_s = random.uniform(*hung_up_s)
        self._hung_up_since = 0.0  # by the monotonic clock, as what follows
        self._reclaim_after = 0.0
        self._reclaim_pause = RECLAIM_AGAIN_S[0]

    def credentials(self) -> Credentials | None:
        """What to connect with; None for a plain connection to this machine. Raises ConnectionLostError."""
        try:
            found = self._folder.credentials()
        except IdentityError as error:
            raise ConnectionLostError(str(error)) from None
        if found is None and not is_loopback(split_address(self._url)[0]):
            raise ConnectionLostError("this gateway has not enrolled: parkfleet agent enroll TOKEN")
        return found

    def connected(self) -> None:
        """The controller has welcomed us."""
        self._hung_up = 0
        self._reclaim_after, self._reclaim_pause = 0.0, RECLAIM_AGAIN_S[0]

    async def keep_good(self, connection: ControllerConnection) -> float:
        """Asks for a further certificate when it is time; when to look again, in seconds. Raises nothing."""
        pause_s = LOOK_S
        try:
            now = self._folder.credentials()
            if now is None:
                return pause_s
            if (left := now.validity.at(self._due) - self._clock()) > 0:
                return min(left, pause_s)
            pause_s = min(AGAIN[0] * (now.validity.end - now.validity.begin), AGAIN[1])
            answer = await connection.renew()
            renewed = await asyncio.to_thread(self._folder.renewed, answer.certificate)
        except (ConnectionLostError, IdentityError, OSError) as error:
            log.warning("the certificate was not renewed: %s", error)
            return pause_s
        self._due = random.uniform(*DUE)
        log.info("this gateway has a further certificate, good %s", renewed.validity)
        return pause_s

    async def lost(self, error: ConnectionLostError) -> str:
        """A connection did not come about, or broke: does what may help, and says why in a sentence. Raises nothing."""
        try:
            found = self._folder.credentials()
        except IdentityError:
            return str(error)
        if found is None:
            return self._told_plain(error)
        told = str(error) if error.fault is None else await told_fault(error.fault, self._url, found.ca)
        if error.fault is not TlsFault.CLOSED:
            self._hung_up = 0
            return told
        now = time.monotonic()
        self._hung_up_since = self._hung_up_since if self._hung_up else now
        self._hung_up += 1
        ended = told_own_dates(found, self._clock())
        suspect = self._hung_up >= HUNG_UP and now - self._hung_up_since >= self._hung_up_s
        if (ended or suspect) and now >= self._reclaim_after:
            return await self._reclaimed(ended or told)
        return ended or told

    async def _reclaimed(self, told: str) -> str:
        """Has a child prove that we have the key."""
        why = await self._reclaim(self._folder.folder)
        self._hung_up = 0
        self._reclaim_after = time.monotonic() + self._reclaim_pause
        self._reclaim_pause = min(2 * self._reclaim_pause, RECLAIM_AGAIN_S[1])
        if not why:
            log.info("this gateway has a new certificate, by proof of its key")
            return f"{told}; a new certificate was given, by proof of the key"
        return why

    def _told_plain(self, error: ConnectionLostError) -> str:
        if error.fault is TlsFault.CLOSED:
            return f"{self._url} hung up: if it wants certificates, enrol this gateway: parkfleet agent enroll TOKEN"
        return str(error)


async def reclaim_in_a_child(folder: Path) -> str:
    """Runs `parkfleet agent renew`."""
    command = [sys.executable, "-m", "parkfleet", "agent", "renew", "--identity", str(folder), "--json"]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(RECLAIM_S):
            out, err = await child.communicate()
    except TimeoutError:
        return f"asking for a new certificate took longer than {RECLAIM_S:g} s"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        return str(json.loads(out)["told"])
    except (ValueError, KeyError, TypeError):
        return f"asking for a new certificate failed: {err.decode('utf-8', 'replace').strip()[-200:] or 'no reason'}"
