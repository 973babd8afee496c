"""ControllerSession: keeps the agent in touch with its controller, for as long as the agent runs.

Makes a connection, lives on it, and makes the next: the controller may be away for ever, and the agent works on.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parkfleet.agent.controller_connection import ConnectionLostError, ControllerConnection
from parkfleet.agent.credential_keeper import CredentialKeeper
from parkfleet.agent.deeds import Deeds, Doer
from parkfleet.agent.reporting import Reporting
from parkfleet.agent.session_messages import desired_configuration, goodbye_message
from parkfleet.agent.status import AgentFacts, AgentSnapshot, ConfigurationName, Desired, ReportedState
from parkfleet.proto import limits
from parkfleet.proto.session_pb2 import AgentMessage, ControllerMessage

log = logging.getLogger(__name__)

#: Takes a configuration that the gateway should run.
OnDesired = Callable[[Desired], None]

#: Pause before the next connection: a random part (0 to all) of a bound that doubles from the first to the last, so
#: that ten thousand gateways that lost their controller together do not come back together. Seconds.
RECONNECT_S: Final = (2.0, 60.0)
#: A controller that says when to come back has found a place for us: we come at most this part of it later.
LATER: Final = 0.1
#: Heartbeats come at 1 ± this part of their interval, for the same reason.
JITTER: Final = 0.1
#: The same failure is told again after so long. Seconds.
TELL_AGAIN_S: Final = 600.0


@dataclass
class SessionStatus:
    """How the session fares, since the agent started."""

    connected: bool = False  # the controller has welcomed us
    told: str = ""  # why not
    session: int = 0  # the controller's number of it
    sessions: int = 0  # opened
    heartbeats: int = 0  # sent
    tries: int = 0  # that failed since the last session
    away_s: float = 0.0  # the controller asked us to stay away for so long, after the last session


class ControllerSession:
    """One gateway's session with one controller, across any number of connections.

    url is host:port; snapshot and state are called for every heartbeat, on_desired for every configuration that the
    controller sends; none may block. doers: how deeds are done that operators ask for.
    """

    def __init__(
        self,
        url: str,
        facts: AgentFacts,
        snapshot: Callable[[], AgentSnapshot],
        state: Callable[[], ReportedState] | None = None,
        *,
        reconnect_s: tuple[float, float] = RECONNECT_S,
        on_desired: OnDesired | None = None,
        doers: dict[str, Doer] | None = None,
        keeper: CredentialKeeper | None = None,
    ) -> None:
        """keeper: has the certificates; None for plain connections."""
        self._keeper = keeper
        self._url = url
        self._facts = facts
        self._snapshot = snapshot
        self._state = state or self._running_only
        self._reconnect_s = reconnect_s
        self._on_desired = on_desired
        self._doers = doers or {}
        self._reporting = Reporting()
        self._connection: ControllerConnection | None = None  # once we are welcome
        self._told: ReportedState | None = None  # told last
        self._logged = ("", 0.0)  # the last failure that was logged, and when
        self.status = SessionStatus()

    async def run(self) -> None:
        """Runs until cancelled; says goodbye then, within a second. Nothing but the cancellation comes out."""
        bound = self._reconnect_s[0]
        while True:
            self.status.away_s = 0.0
            opened = time.monotonic()
            try:
                await self._one_connection()
            except ConnectionLostError as error:
                self._tell(str(error) if self._keeper is None else await self._keeper.lost(error))
            except Exception as error:  # a fault of ours must not cost the agent its readings
                log.exception("the controller session failed by our own fault")
                self._tell(f"{type(error).__name__}: {error}")
            # A session that lasted was a good one. One that did not is no reason to hurry: two boxes of the same
            # name would throw each other out several times a second.
            if time.monotonic() - opened > self._reconnect_s[1]:
                bound = self._reconnect_s[0]
                self._logged = ("", 0.0)
            if self.status.away_s:  # it lives, and spreads its agents itself
                bound = self._reconnect_s[0]
                pause = self.status.away_s + random.uniform(0, max(bound, self.status.away_s * LATER))
            else:
                pause = random.uniform(0, bound)
                bound = min(2 * bound, self._reconnect_s[1])
            await asyncio.sleep(pause)

    def look(self) -> None:
        """The state may have changed: if so, the controller is told now and not with the next heartbeat."""
        if self._connection is not None and self._state() != self._told:
            self._connection.wake()

    async def _one_connection(self) -> None:
        """Dials, says hello, and heartbeats until the connection is lost. Raises ConnectionLostError."""
        connection = ControllerConnection(self._url, self._keeper.credentials() if self._keeper else None)
        deeds = Deeds(self._doers, lambda output: connection.send(AgentMessage(deed_output=output)))
        goodbye = None
        keeping: asyncio.Task[None] | None = None
        try:
            hello = self._reporting.hello(self._facts, self._state())
            interval_s = self._welcomed(await connection.open(hello))
            self._connection = connection
            if self._keeper is not None:
                keeping = asyncio.create_task(self._keep_credentials(self._keeper, connection), name="credentials")
            await self._heartbeat_for_ever(connection, deeds, interval_s)
        except asyncio.CancelledError:
            goodbye = goodbye_message("the agent is stopping") if self.status.connected else None
            raise
        finally:
            self.status.connected = False
            self._connection = None
            await deeds.close()
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait({keeping})
            await connection.close(goodbye)

    def _welcomed(self, message: ControllerMessage) -> float:
        """Takes the controller's first message; returns the heartbeat interval in seconds."""
        if message.WhichOneof("message") != "welcome":
            self._take(message)
            raise ConnectionLostError(
                f"the controller sends us away: {message.retry_after.reason or 'no reason given'}"
            )
        self._reporting.welcomed(message.welcome)
        log.info("connected to the controller %s", self._url)
        status = self.status
        status.connected, status.told, status.tries = True, "", 0
        status.session = message.welcome.session
        status.sessions += 1
        low, high = limits.HEARTBEAT_S
        return min(max(message.welcome.heartbeat_interval_ms / 1000, low), high)

    async def _heartbeat_for_ever(self, connection: ControllerConnection, deeds: Deeds, interval_s: float) -> None:
        """Sends heartbeats, and the state whenever it has changed; takes what the controller says in between."""
        loop = asyncio.get_running_loop()
        sequence = 0
        while True:
            await self._tell_state(connection)
            sequence += 1
            wall_ms = time.time_ns() // 1_000_000
            await connection.send(self._reporting.heartbeat(self._snapshot(), sequence, wall_ms, loop.time()))
            self.status.heartbeats += 1
            due = loop.time() + interval_s * random.uniform(1 - JITTER, 1 + JITTER)
            while (left := due - loop.time()) > 0:
                message = await connection.receive(left)
                if message is not None:
                    self._take(message, deeds)
                if loop.time() < due:  # else it comes with the heartbeat
                    await self._tell_state(connection)

    async def _tell_state(self, connection: ControllerConnection) -> None:
        """Tells the controller a state that it does not know."""
        self._told = self._state()
        message = self._reporting.status(self._told)
        if message is not None:
            await connection.send(message)

    async def _keep_credentials(self, keeper: CredentialKeeper, connection: ControllerConnection) -> None:
        """Looks now and then whether a further certificate is due."""
        keeper.connected()
        while True:
            pause_s = await keeper.keep_good(connection)
            await asyncio.sleep(pause_s)  # the pace of looking

    def _take(self, message: ControllerMessage, deeds: Deeds | None = None) -> None:
        """Does what the controller says. Raises ConnectionLostError when it says goodbye."""
        match message.WhichOneof("message"):
            case "retry_after":
                self.status.away_s = min(message.retry_after.ms / 1000, limits.MAX_RETRY_AFTER_S)
            case "goodbye":
                raise ConnectionLostError(message.goodbye.reason or "the controller said goodbye")
            case "report_in_full":
                self._reporting.in_full()
            case "desired_configuration" if self._on_desired is not None:
                self._on_desired(desired_configuration(message.desired_configuration))
            case "deed" if deeds is not None:
                deeds.begin(message.deed)
            case "deed_cancel" if deeds is not None:
                deeds.cancel(message.deed_cancel.id)
            case other:  # what we do not know is a later controller's
                log.debug("ignored %s from the controller", other)

    def _running_only(self) -> ReportedState:
        return ReportedState(self._facts.version, ConfigurationName(hash=self._facts.configuration_hash))

    def _tell(self, told: str) -> None:
        """Logs a failure when it is a new one, and again now and then."""
        self.status.tries += 1
        self.status.told = told
        now = time.monotonic()
        logged, at = self._logged
        if told != logged or now - at >= TELL_AGAIN_S:
            self._logged = (told, now)
            tries = f" ({self.status.tries} tries)" if self.status.tries > 1 else ""
            log.warning("no session with the controller %s%s: %s; trying again", self._url, tries, told)
