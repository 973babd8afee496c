"""Service: the agent's whole life on one screen. Starts every owner, and ends them in order."""

import asyncio
import logging
import os
import signal
import time

from parkfleet import __version__
from parkfleet.agent.batcher import Batcher
from parkfleet.agent.buffer import Buffer
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.control import ControlSocket
from parkfleet.agent.control_messages import LineState, Status, socket_path
from parkfleet.agent.forwarder import Forwarder
from parkfleet.agent.learned_store import STORE_NAME, LearnedStore
from parkfleet.agent.learner import Learner, known_facts
from parkfleet.agent.line_book import LineBook
from parkfleet.agent.plan import make_plan
from parkfleet.agent.polling import Polling
from parkfleet.agent.snapshot import Snapshots
from parkfleet.agent.status import AgentFacts, boot_id
from parkfleet.agent.store import NewBatch
from parkfleet.agent.trust import Trust
from parkfleet.protocols.payload.codecs import CODEC, encode
from parkfleet.protocols.payload.topics import GatewayTopics

log = logging.getLogger(__name__)

#: After SIGTERM: for scans in flight, then for the broker to take what waits. Together below 5 s. Seconds.
FINISH_SCANS_S = 2.0
DRAIN_S = 2.0
#: The buffer is counted this often, when a controller wants to know. Seconds.
STATS_S = 1.0


class AgentService:
    """One gateway's agent."""

    def __init__(self, configuration: Configuration) -> None:
        gateway = configuration.gateway
        self._flush_s = float(gateway.buffer.flush)
        store = LearnedStore(configuration.path(gateway.buffer.path).parent / STORE_NAME)
        self._plan = make_plan(configuration, known_facts(configuration, store))
        self._learner = Learner(self._plan, configuration, store)
        self._packed_schema = self._plan.schema.pack()
        self._batcher = Batcher()
        topics = GatewayTopics(gateway.park, gateway.gateway)
        self._trust = Trust(configuration, self._plan, self._batcher.add)
        emit = self._trust.events.emit
        self._buffer = Buffer(
            configuration.path(gateway.buffer.path),
            gateway.buffer,
            lambda kind, text, data: emit(kind, text, None, data),
        )
        self._forwarder = Forwarder(
            self._buffer, gateway.broker, topics, configuration.folder, __version__, self._trust.events
        )
        deliver = self._plan.delivering(self._trust.on_scan)
        self._polling = Polling(self._plan.lines, deliver, self._learner.saw, self._plan.zone)
        lines = self._polling.lines
        self._book = LineBook(self._plan, self._learner, lines, lambda: self._polling.statuses)
        self._snapshots = Snapshots(lambda: self._polling.statuses, self._forwarder.status, len(gateway.meters))
        self._configuration = configuration

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until stop is set, then closes the open batch into the buffer and returns within 5 s.

        Raises AgentRunningError when another agent runs with this configuration.
        """
        owners = self._polling.lines
        path = socket_path(self._configuration)
        parts = self._plan, owners, self._status, self._forwarder, self._book
        async with ControlSocket(path, *parts) as control:
            await self._live(stop, control)

    async def _live(self, stop: asyncio.Event, control: ControlSocket) -> None:
        await self._buffer.open()
        try:
            async with asyncio.TaskGroup() as group:
                poll = group.create_task(self._polling.run(), name="polling")
                forward = group.create_task(self._forwarder.run(), name="forwarder")
                flush = group.create_task(self._flush_for_ever(), name="flush")
                learn = group.create_task(self._learner.run(self._polling.lines), name="learner")
                measure = group.create_task(self._book.run(), name="line book")
                report = group.create_task(self._report_for_ever(), name="report")
                trust = group.create_task(self._trust.run(self._polling), name="trust")
                await stop.wait()
                report.cancel()
                measure.cancel()
                trust.cancel()
                learn.cancel()  # with its request on a line
                await control.close()  # before the lines: nobody asks on a line that is being closed
                await self._finish(poll, flush, forward)
        finally:
            await self._buffer.close()

    async def _finish(self, poll: asyncio.Task[None], flush: asyncio.Task[None], forward: asyncio.Task[None]) -> None:
        """Upstream to downstream: no new scans, the last batch into the buffer, what can be sent is sent."""
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

    async def _flush_for_ever(self) -> None:
        """Closes the open batch every flush interval, on the clock's own multiples."""
        while True:
            await asyncio.sleep(self._flush_s - time.time() % self._flush_s)  # the flush interval itself
            await self._flush()

    async def _report_for_ever(self) -> None:
        """Tells the controller how we fare, if there is one. Imports gRPC only then: 10 MB."""
        gateway = self._configuration.gateway
        if gateway.controller is None:
            return
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
            session = ControllerSession(gateway.controller.url, facts, lambda: self._snapshots.take(latest))
            group.create_task(session.run(), name="controller session")
            while True:
                await asyncio.sleep(STATS_S)  # how fresh a heartbeat's buffer depth is
                latest = await self._buffer.stats()

    async def _status(self) -> Status:
        """What `parkfleet agent status` shows."""
        gateway = self._configuration.gateway
        snapshot = self._snapshots.take(await self._buffer.stats())
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
        return Status(__version__, os.getpid(), gateway.park, gateway.gateway, lines, snapshot)

    async def _flush(self) -> None:
        schema, packed = self._plan.schema, self._packed_schema
        for batch in self._batcher.close():
            body = encode(schema, batch.rows)
            await self._buffer.append(
                NewBatch(packed, schema.id, CODEC, body, batch.readings, batch.first_ts, batch.last_ts)
            )


async def run_service(configuration: Configuration) -> None:
    """Runs an agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = configuration.gateway
    log.info("agent %s of %s/%s, process %d", __version__, gateway.park, gateway.gateway, os.getpid())
    await AgentService(configuration).run(stop)
    log.info("agent stopped")
