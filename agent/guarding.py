"""Guarding: every scan passes here on its way to the buffer; doubtful counters are read again before it goes on.

Order within a meter is kept: scans that come while it is read again wait behind. Polling never waits.
A scan whose counters all plainly follow the last ones goes on at once (native/follows.pyx, where it is compiled); what
is known of them stands there then, and in `_baselines` otherwise.
"""

import asyncio
import logging
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from parkfleet.agent.counter_guard import Baseline, Judgement, Rule, judge
from parkfleet.agent.events import Events
from parkfleet.agent.plan import MeterPlan, Plan
from parkfleet.protocols.derived import RAW
from parkfleet.protocols.payload.series import Column, Scan
from parkfleet.protocols.quality import Quality

if TYPE_CHECKING:
    from parkfleet.native.follows import Counters, Spec

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A second reading that takes longer is given up: what waits for it goes on as it was read. Seconds; the largest maps
#: take a fraction of it even at 1200 baud.
REREAD_S: Final = 60.0
#: Reads a meter once more, for an entry of the schema; None when it gave nothing.
Reread = Callable[[MeterPlan, int], Awaitable[Scan | None]]
#: Looks whether a meter is still the same one; calls begin_anew() when it is not.
Identify = Callable[[str], Awaitable[None]]
Key = tuple[str, str]

_EVENTS: Final = {
    Judgement.ROLLED_OVER: "counter-rollover",
    Judgement.DOUBTFUL: "counter-doubtful",
    Judgement.BEGAN_ANEW: "counter-restarted",
}


@dataclass(frozen=True)
class _Counter:
    """A guarded column."""

    key: Key
    column: int
    rule: Rule


