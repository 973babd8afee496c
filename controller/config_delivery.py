"""ConfigDelivery: brings each gateway its desired configuration, and keeps what gateways report.

A gateway is offered its configuration when it has reported what it runs, and again when that is changed; each time only
if it has not got it already, nor tried and given up. A change of the whole region is worked off gateway by gateway: the
sessions' heartbeats have their turn in between.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from parkfleet.controller.config_drift import Drift, drift, is_to_be_offered
from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_secrets import SecretError
from parkfleet.controller.config_store import Report
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.registry import Gateway, GatewayKey
from parkfleet.proto import common_pb2, limits
from parkfleet.proto.session_pb2 import ControllerMessage, DesiredConfiguration

log = logging.getLogger(__name__)

#: The database is away, or a gateway takes nothing now: tried again after so long. Seconds.
AGAIN_S: Final = 1.0

#: Puts a message into a session's outbox; False when that is full.
Send = Callable[[ControllerMessage], bool]
#: Keeps a gateway's word for the history.
Keep = Callable[[GatewayKey, Report], None]


@dataclass
class _Session:
    """A session that is open."""

    number: int
    send: Send
    reported: common_pb2.ReportedState | None = None
    offered: tuple[int, str] | None = None


class ConfigDelivery:
    """Between the configuration and the sessions of one controller."""

    def __init__(self, config: ConfigFleet, clock_ms: Callable[[], int], keep: Keep) -> None:
        self.config = config
        self._clock_ms = clock_ms
        self._keep = keep
        self._sessions: dict[GatewayKey, _Session] = {}
        self._due: dict[GatewayKey, None] = {}  # to be looked at, the oldest first
        self._woken = asyncio.Event()
        config.on_change = self._changed

    def opened(self, gateway: Gateway, send: Send, is_resumed: bool) -> None:
        """A session counts from now on. is_resumed: the status that is known still holds."""
        self._sessions[gateway.key] = _Session(gateway.session, send, gateway.status if is_resumed else None)
        if is_resumed:
            self._changed([gateway.key])

    def reported(
        self, key: GatewayKey, session: int, status: common_pb2.ReportedState, before: common_pb2.ReportedState | None
    ) -> None:
        """A gateway says what it runs; before: what it had said last."""
        found = self._sessions.get(key)
        if found is None or found.number != session:
            return
        found.reported = status
        report = _report(status, 0)
        if before is None or report != _report(before, 0):
            self._keep(key, replace(report, at_ms=self._clock_ms()))
        self._changed([key])

    def closed(self, key: GatewayKey, session: int) -> None:
        """A session is over."""
        found = self._sessions.get(key)
        if found is not None and found.number == session:
            del self._sessions[key]

    def drift(self, gateway: Gateway | GatewayKey) -> Drift:
        """How a gateway compares with what it should run; by its name alone, if it was never seen."""
        if isinstance(gateway, GatewayKey):
            return drift(self.config.desired_name(gateway), None, False)
        return drift(self.config.desired_name(gateway.key), gateway.status, gateway.is_online)

    async def run(self) -> None:
        """Delivers until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._due:
                key = next(iter(self._due))
                try:
                    del self._due[key]
                    await self._offer(key)
                except UNAVAILABLE as error:
                    self._due[key] = None
                    log.warning("the configuration of %s cannot be sent yet: %s", key, error)
                    await asyncio.sleep(AGAIN_S)
                await asyncio.sleep(0)

    def _changed(self, keys: list[GatewayKey]) -> None:
        self._due.update(dict.fromkeys(keys))
        self._woken.set()

    async def _offer(self, key: GatewayKey) -> None:
        """Sends a gateway its configuration, if it is there and should have it."""
        session = self._sessions.get(key)
        if session is None or session.reported is None:
            return
        name = self.config.desired_name(key)
        if name is None or name == session.offered or not is_to_be_offered(name, session.reported):
            return
        message = await self._message(key)
        if message is None:
            return
        if not session.send(message):  # it reads slowly, or leaves
            if self._sessions.get(key) is session:
                asyncio.get_running_loop().call_later(AGAIN_S, self._changed, [key])
        else:
            sent = message.desired_configuration.configuration
            session.offered = (sent.revision, sent.hash)
            log.info("%s is offered configuration %d", key, sent.revision)

    async def _message(self, key: GatewayKey) -> ControllerMessage | None:
        """What a gateway should run; None when it cannot be sent, which the log says."""
        desired = self.config.desired(key)
        if desired is None:
            return None
        try:
            secrets = await self.config.secret_values(desired)
        except SecretError as error:
            log.error("the configuration of %s cannot be sent: %s", key, error)
            return None
        document = desired.packed()
        size = sum(map(len, secrets.values()))
        if len(document) > limits.MAX_DOCUMENT_BYTES or size > limits.MAX_SECRETS_BYTES:
            log.error("the configuration of %s is too large to be sent: %d bytes, secrets %d", key, len(document), size)
            return None
        name = common_pb2.Configuration(revision=desired.revision, hash=desired.hash())
        return ControllerMessage(
            desired_configuration=DesiredConfiguration(configuration=name, document=document, secrets=secrets)
        )


def _report(status: common_pb2.ReportedState, at_ms: int) -> Report:
    """What is kept of a status: its newest word about a configuration."""
    running, failed = status.running, status.last_failed
    if failed.configuration.hash and failed.configuration == status.last_received:
        return Report(at_ms, failed.configuration.revision, failed.configuration.hash, "failed", failed.reason)
    return Report(at_ms, running.revision, running.hash, "trial" if status.on_trial else "running")
