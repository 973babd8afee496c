"""Refusals: attempts that were refused, told in the audit log without letting an attacker fill the disk with them.

The first ones of a kind (who, from where, what) are told one by one; beyond a rate they are counted, and the count is
told once a minute. So every one of them is in the log, as an entry or in a number.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from parkfleet.controller.audit_chain import AuditFact
from parkfleet.controller.audit_log import AuditLog

log = logging.getLogger(__name__)

#: Of one kind: so many at once, then so many a second, are told one by one.
BURST: Final = 10
PER_S: Final = 1 / 30
#: Kinds that are kept apart; beyond, the least recent is forgotten once its count was told.
MAX_KINDS: Final = 1000
#: How often counts are told. Seconds.
TELL_S: Final = 60.0


@dataclass
class _Kind:
    """Refusals that are alike."""

    left: float
    at: float
    last: AuditFact
    untold: int = 0


class Refusals:
    """Between the gate and the audit log."""

    def __init__(self, log: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str, str], _Kind] = OrderedDict()

    async def tell(self, fact: AuditFact) -> None:
        """Tells of a refusal, now or in a count."""
        now = self._clock()
        key = (fact.actor, fact.peer, fact.action)
        kind = self._kinds.get(key) or _Kind(BURST, now, fact)
        kind.left = min(BURST, kind.left + (now - kind.at) * PER_S)
        kind.at, kind.last = now, fact
        told = kind.left >= 1
        if told:
            kind.left -= 1
        else:
            kind.untold += 1
        self._kinds[key] = kind
        self._kinds.move_to_end(key)
        if told:
            await self._log.append(fact)
        while len(self._kinds) > MAX_KINDS:
            _, oldest = self._kinds.popitem(last=False)
            await self._tell_count(oldest)

    async def flush(self) -> None:
        """Tells the counts."""
        for kind in list(self._kinds.values()):
            await self._tell_count(kind)

    async def run(self) -> None:
        """Tells the counts for ever, once in a while."""
        while True:
            await asyncio.sleep(TELL_S)
            try:
                await self.flush()
            except Exception:
                log.exception("refused attempts could not be told in the audit log: they are counted on")

    async def _tell_count(self, kind: _Kind) -> None:
        count, kind.untold = kind.untold, 0
        if count:
            told = f"{count} more like this, the last: {kind.last.detail}"
            try:
                await self._log.append(replace(kind.last, target="", detail=told))
            except BaseException:
                kind.untold += count
                raise
