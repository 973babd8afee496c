"""Refusals: attempts that were refused, told in the audit log without letting an attacker fill the disk with them.

The first ones of a kind (who, from where, what) are told one by one; beyond a rate, of a kind or of all together, they
are counted, and the counts are told once a minute. So every one of them is in the log, as an entry or in a number.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.tries import peer_subject

log = logging.getLogger(__name__)

#: Of one kind, and of all together: so many at once, then so many a second, are told one by one. An entry is a commit.
ALIKE: Final = (10.0, 1 / 30)
TOGETHER: Final = (200.0, 1.0)
#: Kinds that are kept apart; the least recent of more are counted together.
MAX_KINDS: Final = 1000
#: How often counts are told, in seconds, and of how many kinds each time; the rest is one count.
TELL_S: Final = 60.0
TELL_KINDS: Final = 20


class _Allowance:
    """What may be told one by one."""

    def __init__(self, most: float, per_s: float, now: float) -> None:
        self._most = most
        self._per_s = per_s
        self._at = now
        self.left = most

    def has(self, now: float) -> bool:
        """Whether one more may be."""
        self.left = min(self._most, self.left + (now - self._at) * self._per_s)
        self._at = now
        return self.left >= 1


@dataclass
class _Kind:
    """Refusals that are alike."""

    allowance: _Allowance
    last: AuditFact
    untold: int = 0


class Refusals:
    """Between the gate and the audit log."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str, str], _Kind] = OrderedDict()
        self._together = _Allowance(*TOGETHER, clock())
        self._others = 0  # untold, of kinds that are not kept apart any more

    async def tell(self, fact: AuditFact) -> None:
        """Tells of a refusal, now or in a count. Raises one of UNAVAILABLE; then it is counted."""
        now = self._clock()
        kind = self._kind(fact, now)
        kind.untold += 1
        if kind.allowance.has(now) and self._together.has(now):
            kind.allowance.left -= 1
            self._together.left -= 1
            await self._audit.append(fact)
            kind.untold -= 1

    async def flush(self) -> None:
        """Tells the counts. Raises one of UNAVAILABLE; then they are kept."""
        waiting = sorted((kind for kind in self._kinds.values() if kind.untold), key=lambda kind: -kind.untold)
        for kind in waiting[TELL_KINDS:]:
            self._others += kind.untold
            kind.untold = 0
        for kind in waiting[:TELL_KINDS]:
            count = kind.untold
            detail = f"{count} more like this, the last: {kind.last.detail}"
            await self._audit.append(replace(kind.last, target="", detail=detail))
            kind.untold -= count
        if count := self._others:
            detail = f"{count} more of many kinds, from many addresses"
            await self._audit.append(AuditFact("Refusals", AuditResult.REFUSED, detail=detail))
            self._others -= count

    async def run(self) -> None:
        """Tells the counts for ever, once in a while."""
        while True:
            await asyncio.sleep(TELL_S)
            try:
                await self.flush()
            except UNAVAILABLE as error:
                log.error("refused attempts could not be told in the audit log, and are counted on: %s", error)

    def _kind(self, fact: AuditFact, now: float) -> _Kind:
        """Those that are like a fact, it being the last."""
        key = (fact.actor, peer_subject("", fact.peer).name, fact.action)
        kind = self._kinds.setdefault(key, _Kind(_Allowance(*ALIKE, now), fact))
        kind.last = fact
        self._kinds.move_to_end(key)
        while len(self._kinds) > MAX_KINDS:
            self._others += self._kinds.popitem(last=False)[1].untold
        return kind
