"""Service: the agent's whole life on one screen. Starts every owner, and ends them in order."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from parkfleet import __version__
from parkfleet.agent.batcher import Batcher, OpenBatch
from parkfleet.agent.buffer import Buffer
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control import ControlSocket
from parkfleet.agent.control_messages import LineState, Status, socket_path
from parkfleet.agent.encoding import JOINED_READINGS
from parkfleet.agent.flush_timer import FlushTimer
from parkfleet.agent.forwarder import Forwarder
from parkfleet.agent.learned_store import STORE_NAME, LearnedStore
from parkfleet.agent.learner import Learner, known_facts
from parkfleet.agent.line_book import LineBook
from parkfleet.agent.line_parts import LineParts
from parkfleet.agent.live_schema import LiveSchema
from parkfleet.agent.memory import give_back_for_ever
from parkfleet.agent.plan import Plan, make_plan
from parkfleet.agent.snapshot import Snapshots
from parkfleet.agent.status import AgentFacts, Desired, ReportedState, boot_id
from parkfleet.agent.store import NewBatch
from parkfleet.agent.trial import Observation
from parkfleet.agent.trust import Trust
from parkfleet.agent.watch import Watch
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.topics import GatewayTopics

if TYPE_CHECKING:
    from parkfleet.agent.session import SessionStatus

log = logging.getLogger(__name__)

#: After SIGTERM: for scans in flight, then for the broker to take what waits. Together below 5 s. Seconds.
FINISH_SCANS_S = 2.0
DRAIN_S = 2.0
#: The buffer is counted this often, when a controller wants to know. Seconds.
STATS_S = 1.0

#: Takes the lines over from a service that ends.
HandOver = Callable[[], Awaitable[None]]


class Manager(Protocol):
    """What takes the controller's configurations, and knows how they fared."""

    def offer(self, desired: Desired) -> None:
        """The controller wants this to run. Returns at once."""

    def state(self) -> ReportedState:
        """What runs."""

    def restart(self) -> None:
        """The agent is to end in order and begin anew. Returns at once."""


