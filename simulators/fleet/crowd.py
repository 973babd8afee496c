"""Crowd: many simulated gateways in one process, each with its own certificate and session, and what they saw."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from parkfleet.agent.identity import Credentials
from parkfleet.controller.authority import Authority
from parkfleet.protocols.certificate import validity
from parkfleet.simulators.fleet.gateway import SimulatedGateway

DAY_S: Final = 86_400.0
#: Gateways that are started at once; the next ones follow when the loop has come round.
STEP: Final = 50


class CrowdState(msgspec.Struct, frozen=True):
    """How the crowd fares."""

    gateways: int
    connected: int
    sessions: int  # begun since the start
    tries: int  # that failed since the gateways' last sessions
    heartbeats: int
    revisions: dict[str, int]  # gateways by the revision that they have confirmed, the commonest
    told: dict[str, int]  # why others are not connected


class CrowdReport(msgspec.Struct):
    """What is left at the end. Times are unix seconds, sorted."""

    gateways: int
    connected: list[float] = []  # when each gateway was first seen connected
    confirmed: dict[str, list[float]] = {}  # by revision: when each gateway was seen to have confirmed it


def names(gateways: int, parks: int, first: int = 0) -> Iterator[tuple[str, str]]:
    """(park, gateway) of so many gateways, dealt over the parks."""
    for number in range(first, first + gateways):
        yield f"p{number % parks + 1:02}", f"gw-{number:05}"


def issued(authority: Authority, park: str, gateway: str) -> Credentials:
    """A gateway's key and certificate, as if it had enrolled."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = authority.client(f"{park}/{gateway}", key.public_key(), time.time(), DAY_S).pem.encode()
    return Credentials(authority.pem, pem, chain, validity(chain))


class Crowd:
    """So many gateways of one controller."""

    def __init__(
        self,
        keys: Iterator[tuple[str, str]],
        url: str,
        data: Path | None,
        trial_s: float = 0.0,
    ) -> None:
        """data: the controller's folder, whose authority signs; None: plain connections.

        Raises AuthorityError, OSError.
        """
        authority = None if data is None else Authority.at(data, time.time())
        self.gateways = [
            SimulatedGateway(
                park, gateway, lambda: url, issued(authority, park, gateway) if authority else None, trial_s
            )
            for park, gateway in keys
        ]
        self.report = CrowdReport(len(self.gateways))
        self._seen_connected: set[str] = set()
        self._seen_confirmed: dict[str, int] = {}

    async def run(self, stop: asyncio.Event, look_s: float, tell: Callable[[CrowdState], None]) -> None:
        """Runs until stop; tells how it fares now and then."""
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number, gateway in enumerate(self.gateways, 1):
                tasks.append(group.create_task(gateway.run(), name=f"{gateway.park}/{gateway.gateway}"))
                if number % STEP == 0:
                    await asyncio.sleep(0)
            telling = group.create_task(self._tell_for_ever(look_s, tell), name="crowd's state")
            await stop.wait()
            for task in (telling, *tasks):
                task.cancel()

    def look(self) -> None:
        """Notes what has changed since the last look."""
        now = time.time()
        for gateway in self.gateways:
            if gateway.status.connected and gateway.gateway not in self._seen_connected:
                self._seen_connected.add(gateway.gateway)
                self.report.connected.append(now)
            if self._seen_confirmed.get(gateway.gateway, 0) != gateway.confirmed:
                self._seen_confirmed[gateway.gateway] = gateway.confirmed
                self.report.confirmed.setdefault(str(gateway.confirmed), []).append(now)

    def state(self) -> CrowdState:
        """How it fares now."""
        revisions = Counter(str(gateway.confirmed) for gateway in self.gateways)
        away = (gateway.status.told for gateway in self.gateways if not gateway.status.connected)
        return CrowdState(
            gateways=len(self.gateways),
            connected=sum(gateway.status.connected for gateway in self.gateways),
            sessions=sum(gateway.status.sessions for gateway in self.gateways),
            tries=sum(gateway.status.tries for gateway in self.gateways),
            heartbeats=sum(gateway.status.heartbeats for gateway in self.gateways),
            revisions=dict(revisions.most_common(5)),
            told=dict(Counter(told or "not connected yet" for told in away).most_common(5)),
        )

    async def _tell_for_ever(self, look_s: float, tell: Callable[[CrowdState], None]) -> None:
        told_at = 0.0
        while True:
            self.look()
            if time.monotonic() - told_at >= 1.0:
                told_at = time.monotonic()
                tell(self.state())
            await asyncio.sleep(look_s)  # how exact the report's times are