class Guard:
    """All counters of a plan. Used from the event loop's thread."""

    def __init__(
        self,
        plan: Plan,
        rules: Mapping[Key, Rule],
        baselines: Mapping[Key, Baseline],
        events: Events,
        reread: Reread,
        deliver: Callable[[Scan], None],
        identify: Identify | None = None,
    ) -> None:
        """rules: of the columns that are guarded. baselines: from an earlier life."""
        self._plan = plan
        self._events = events
        self._reread = reread
        self._deliver = deliver
        self._identify = identify
        self._baselines = {key: baseline for key, baseline in baselines.items() if key in rules}
        meters = [meter for line in plan.lines for meter in line.meters]
        self._meters = {entry: meter for meter in meters for entry in meter.entries(meter.all_due)}
        self._counters = [
            [
                _Counter((entry.meter, column.point), index, rules[entry.meter, column.point])
                for index, column in enumerate(entry.columns)
                if (entry.meter, column.point) in rules
            ]
            for entry in plan.schema.entries
        ]
        self._plain = [_plain(plan.schema.entries[entry].columns, own) for entry, own in enumerate(self._counters)]
        self._held: dict[int, list[Scan]] = {}  # by entry: the first is being read again
        self._tasks: set[asyncio.Task[None]] = set()

    def baselines(self) -> dict[Key, Baseline]:
        """The last believed readings."""
        for entry in range(len(self._counters)):
            self._recall(entry)
        return dict(self._baselines)

    def begin_anew(self, meter: str) -> dict[str, float]:
        """Another device is there: its counters are compared with nothing. The last values of the one before."""
        for entry, counters in enumerate(self._counters):
            if counters and counters[0].key[0] == meter:
                self._recall(entry)
                for place in range(len(counters)):
                    self._forget(entry, place)
        return {point: self._baselines.pop((own, point)).value for own, point in [*self._baselines] if own == meter}

    def on_scan(self, scan: Scan) -> None:
        """Takes a scan."""
        held = self._held.get(scan.entry)
        if held is not None:
            held.append(scan)
            return
        plain = self._plain[scan.entry]
        if plain is not None and plain.follow(scan.slots, scan.quality, scan.ts):
            self._deliver(scan)
            return
        self._recall(scan.entry)
        if self._is_newly_doubtful(scan):
            self._held[scan.entry] = [scan]
            task = asyncio.create_task(self._read_again(scan.entry), name=f"reading {scan.entry} again")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._deliver(self._judged(scan))

    async def end(self) -> None:
        """What is being read again goes on as it was read."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        held, self._held = self._held, {}
        for scans in held.values():
            for scan in scans:
                self._deliver(self._judged(scan))

    async def _read_again(self, entry: int) -> None:
        fresh = await self._second(entry)
        first = self._mended(self._held[entry][0], fresh)
        if self._identify is not None and self._is_newly_doubtful(first):
            # Counters that stand elsewhere may be another meter's: it is asked before its readings are called doubtful.
            await self._within(self._identify(self._meters[entry].config.id), self._meters[entry])
        held = self._held.pop(entry)
        self._deliver(self._judged(first))
        for scan in held[1:]:
            self.on_scan(scan)

    async def _second(self, entry: int) -> Scan | None:
        """The second reading; None when there is none."""
        return await self._within(self._reread(self._meters[entry], entry), self._meters[entry])

    async def _within(self, work: Awaitable[T], meter: MeterPlan) -> T | None:
        """What comes of asking a meter, in time. Whatever goes wrong: readings wait for this to end."""
        try:
            async with asyncio.timeout(REREAD_S):
                return await work
        except TimeoutError:
            log.warning("meter %s: it could not be read again within %.0f s", meter.config.id, REREAD_S)
        except Exception:
            log.exception("meter %s: it could not be read again", meter.config.id)
        return None

    def _value(self, scan: Scan, counter: _Counter) -> float | None:
        if scan.quality[counter.column] != Quality.GOOD:
            return None
        return _number(self._plan.schema.entries[scan.entry].columns[counter.column], scan.slots[counter.column])

    def _doubts(self, scan: Scan, counter: _Counter) -> Judgement | None:
        value = self._value(scan, counter)
        if value is None:
            return None
        return judge(self._baselines.get(counter.key), value, scan.ts, counter.rule)[0]

    def _is_newly_doubtful(self, scan: Scan) -> bool:
        """Whether a counter is doubtful that was not so at the scan before."""
        for counter in self._counters[scan.entry]:
            before = self._baselines.get(counter.key)
            if before is not None and before.doubts == 0 and self._doubts(scan, counter) is Judgement.DOUBTFUL:
                return True
        return False

    def _mended(self, scan: Scan, fresh: Scan | None) -> Scan:
        """The scan with the second reading of those counters that only the first had wrong."""
        if fresh is None:
            return scan
        slots = array("q", scan.slots)
        for counter in self._counters[scan.entry]:
            second = replace(fresh, ts=max(fresh.ts, scan.ts))
            if self._doubts(scan, counter) is Judgement.DOUBTFUL and self._doubts(second, counter) is Judgement.FITS:
                slots[counter.column] = fresh.slots[counter.column]
                log.warning("meter %s: %s was misread once, the second reading is taken", *counter.key)
        return replace(scan, slots=slots)

    def _recall(self, entry: int) -> None:
        """Brings an entry's baselines up to date."""
        plain, columns = self._plain[entry], self._plan.schema.entries[entry].columns
        for place, counter in enumerate(self._counters[entry] if plain else ()):
            if plain and (last := plain.last(place)) is not None:
                self._baselines[counter.key] = Baseline(_number(columns[counter.column], last[0]), last[1])

    def _forget(self, entry: int, place: int) -> None:
        if plain := self._plain[entry]:
            plain.forget(place)

    def _judged(self, scan: Scan) -> Scan:
        """The scan with its doubtful counters marked, and the baselines moved on."""
        quality: bytearray | None = None
        plain = self._plain[scan.entry]
        for place, counter in enumerate(self._counters[scan.entry]):
            value = self._value(scan, counter)
            if value is None:
                continue
            before = self._baselines.get(counter.key)
            judgement, after = judge(before, value, scan.ts, counter.rule)
            self._baselines[counter.key] = after
            if plain and after == Baseline(value, scan.ts):
                plain.know(place, scan.slots[counter.column], scan.ts)
            elif plain:
                plain.forget(place)
            if judgement is Judgement.FITS:
                continue
            if judgement is not Judgement.ROLLED_OVER:
                quality = quality or bytearray(scan.quality)
                quality[counter.column] = Quality.SUSPECT
            if before is not None and (judgement is not Judgement.DOUBTFUL or before.doubts == 0):
                self._tell(counter, judgement, before, value, scan.ts)
        return scan if quality is None else replace(scan, quality=bytes(quality))

    def _tell(self, counter: _Counter, judgement: Judgement, before: Baseline, value: float, ts: int) -> None:
        meter, point = counter.key
        if point.endswith(RAW) and (meter, point.removesuffix(RAW)) in self._baselines:
            return  # the same register, told by its primary value
        data: dict[str, object] = {
            "point": point,
            "before": before.value,
            "before_ts": before.ts,
            "now": value,
            "now_ts": ts,
        }
        text = f"{point} {judgement.value}: {value:g} after {before.value:g}"
        self._events.emit(_EVENTS[judgement], text, meter, data)


def _number(column: Column, slot: int) -> float:
    """The value of a counter's slot."""
    value = column.value(slot)
    assert isinstance(value, int | float)  # no text is guarded
    return float(value)


def _plain(columns: Sequence[Column], counters: Sequence[_Counter]) -> "Counters | None":
    """The fast way for an entry's counters; None where there are none, or one is not for it, or nothing is compiled."""
    specs = [_spec(counter, columns[counter.column]) for counter in counters]
    try:
        from parkfleet.native.follows import Counters
    except ImportError:
        return None
    try:
        return Counters(specs) if specs else None
    except ValueError:  # a factor that no order survives
        return None


def _spec(counter: _Counter, column: Column) -> "Spec":
    kind = {"int": "i", "uint64": "u", "float32": "f", "float64": "d"}[column.type]
    factor, rate = column.factor, counter.rule.max_rate
    slack = 2 * counter.rule.step if kind in ("i", "u") and not counter.rule.is_float else 0.0
    numbers = float(factor.multiply), float(factor.add), float(10**factor.decimals)
    return counter.column, kind, *numbers, float("inf") if rate is None else rate, slack
