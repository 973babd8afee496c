"""Learning: from answers to facts. Watches a meter's scans for a request that it does not take, and finds out why.

Two pure halves. `watch` folds what came of each scan's requests and says which request is suspicious; no request is
sent for it. `Search` then asks: a generator that yields what to ask next, is sent what came of it, and returns the
facts as a new Learned. What a meter refuses is refused in every larger block too, so a refused block is narrowed by
bisection to its smallest refused part: from that it shows whether a point, the gap between two points, or the length
is not liked. Blocks begin and end at points, as some meters refuse a value asked for in part.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import msgspec

from parkfleet.protocols.learned import Evidence, Learned, LearnedHole, Limit, Pause, Refused, maximum
from parkfleet.protocols.profile import BIT_TABLES, Point, Table
from parkfleet.protocols.quality import EXCEPTION, Quality
from parkfleet.protocols.readplan import PlannedRequest

T = TypeVar("T")

#: Exceptions that may be about the block: illegal function, address or value, device failure. Others (busy, a gateway
#: box's own) are about the moment.
ABOUT_THE_BLOCK: Final = frozenset({EXCEPTION | 1, EXCEPTION | 2, EXCEPTION | 3, EXCEPTION | 4})
SILENT: Final = frozenset({Quality.TIMEOUT, Quality.CORRUPT})
#: A request that stays without an answer in so many scans in a row, while others of its meter are answered.
SILENT_SCANS: Final = 3
#: Silences that a meter may need before a request, milliseconds: tried in this order.
GAPS_MS: Final = (5, 10, 20, 50, 100, 200, 500)
#: A pause in which every meter has come to rest. Seconds.
REST_S: Final = 0.5
#: A request without an answer is sent so often before that counts: noise takes one now and then.
TRIES: Final = 2
#: A gap must serve so often in a row.
GAP_TRIES: Final = 4
#: Other places that are asked before a refusal is taken for a limit of the whole meter, or for its map.
PLACES: Final = 3


class Watch(NamedTuple):
    """What of a meter's latest scans matters; begins anew with each plan."""

    silent: tuple[int, ...] = ()  # by request: scans in a row in which it had no answer while others had
    dead: int = 0  # scans in a row in which nothing answered


def watch(before: Watch, outcomes: Sequence[int]) -> tuple[Watch, int | None]:
    """Folds a scan in. outcomes: a quality code for each request of the plan, 0 when it was answered with values.

    Returns the index of a request to be searched, or None. Of good scans only the first behind a failure need be told.
    """
    if not any(code == Quality.GOOD or code & EXCEPTION for code in outcomes):
        dead = before.dead + any(code in SILENT for code in outcomes)
        return before._replace(dead=dead), 0 if dead >= SILENT_SCANS else None
    rows = before.silent if len(before.silent) == len(outcomes) else (0,) * len(outcomes)
    silent = tuple(row + 1 if code in SILENT else 0 for row, code in zip(rows, outcomes, strict=True))
    refused = next((index for index, code in enumerate(outcomes) if code in ABOUT_THE_BLOCK), None)
    long = next((index for index, count in enumerate(silent) if count >= SILENT_SCANS), None)
    return Watch(silent), refused if refused is not None else long


class _MomentError(Exception):
    """The meter is busy, or not to be reached: nothing can be learned now."""


class Block(NamedTuple):
    """What one request asks for, and the silence before it."""

    table: Table
    address: int
    size: int  # registers or bits
    pause: float = 0.0  # seconds


#: Blocks asked one right behind the other are yielded; the quality code of each is sent back, 0 for values.
Asking = Generator[tuple[Block, ...], tuple[int, ...], T]


