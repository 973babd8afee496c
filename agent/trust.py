"""Trust: what stands between polling and the batches so that a reading can be believed.

On its way a scan passes the clock gate (is the time known?), the counter guard (can it follow the one before?) and the
rules. Beside them, the meters' identities are watched. What they find goes out as events.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from parkfleet.agent.clock import ClockGate, SystemTime, TimeSource
from parkfleet.agent.configuration import Configuration
from parkfleet.agent.counter_guard import Rule
from parkfleet.agent.events import Events
from parkfleet.agent.guarding import Guard, Key
from parkfleet.agent.held import STORE_NAME as HELD_NAME
from parkfleet.agent.held import HeldStore
from parkfleet.agent.plan import MeterPlan, Plan
from parkfleet.agent.reading import Ask, read_scan
from parkfleet.agent.replacement import Replacements
from parkfleet.agent.rules import Rules
from parkfleet.agent.status import boot_id
from parkfleet.agent.truth_store import STORE_NAME, TruthStore
from parkfleet.protocols.payload.series import Scan

if TYPE_CHECKING:
    from parkfleet.agent.line_parts import LineParts

#: Baselines of counters and what alarms know are kept so often: what a power cut makes us forget. Seconds.
SAVE_S: Final = 600.0
CLOCK_S: Final = 1.0


class Trust:
    """One agent's. Made before polling, opened before the first scan."""

    def __init__(
        self,
        configuration: Configuration,
        plan: Plan,
        deliver: Callable[[Scan], None],
        hurry: Callable[[], None] = lambda: None,
        source: TimeSource | None = None,
    ) -> None:
        """hurry: called behind the delivery of a scan that must not wait for the end of its batch."""
        folder = configuration.path(configuration.gateway.buffer.path).parent
        self._store = TruthStore(folder / STORE_NAME)
        self.events = Events(self._store)
        baselines = self._store.baselines()
        guarded = dict(rules_of(configuration, plan))
        self._plan = plan
        self._asks: Mapping[str, Ask] = {}
        self._saved: object = None  # what is on the disk
        self.rules = Rules(configuration, plan, self._store.alarms(), self.events.emit, deliver, hurry)
        self._guard = Guard(plan, guarded, baselines, self.events, self._reread, self.rules.taker, self._identify)
        newest = max((baseline.ts for baseline in baselines.values()), default=0)
        self._gate = ClockGate(source or SystemTime(), self._guard.on_scan, self._on_clock, newest, boot_id())
        self._held = HeldStore(folder / HELD_NAME, plan.schema.id, boot_id())
        self._kept = 0  # scans that wait for the clock, and are on the disk
        self._replacements = Replacements(
            plan.lines, configuration.profiles, self.events, self._store, self._begin_anew
        )

    def on_scan(self, scan: Scan) -> None:
        """Takes a scan as it is delivered by polling."""
        self._gate.on_scan(scan)

    async def resume(self, last_seqs: Mapping[int, int]) -> None:
        """Takes over what waited for the clock when an earlier life ended. last_seqs: of the buffer, by epoch."""
        held, same_boot = await asyncio.to_thread(self._held.load, last_seqs)
        self._kept = len(held)
        self._gate.resume(held, same_boot=same_boot)

    @property
    def lets_go(self) -> bool:
        """Whether the open batch has what waited for the clock, and the disk has it too."""
        return self._kept > 0 and not self._gate.held

    async def releasing(self, last_seqs: Mapping[int, int]) -> None:
        """Before the open batch goes into the buffer, when it lets go."""
        await asyncio.to_thread(self._held.releasing, last_seqs)

    async def released(self) -> None:
        """It is in the buffer."""
        self._kept = 0
        await asyncio.to_thread(self._held.clear)

    async def keep_held(self) -> None:
        """Puts on the disk what waits for the clock since the last call."""
        if new := self._gate.held_from(self._kept):
            self._kept += len(new)
            await asyncio.to_thread(self._held.add, new)

    async def run(self, polling: "LineParts") -> None:
        """Watches until cancelled."""
        self._asks = {name: line.ask for name, line in polling.lines.items()}
        async with asyncio.TaskGroup() as group:
            group.create_task(self.events.run(), name="events")
            group.create_task(self._look_for_ever(), name="clock")
            group.create_task(self._replacements.run(lambda: polling.statuses, self._asks), name="replacements")

    async def end(self) -> None:
        """After the last scan: nothing is held back any longer, and what is known is kept."""
        self._gate.end()
        await self._guard.end()
        await self.events.end()
        await self._save()
        await asyncio.to_thread(self._store.close)

    async def _look_for_ever(self) -> None:
        saved = time.monotonic()
        while True:
            await asyncio.sleep(CLOCK_S)  # how soon a clock that was set is noticed
            self._gate.look()
            self._gate.tell()
            if time.monotonic() - saved >= SAVE_S:
                saved = time.monotonic()
                await self._save()

    async def _save(self) -> None:
        """Writes what has changed, if anything has: an SD card wears."""
        await self.events.settled()  # an alarm is not to be known to the disk before its event
        known = self._guard.baselines(), self.rules.states()
        if known != self._saved:
            await asyncio.to_thread(self._store.save, *known)
            self._saved = known

    def _begin_anew(self, meter: str) -> dict[str, float]:
        self.rules.begin_anew(meter)
        return self._guard.begin_anew(meter)

    async def _reread(self, meter: MeterPlan, entry: int) -> Scan | None:
        ask = self._asks.get(meter.config.line)
        scan = None if ask is None else await read_scan(meter, entry, ask)
        derivation = self._plan.derivations.get(entry)
        return derivation.scan(scan) if derivation and scan else scan

    async def _identify(self, meter: str) -> None:
        await self._replacements.look_at(meter)

    def _on_clock(self, kind: str, text: str, data: dict[str, object]) -> None:
        self.events.emit(kind, text, data=data)


def rules_of(configuration: Configuration, plan: Plan) -> Iterator[tuple[Key, Rule]]:
    """The guarded counters of a plan, by (meter, point)."""
    rates = {meter.id: meter.max_rate for meter in configuration.gateway.meters}
    for entry in plan.schema.entries:
        points = {point.id: point for point in configuration.profiles[entry.profile].points}
        for column in entry.columns:
            if column.kind == "counter" and column.type != "string":
                point = points.get(column.point)
                own = point.max_rate if point else None
                yield (entry.meter, column.point), Rule.of(column, point, rates[entry.meter].get(column.point, own))