class AgentService:
    """One gateway's agent."""

    def __init__(
        self, configuration: Configuration, manager: Manager | None = None, lines: LineParts | None = None
    ) -> None:
        """manager: takes the configurations that the controller sends. lines: polled by their owner, before us and
        behind us; from now on their scans are ours."""
        self._manager = manager
        self._owns_lines = lines is None
        self._polling = lines or LineParts()
        self._watch = Watch()
        self._session: SessionStatus | None = None
        self._lost = self._polling.overruns  # scans, that have been told
        gateway = configuration.gateway
        self._timer = FlushTimer(float(gateway.buffer.flush))
        store = learned_store(configuration)
        self._plan = self._polling.continued(learned_plan(configuration, store))
        self._learner = Learner(self._plan, configuration, store)
        self._schema = LiveSchema(self._plan.schema)
        self._batcher = Batcher()
        topics = GatewayTopics(gateway.park, gateway.gateway)
        self._trust = Trust(configuration, self._plan, self._batcher.add, self._timer.hurry)
        emit = self._trust.events.emit
        self._buffer = Buffer(
            configuration.path(gateway.buffer.path),
            gateway.buffer,
            lambda kind, text, data: emit(kind, text, None, data),
            JOINED_READINGS[gateway.encoding],
        )
        self._forwarder = Forwarder(
            self._buffer,
            gateway.broker,
            topics,
            configuration.folder,
            __version__,
            self._trust.events,
            gateway.encoding,
        )
        deliver = self._plan.delivering(self._watch.over(self._trust.on_scan))
        self._polling.follow(self._plan, deliver, self._learner.saw)
        self._book = LineBook(self._plan, self._learner, self._polling.lines, lambda: self._polling.statuses)
        self._snapshots = Snapshots(lambda: self._polling.statuses, self._forwarder.status, len(gateway.meters))
        self._configuration = configuration

    async def run(self, stop: asyncio.Event, hand_over: HandOver | None = None) -> None:
        """Runs until stop is set, then closes the open batch into the buffer and returns within 5 s.

        hand_over is awaited when nothing of ours asks the lines any more: from then on they may be another's.
        Raises AgentRunningError when another agent runs with this configuration.
        """
        owners = self._polling.lines
        path = socket_path(self._configuration)
        parts = self._plan, owners, self._status, self._forwarder, self._book
        async with ControlSocket(path, *parts) as control:
            await self._live(stop, control, hand_over)

    async def _live(self, stop: asyncio.Event, control: ControlSocket, hand_over: HandOver | None) -> None:
        await self._buffer.open()
        self._schema.resume(await self._buffer.newest_schema())
        await self._trust.resume(await self._buffer.last_seqs())
        try:
            async with asyncio.TaskGroup() as group:
                poll = group.create_task(self._poll(), name="polling")
                forward = group.create_task(self._forwarder.run(), name="forwarder")
                flush = group.create_task(self._flush_for_ever(), name="flush")
                learn = group.create_task(self._learner.run(self._polling.lines), name="learner")
                measure = group.create_task(self._book.run(), name="line book")
                report = group.create_task(self._report_for_ever(control), name="report")
                trust = group.create_task(self._trust.run(self._polling), name="trust")
                memory = group.create_task(give_back_for_ever(), name="memory")
                await stop.wait()
                report.cancel()
                measure.cancel()
                trust.cancel()
                memory.cancel()
                learn.cancel()  # with its request on a line
                await control.close()  # before the lines: nobody asks on a line that is being closed
                await asyncio.wait([learn, measure])
                if hand_over is not None:
                    await hand_over()
                await self._finish(poll, flush, forward)
        finally:
            await self._buffer.close()

    async def _finish(self, poll: asyncio.Task[None], flush: asyncio.Task[None], forward: asyncio.Task[None]) -> None:
        """Upstream to downstream: no new scans, the last batch into the buffer, what can be sent is sent."""
        if self._owns_lines:
            self._polling.stop()
            await asyncio.wait([poll], timeout=FINISH_SCANS_S)
        for task in (poll, flush):
            task.cancel()
        await asyncio.wait([poll, flush])
        await self._trust.end()
        await self._flush()
        self._forwarder.drain()
        await asyncio.wait([forward], timeout=DRAIN_S)
        forward.cancel()

    async def _poll(self) -> None:
        """Polls, if the lines are ours; else their owner does."""
        if self._owns_lines:
            await self._polling.run()

    async def _flush_for_ever(self) -> None:
        """Closes the open batch every flush interval, or early."""
        while True:
            await self._timer.wait()
            await self._flush()

    async def _report_for_ever(self, control: ControlSocket) -> None:
        """Tells the controller how we fare, if there is one. Imports gRPC only then: 10 MB."""
        gateway = self._configuration.gateway
        if gateway.controller is None:
            return
        from parkfleet.agent.credential_keeper import CredentialKeeper
        from parkfleet.agent.doers import Doers
        from parkfleet.agent.session import ControllerSession

        facts = AgentFacts(
            park=gateway.park,
            gateway=gateway.gateway,
            version=__version__,
            boot_id=boot_id(),
            configuration_hash=self._configuration.hash,
            lines=len(gateway.lines),
            meters=len(gateway.meters),
        )
        latest = await self._buffer.stats()
        async with asyncio.TaskGroup() as group:
            manager = self._manager
            identity = self._configuration.path(gateway.controller.identity)
            session = ControllerSession(
                gateway.controller.url,
                facts,
                lambda: self._snapshots.take(latest, len(self._trust.rules.standing())),
                manager.state if manager else None,
                on_desired=manager.offer if manager else None,
                doers=Doers(self._configuration, control, manager.restart if manager else None).table(),
                keeper=CredentialKeeper(gateway.controller.url, identity),
            )
            self._session = session.status
            group.create_task(session.run(), name="controller session")
            while True:
                await asyncio.sleep(STATS_S)  # how fresh a heartbeat's buffer depth is
                latest = await self._buffer.stats()
                session.look()

    async def observed(self) -> Observation:
        """How the gateway fares with this configuration."""
        meters = [entry.meter for entry in self._plan.schema.entries]
        bad = {meter for line in self._polling.statuses for meter in line.meters_bad}
        link, session = self._forwarder.status, self._session
        return Observation(
            controller=session is not None and session.connected,
            controller_told=session.told if session else "",
            broker=link.connected,
            broker_told=link.told,
            acknowledged=link.batches,
            waiting=(await self._buffer.stats()).batches,
            answered=frozenset(meters[entry] for entry in self._watch.answered),
            bad=frozenset(bad),
        )

    async def _status(self) -> Status:
        """What `parkfleet agent status` shows."""
        gateway = self._configuration.gateway
        alarms = self._trust.rules.standing()
        snapshot = self._snapshots.take(await self._buffer.stats(), len(alarms))
        lines = [
            LineState(
                id=plan.config.id,
                url=plan.config.url,
                up=line.up,
                told=line.told,
                load=report.load,
                requests=line.requests,
                scans=line.scans,
                missed=line.missed,
                errors=dict(line.errors),
                meters=len(plan.meters),
                silent=sorted(line.meters_bad),
                late=dict(line.late),
                overload=line.overload,
                advice=line.advice,
            )
            for plan, line, report in zip(self._plan.lines, self._polling.statuses, snapshot.lines, strict=True)
        ]
        trust = self._trust
        events = dict(trust.events.counts)
        facts = __version__, os.getpid(), gateway.park, gateway.gateway
        return Status(*facts, lines, snapshot, events, alarms, trust.rules.held, self._timer.early)

    async def _flush(self) -> None:
        self._polling.gather()
        await self._trust.events.gone_ahead()  # an alarm reaches the broker before the batch of its reading
        batches, lets_go = self._batcher.close(), self._trust.lets_go
        if lets_go:
            await self._trust.releasing(await self._buffer.last_seqs())
        for batch in batches:
            await self._buffer.append(partial(coded, self._schema.schema, self._schema.packed, batch))
            self._schema.took(batch.rows, self._forwarder.most_bytes)
        await (self._trust.released() if lets_go else self._trust.keep_held())
        self._tell_overruns()

    def _tell_overruns(self) -> None:
        """Scans are lost when we are kept from running for so long that the engine has no more room: a gap is told."""
        lost, self._lost = self._polling.overruns - self._lost, self._polling.overruns
        if lost > 0:
            text = f"{lost} scans were lost: this box kept the agent from taking them in time"
            self._trust.events.emit("scans-lost", text, data={"scans": lost})


def coded(schema: Schema, packed: bytes, batch: OpenBatch) -> NewBatch:
    """A closed batch as it is stored."""
    body = encode(schema, batch.rows)
    return NewBatch(packed, schema.id, CODEC, body, batch.readings, batch.first_ts, batch.last_ts)


def learned_store(configuration: Configuration) -> LearnedStore:
    """Where what was learned of the meters is kept."""
    return LearnedStore(configuration.path(configuration.gateway.buffer.path).parent / STORE_NAME)


def learned_plan(configuration: Configuration, store: LearnedStore) -> Plan:
    """A configuration's plan, with what was learned of its meters."""
    return make_plan(configuration, known_facts(configuration, store))