@dataclass
class Search:
    """Finds out why a meter does not take a block. One use.

    points: all that are read of the meter; suspect: the request that failed, by cause (a quality code); good: requests
    that were answered in the same scan; now: ms UTC.
    """

    points: Sequence[Point]
    suspect: PlannedRequest
    cause: int
    good: Sequence[PlannedRequest]
    learned: Learned
    rest: float = REST_S  # pause in which it comes to rest, seconds
    gap: bool = True  # whether a silent request that is answered after a rest may have come too soon
    now: Callable[[], int] = lambda: round(time.time() * 1000)
    asked: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)

    def run(self) -> Asking[Learned]:
        """The facts with what was found; unchanged when the meter does as it should now, or nothing at all."""
        try:
            return (yield from self._search())
        except _MomentError:
            return self.learned

    def _search(self) -> Asking[Learned]:
        is_silent, request = self.cause in SILENT, self.suspect.request
        own = sorted((self.points[index] for index in self.suspect.points), key=lambda p: (p.address, p.end))
        if is_silent and not self.good and not (yield from self._lives(own)):
            return self.learned
        if (yield from self._takes(request.table, request.address, request.address + request.count)):
            return (yield from self._search_gap()) if is_silent and self.gap else self.learned
        low, high = yield from self._narrow(own)
        if (is_silent or self.asked == self.refused) and not (yield from self._is_well(own[low])):
            return self.learned  # it refuses everything now: its state, not its map
        if low == high:
            return self._refuse(own[low])
        return (yield from self._judge(own, low, high))

    # ---- a block that is refused

    def _narrow(self, own: Sequence[Point]) -> Asking[tuple[int, int]]:
        """(first, last) of the smallest run of points that is refused as one block."""
        low, high = 0, len(own) - 1  # the last index of the shortest refused beginning
        while low < high:
            middle = (low + high) // 2
            if (yield from self._takes_points(own[: middle + 1])):
                low = middle + 1
            else:
                high = middle
        last, low = high, 0
        while low < high:  # the first index of the shortest refused end
            middle = (low + high + 1) // 2
            if (yield from self._takes_points(own[middle : last + 1])):
                high = middle - 1
            else:
                low = middle
        return low, last

    def _lives(self, own: Sequence[Point]) -> Asking[bool]:
        """Whether a meter that answered nothing at all answers for one point alone: a single request tells."""
        point = min(own, key=lambda point: point.count)
        (code,) = yield (Block(point.table, point.address, point.count),)  # silent as it is, it has come to rest
        self.asked += 1
        self.refused += code != Quality.GOOD
        return code == Quality.GOOD

    def _is_well(self, refused: Point) -> Asking[bool]:
        """Whether anything else of the meter is answered with values now."""
        for planned in self.good[:1]:
            request = planned.request
            if (yield from self._takes(request.table, request.address, request.address + request.count)):
                return True
        others = [point for point in self.points if point is not refused and self.learned.refusal(point) is None]
        others.sort(key=lambda point: point.table == refused.table)  # another table first: it is refused for itself
        for point in others[:PLACES]:
            if (yield from self._takes_points([point])):
                return True
        return False

    def _judge(self, own: Sequence[Point], low: int, high: int) -> Asking[Learned]:
        """Why a run of points is refused whose points are taken without the first, and without the last."""
        table = own[low].table
        address, end = own[low].address, max(point.end for point in own[low : high + 1])
        inner = max(point.end for point in own[low:high])  # the end of all but the last
        first, behind = inner, max(inner, own[high].address)
        taken = max(inner - address, end - own[low + 1].address)
        if high == low + 1 and first < behind and not (yield from self._takes(table, first, behind)):
            return self._forbid(table, first, behind - first)
        longest = max((p.request.count for p in self.good if p.request.table == table), default=0)
        is_length = longest < end - address and (
            high > low + 1 or (yield from self._is_refused_elsewhere(table, end - address, own[low], own[high]))
        )
        if not is_length:
            return self._forbid(table, first, behind - first)
        return (yield from self._measure(table, address, max(taken, longest), end - address))

    def _is_refused_elsewhere(self, table: Table, count: int, left: Point, right: Point) -> Asking[bool]:
        """Whether blocks at least so long are refused at other places; False where there is no other place."""
        every = sorted((p for p in self.points if p.table == table), key=lambda p: (p.address, p.end))
        places = []
        for low in range(len(every)):
            for high in range(low, len(every)):
                run = every[low : high + 1]
                span = max(point.end for point in run) - run[0].address
                if count <= span <= maximum(table):
                    if not (left in run and right in run):
                        places.append(run)
                    break
        for run in places[:PLACES]:
            if (yield from self._takes_points(run)):
                return False
        return bool(places)

    def _measure(self, table: Table, address: int, taken: int, refused: int) -> Asking[Learned]:
        """The largest block from an address, between one that is taken and one that is refused."""
        while refused - taken > 1:
            middle = (taken + refused) // 2
            if (yield from self._takes(table, address, address + middle)):
                taken = middle
            else:
                refused = middle
        limit = Limit(taken, self._evidence())
        key = "max_bits" if table in BIT_TABLES else "max_registers"
        return msgspec.structs.replace(self.learned, **{key: limit})

    # ---- a request that comes too soon

    def _search_gap(self) -> Asking[Learned]:
        """The block is taken after a rest. Perhaps not when it follows another request at once."""
        before = next((planned for planned in self.good), self.suspect)
        known = self.learned.gap.ms if self.learned.gap else 0
        if (yield from self._serves(before, known)):
            return self.learned
        for gap in GAPS_MS:
            if gap > known and (yield from self._serves(before, gap)):
                return msgspec.structs.replace(self.learned, gap=Pause(gap, self._evidence()))
        return self.learned

    def _serves(self, before: PlannedRequest, gap_ms: int) -> Asking[bool]:
        """Whether the suspicious request is answered so long behind another, each time."""
        first, second = _block(before, self.rest), _block(self.suspect, gap_ms / 1000)
        for _ in range(GAP_TRIES):
            codes = yield (first, second)
            self.asked += 2
            self.refused += sum(code != Quality.GOOD for code in codes)
            if codes[1] != Quality.GOOD:
                return False
        return True

    # ---- asking and concluding

    def _takes_points(self, run: Sequence[Point]) -> Asking[bool]:
        return (yield from self._takes(run[0].table, run[0].address, max(point.end for point in run)))

    def _takes(self, table: Table, address: int, end: int) -> Asking[bool]:
        """Whether the meter, at rest, answers a block with values."""
        for _ in range(TRIES):
            (code,) = yield (Block(table, address, end - address, self.rest if self.cause in SILENT else 0.0),)
            self.asked += 1
            if code == Quality.GOOD:
                return True
            self.refused += 1
            self.cause = code
            if code in ABOUT_THE_BLOCK:
                return False
            if code not in SILENT:
                raise _MomentError
        return False

    def _refuse(self, point: Point) -> Learned:
        found = Refused(point.table, point.address, point.count, self.cause, self._evidence())
        others = tuple(refused for refused in self.learned.refused if not refused.covers(point))
        return msgspec.structs.replace(self.learned, refused=(*others, found))

    def _forbid(self, table: Table, address: int, count: int) -> Learned:
        hole = LearnedHole(table, address, count, self._evidence())
        return msgspec.structs.replace(self.learned, holes=(*self.learned.holes, hole))

    def _evidence(self) -> Evidence:
        return Evidence(self.now(), self.asked, self.refused)


def _block(planned: PlannedRequest, pause: float) -> Block:
    request = planned.request
    return Block(request.table, request.address, request.count, pause)


def without(learned: Learned, refused: Refused) -> Learned:
    """The facts when a point that was refused has answered."""
    return msgspec.structs.replace(learned, refused=tuple(one for one in learned.refused if one != refused))
