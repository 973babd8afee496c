"""Witness: tells the audit log of what others than operators do: boxes that enrol, or try to."""

import logging

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.refusals import Refusals

log = logging.getLogger(__name__)


class Witness:
    """Never fails: what it tells of has happened already, and stands in the process's log too."""

    def __init__(self, audit: AuditLog, refusals: Refusals) -> None:
        self._audit = audit
        self._refusals = refusals

    async def tell(self, fact: AuditFact) -> None:
        """Tells of a deed, or of a refusal."""
        try:
            if fact.result is AuditResult.REFUSED:
                await self._refusals.tell(fact)
            else:
                await self._audit.append(fact)
        except UNAVAILABLE as error:
            log.error("%s from %s could not be told in the audit log: %s", fact.action, fact.peer, error)
