"""SimulatedGateway: the agent's own session with a controller, in front of a gateway that only pretends.

It takes a configuration as a gateway does: received, on trial, confirmed; its readings it makes up. Thousands of them
share a process.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from parkfleet.agent.controller_connection import ConnectionLostError, ControllerConnection
from parkfleet.agent.credential_keeper import CredentialKeeper
from parkfleet.agent.identity import Credentials
from parkfleet.agent.session import RECONNECT_S, ControllerSession, SessionStatus
from parkfleet.agent.status import (
    AgentFacts,
    AgentSnapshot,
    BrokerLink,
    ConfigurationName,
    Desired,
    LineReport,
    ReportedState,
)

VERSION: Final = "0.0.0-simulated"
#: A look at the clock of a certificate that never ends. Seconds.
NEVER_S: Final = 3600.0


class FixedKeeper(CredentialKeeper):
    """Credentials that are kept in memory, and never renewed."""

    def __init__(self, given: Credentials) -> None:
        self._given = given

    def credentials(self) -> Credentials:
        """Always the same."""
        return self._given

    def connected(self) -> None:
        """Nothing to remember."""

    async def keep_good(self, connection: ControllerConnection) -> float:
        """They are good."""
        return NEVER_S

    async def lost(self, error: ConnectionLostError) -> str:
        """Nothing helps but to try again."""
        return str(error)


@dataclass
class SimulatedGateway:
    """One gateway; url() is where its controller is when it dials."""

    park: str
    gateway: str
    url: Callable[[], str]
    credentials: Credentials | None = None  # None: a plain connection
    trial_s: float = 0.0  # a configuration is confirmed after so long
    meters: int = 8
    reconnect_s: tuple[float, float] = RECONNECT_S
    refused: str = ""  # it goes back from every configuration, for this reason
    received: list[int] = field(default_factory=list)  # revisions, as they came
    status: SessionStatus = field(default_factory=SessionStatus)
    state: ReportedState = field(
        default_factory=lambda: ReportedState(VERSION, ConfigurationName(hash="local")), repr=False
    )

    @property
    def confirmed(self) -> int:
        """The revision that it runs and keeps; 0: its local file."""
        return 0 if self.state.on_trial else self.state.running.revision

    async def run(self) -> None:
        """Runs until cancelled."""
        url = self.url()
        facts = AgentFacts(self.park, self.gateway, VERSION, "boot", "local", 1, self.meters)
        keeper = FixedKeeper(self.credentials) if self.credentials else None
        session = ControllerSession(
            url,
            facts,
            self._snapshot,
            lambda: self.state,
            reconnect_s=self.reconnect_s,
            on_desired=lambda desired: self._take(desired, session),
            keeper=keeper,
        )
        self.status = session.status
        await session.run()

    def _take(self, desired: Desired, session: ControllerSession) -> None:
        """As a gateway does, without a line to restart."""
        self.received.append(desired.name.revision)
        before = self.state.running
        if self.refused:
            self.state = ReportedState(VERSION, before, desired.name, desired.name, self.refused)
            return
        self.state = ReportedState(VERSION, desired.name, desired.name, on_trial=True)

        def confirm() -> None:
            if self.state.running == desired.name:
                self.state = ReportedState(VERSION, desired.name, desired.name)
                session.look()

        asyncio.get_running_loop().call_later(self.trial_s, confirm)

    def _snapshot(self) -> AgentSnapshot:
        line = LineReport("bus1", load=round(random.random(), 3), requests=self.status.heartbeats * 10)
        return AgentSnapshot(
            uptime_s=self.status.heartbeats,
            broker=BrokerLink(True),
            lines=(line,),
            meters_ok=self.meters,
            rss_bytes=30 * 1024**2,
        )
