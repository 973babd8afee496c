"""Applying: runs the agent with one configuration after another, as the controller sends them and their trials end.

Invariants: one AgentService runs at a time, and its readings are in the buffer before the next one runs; the ledger is
on the disk before the deed it tells of; whatever a configuration does, the gateway returns to the last confirmed one,
and at the worst to the installer's own file.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from parkfleet import __version__
from parkfleet.agent import trial
from parkfleet.agent.configuration import Configuration, load_configuration
from parkfleet.agent.control import AgentRunningError
from parkfleet.agent.line_parts import LineParts
from parkfleet.agent.plan import Plan
from parkfleet.agent.service import FINISH_SCANS_S, AgentService, learned_plan, learned_store
from parkfleet.agent.status import ConfigurationName, Desired, ReportedState
from parkfleet.agent.trial import Baseline, Ledger, Phase
from parkfleet.agent.trial_store import TrialStore
from parkfleet.protocols.document import DocumentError, Problem

log = logging.getLogger(__name__)


class ManagedAgent:
    """One gateway's agent, whose configuration the controller may change."""

    def __init__(self, configured: Path, store: TrialStore | None = None) -> None:
        """configured: the installer's gateway.yaml. Raises DocumentError when there is nothing that can be run."""
        self._configured = configured
        self._store = store or TrialStore(configured)
        self._ledger = self._read()
        self._inbox: Desired | None = None  # the newest alone counts
        self._woken = asyncio.Event()
        self._local_hash = ""
        self._stop = asyncio.Event()
        self.restart_wanted = False
        self._configuration = self._first()

    @property
    def configuration(self) -> Configuration:
        """What runs."""
        return self._configuration

    def offer(self, desired: Desired) -> None:
        """The controller wants this to run. Returns at once."""
        self._inbox = desired
        self._woken.set()

    def restart(self) -> None:
        """The agent is to end in order and begin anew. Returns at once."""
        self.restart_wanted = True
        self._stop.set()

    def state(self) -> ReportedState:
        """What runs, for the controller."""
        ledger = self._ledger
        return ReportedState(
            release=__version__,
            running=self._named(ledger.running),
            last_received=ledger.received,
            last_failed=ledger.failed,
            failure=ledger.failure,
            on_trial=ledger.phase is Phase.TRIAL,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until stop is set. Raises what ends a confirmed configuration's service."""
        self._stop = stop
        while not stop.is_set():
            lines = LineParts()
            service: AgentService | None = self._next(lines)
            polling = asyncio.create_task(lines.run(), name="lines")
            try:
                while service is not None:
                    service = await self._one_service(service, lines, polling, stop)
            finally:
                await _ended(lines, polling)

    async def _one_service(
        self, service: AgentService, lines: LineParts, polling: asyncio.Task[None], stop: asyncio.Event
    ) -> AgentService | None:
        """Runs a service until another configuration is to run; the next one, None when the lines are over.

        Lines that go on do so meanwhile; their scans wait for the next one.
        """
        over = asyncio.Event()

        async def hand_over() -> None:
            if stop.is_set() or polling.done():
                await _ended(lines, polling)
            else:
                await lines.release(self._next_plan(), FINISH_SCANS_S)

        running = asyncio.create_task(service.run(over, hand_over), name="agent service")
        try:
            await self._until_change(service, {running, polling}, stop)
        finally:
            over.set()
            await asyncio.wait({running})
        if stop.is_set():
            if error := _error(running):
                raise error
            return None
        self._fell(_error(running) or _error(polling))
        return None if polling.done() else self._next(lines)

    def _next_plan(self) -> Plan | None:
        """The plan of what runs next; None when it cannot be made, which is told when it is to run."""
        try:
            return learned_plan(self._configuration, learned_store(self._configuration))
        except Exception:
            return None

    def _next(self, lines: LineParts) -> AgentService:
        """The service of what runs next. A configuration on trial that cannot have one is given up."""
        try:
            return AgentService(self._configuration, self, lines)
        except Exception as error:
            self._fell(error)
            return AgentService(self._configuration, self, lines)

    async def _until_change(self, service: AgentService, tasks: set[asyncio.Task[None]], stop: asyncio.Event) -> None:
        """Returns when another configuration is to run, when a task ended, or when stop is set."""
        loop = asyncio.get_running_loop()
        trial_ends = loop.time() + self._trial_s if self._ledger.phase is Phase.TRIAL else None
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                waking = asyncio.create_task(self._woken.wait())
                left = None if trial_ends is None else max(0.0, trial_ends - loop.time())
                await asyncio.wait({*tasks, stopping, waking}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if stop.is_set() or any(task.done() for task in tasks):
                    return
                self._woken.clear()
                desired, self._inbox = self._inbox, None
                if desired is not None and await self._staged(desired) and await self._tried(service):
                    return
                if trial_ends is not None and loop.time() >= trial_ends:
                    trial_ends = None
                    if not await self._judged(service):
                        return
        finally:
            stopping.cancel()

    async def _staged(self, desired: Desired) -> bool:
        """Puts an offered configuration on the disk and checks it; whether it can be tried."""
        name = desired.name
        if (ledger := trial.renamed(self._ledger, name)) is not None:
            await self._write_new(ledger, desired)
            return False
        if not trial.is_wanted(self._ledger, name):
            return False
        log.info("the controller sends configuration %d", name.revision)
        try:
            await asyncio.to_thread(self._store.stage, name, desired.document, desired.secrets)
            configuration = await asyncio.to_thread(self._store.load, name)
            unfit(self._configuration, configuration)
            await self._write(trial.staged(self._ledger, name))
        except DocumentError as error:
            await self._give_up(name, f"it has mistakes: {error.problems[0]}")
            return False
        except OSError as error:
            await self._give_up(name, f"it cannot be kept: {error.strerror}")
            return False
        return True

    async def _tried(self, service: AgentService) -> bool:
        """Whether the staged configuration is what runs next."""
        kept = self._ledger.before
        before = (await service.observed()).baseline() if kept == Baseline() else kept
        candidate = self._ledger.candidate
        assert candidate is not None
        try:
            configuration = await asyncio.to_thread(self._store.load, candidate)
            await self._write(trial.tried(self._ledger, before))
        except (DocumentError, OSError) as error:
            await self._give_up(candidate, f"it cannot be kept: {error}")
            return False
        self._configuration = configuration
        log.info("configuration %d is on trial for %g s", candidate.revision, self._trial_s)
        return True

    async def _judged(self, service: AgentService) -> bool:
        """The trial is over: whether the candidate is confirmed. If not, the one before is what runs next."""
        name = self._ledger.running
        why = trial.verdict(self._ledger.before, await service.observed(), self._expected())
        if why:
            await self._give_up(name, why)
            self._return()
            return False
        await asyncio.to_thread(self._keep, trial.confirmed(self._ledger))
        log.info("configuration %d is confirmed", name.revision)
        await asyncio.to_thread(self._store.tidy, self._ledger)
        return True

    def _fell(self, error: BaseException | None) -> None:
        """Looks at what broke: a configuration on trial is given up for it, else it breaks the agent."""
        if error is None:
            return
        if self._ledger.phase is not Phase.TRIAL or isinstance(error, AgentRunningError):
            raise error
        log.error("the configuration on trial broke the agent", exc_info=error)
        self._keep(trial.given_up(self._ledger, self._ledger.running, f"the agent broke: {error!r}"))
        self._return()

    async def _give_up(self, name: ConfigurationName, why: str) -> None:
        log.warning("configuration %d is given up: %s", name.revision, why)
        await asyncio.to_thread(self._keep, trial.given_up(self._ledger, name, why))

    def _return(self) -> None:
        """The last confirmed configuration is what runs next."""
        self._configuration = self._confirmed()

    def _first(self) -> Configuration:
        """What the ledger says is to run, now that the agent starts. Raises DocumentError."""
        ledger = trial.started(self._ledger)
        if ledger != self._ledger:
            self._keep(ledger)
        if ledger.phase is not Phase.TRIAL:
            return self._confirmed()
        try:
            return self._store.load(ledger.running)
        except DocumentError as error:
            self._keep(trial.given_up(ledger, ledger.running, f"it has mistakes: {error.problems[0]}"))
            return self._confirmed()

    def _confirmed(self) -> Configuration:
        """The confirmed configuration, or the installer's file when that is damaged. Raises DocumentError."""
        name = self._ledger.confirmed
        if name.revision:
            try:
                return self._store.load(name)
            except DocumentError as error:
                log.error("the confirmed configuration %d cannot be used: %s", name.revision, error)
                why = f"its file on the gateway is damaged: {error.problems[0]}"
                self._keep(trial.given_up(trial.Ledger(), name, why))
        local = load_configuration(self._configured)
        self._local_hash = local.hash
        return local

    def _read(self) -> Ledger:
        """The ledger; where the disk refuses, a new one, which runs the installer's file."""
        try:
            return self._store.read_ledger()
        except OSError as error:
            log.error("the ledger of configurations cannot be read: %s", error)
            return Ledger()

    def _keep(self, ledger: Ledger) -> None:
        """Writes the ledger; where the disk refuses, the agent works on, and starts again from what stands there."""
        self._ledger = ledger
        try:
            self._store.write_ledger(ledger)
        except OSError as error:
            log.error("the ledger of configurations cannot be written: %s", error)

    async def _write(self, ledger: Ledger) -> None:
        """The ledger is on the disk when this returns. Raises OSError."""
        await asyncio.to_thread(self._store.write_ledger, ledger)
        self._ledger = ledger

    async def _write_new(self, ledger: Ledger, desired: Desired) -> None:
        """The same words under a new revision."""
        try:
            await asyncio.to_thread(self._store.stage, desired.name, desired.document, desired.secrets)
            await self._write(ledger)
        except (DocumentError, OSError) as error:  # the old name is as good
            log.warning("configuration %d could not be kept under its new name: %s", desired.name.revision, error)
            return
        await asyncio.to_thread(self._store.tidy, ledger)

    def _named(self, name: ConfigurationName) -> ConfigurationName:
        return name if name.revision else ConfigurationName(0, self._local_hash)

    @property
    def _trial_s(self) -> float:
        controller = self._configuration.gateway.controller
        return float(controller.trial) if controller else 120.0

    def _expected(self) -> set[str]:
        """Meters of which an answer was due within the trial; a slot may just have passed when it began."""
        meters = self._configuration.gateway.meters
        return {meter.id for meter in meters if 2 * meter.interval <= self._trial_s}


async def _ended(lines: LineParts, polling: asyncio.Task[None]) -> None:
    """The lines come to their end, with the scans in flight if they take no longer than they may."""
    lines.stop()
    await asyncio.wait({polling}, timeout=FINISH_SCANS_S)
    polling.cancel()
    await asyncio.wait({polling})


def _error(task: asyncio.Task[None]) -> BaseException | None:
    """What a task ended with; None while it runs."""
    return task.exception() if task.done() and not task.cancelled() else None


async def run_managed(agent: ManagedAgent) -> None:
    """Runs an agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = agent.configuration.gateway
    log.info("agent %s of %s/%s, process %d", __version__, gateway.park, gateway.gateway, os.getpid())
    await agent.run(stop)
    log.info("agent stopped")


def begin_anew() -> NoReturn:
    """This process becomes the agent once more, as it was started: its id, its parent and its sockets stay."""
    log.info("the agent begins anew")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def unfit(now: Configuration, wanted: Configuration) -> None:
    """Raises DocumentError for what cannot be changed from afar."""
    for key in ("park", "gateway"):
        if getattr(now.gateway, key) != getattr(wanted.gateway, key):
            raise _refused(key, f"this gateway is {getattr(now.gateway, key)!r}")
    if now.path(now.gateway.buffer.path) != wanted.path(wanted.gateway.buffer.path):
        path = now.gateway.buffer.path
        raise _refused("buffer.path", f"batches that wait in {path} would be left behind: keep that path")


def _refused(where: str, told: str) -> DocumentError:
    return DocumentError([Problem("configuration", 0, 0, where, told)])
