"""Witness: tells the audit log of boxes that became gateways, and of those that were refused."""

import logging
from typing import Final

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.database import UNAVAILABLE
from parkfleet.controller.enrolments import Application, Outcome
from parkfleet.controller.guard import peer_address
from parkfleet.controller.refusals import Refusals

log = logging.getLogger(__name__)

ENROL: Final = "enrolment/enroll"


class Witness:
    """Between the gatehouse and the audit log. What cannot be written there stands in the process's log."""

    def __init__(self, audit: AuditLog, refusals: Refusals) -> None:
        self._audit = audit
        self._refusals = refusals

    async def applied(self, application: Application, outcome: Outcome) -> None:
        """A box has a certificate, or waits for an operator."""
        detail = "enrolled" if outcome.certificate else "waits for approval"
        fact = AuditFact(
            ENROL,
            AuditResult.DONE,
            via=f"join token {application.token}",
            peer=peer_address(application.peer),
            target=f"gateway {outcome.key}",
            scope=f"park/{outcome.key.park}",
            detail=f"{detail}, in place of another box" if outcome.replaced else detail,
        )
        try:
            await self._audit.append(fact)
        except UNAVAILABLE as error:
            log.error("the audit log does not have: %s (%s)", fact, error)

    async def refused(self, action: str, peer: str, told: str) -> None:
        """Somebody was refused."""
        via = "join token" if action == ENROL else "certificate"
        fact = AuditFact(action, AuditResult.REFUSED, via=via, peer=peer_address(peer), detail=told)
        try:
            await self._refusals.tell(fact)
        except UNAVAILABLE as error:
            log.error("the audit log does not have: %s (%s)", fact, error)
