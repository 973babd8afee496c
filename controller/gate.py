"""Gate: what every call of an operator passes, whatever it came by (gRPC, the console): who, may they, and told.

A change is told twice in the audit log: before it begins, and how it ended. So none is missing when the process ends
in between, and a controller whose audit log cannot be written changes nothing.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from parkfleet.controller.access import EVERYBODY, Mode, Principal, Via
from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.caller import Belonging, Caller, DeniedError, Proof
from parkfleet.controller.demands import Demand, demand_of, done

if TYPE_CHECKING:  # an open gate needs no database
    from parkfleet.controller.audit_log import AuditLog
    from parkfleet.controller.credentials import Credentials
    from parkfleet.controller.refusals import Refusals

log = logging.getLogger(__name__)

#: Who has not signed in: has no grant, and so may nothing but what is open to all.
NOBODY: Final = Principal("", Via.OPEN, ())


class UnknownCallerError(Exception):
    """Nobody knows who calls; the message says what to do."""


class AwayError(Exception):
    """The database is away: nothing can be looked up, told or changed."""


@dataclass
class Deed:
    """A call that was let through, while it is done."""

    caller: Caller
    demand: Demand
    fact: AuditFact
    answer: Any = None  # the last one


class Gatekeeper(Protocol):
    """A gate."""

    async def admit(self, method: str, request: Any, proof: Proof, peer: str) -> Deed:
        """Lets a call through. Raises DeniedError, UnknownCallerError, AwayError."""

    async def again(self, deed: Deed, proof: Proof) -> None:
        """The same for a call that takes long: somebody may have lost their rights meanwhile."""

    def doing(self, deed: Deed, told: Callable[[BaseException], str]) -> AbstractAsyncContextManager[None]:
        """The block in which it is done. told: what its failure was, in words."""


class OpenGate:
    """The gate of a controller that keeps nothing: it asks nobody who they are, and has no log to tell."""

    def __init__(self, belonging: Belonging) -> None:
        self._belonging = belonging

    async def admit(self, method: str, request: Any, proof: Proof, peer: str) -> Deed:
        demand = demand_of(method, request, self._belonging)
        if demand is None:
            raise DeniedError(f"nobody may call {method}")
        return Deed(Caller(EVERYBODY, peer, self._belonging), demand, AuditFact(action_of(method), AuditResult.DONE))

    async def again(self, deed: Deed, proof: Proof) -> None:
        pass

    @asynccontextmanager
    async def doing(self, deed: Deed, told: Callable[[BaseException], str]) -> AsyncIterator[None]:
        yield


class Gate:
    """The gate of a controller with people."""

    def __init__(
        self, credentials: "Credentials", audit: "AuditLog", refusals: "Refusals", belonging: Belonging
    ) -> None:
        from parkfleet.controller.database import UNAVAILABLE

        self._credentials = credentials
        self._audit = audit
        self._refusals = refusals
        self._belonging = belonging
        self._away = UNAVAILABLE

    async def admit(self, method: str, request: Any, proof: Proof, peer: str) -> Deed:
        """Lets a call through, and tells of a change that begins. Raises DeniedError, UnknownCallerError, AwayError."""
        fact = AuditFact(action_of(method), AuditResult.REFUSED, peer=peer)
        try:
            demand = demand_of(method, request, self._belonging)
            if demand is None:
                raise DeniedError(f"nobody may call {method}")
            fact = replace(fact, target=demand.target, scope=_scope(demand), reason=getattr(request, "reason", ""))
            caller = await self._recognise(demand, proof, peer)
            fact = replace(fact, actor=caller.principal.user, via=via_of(caller.principal))
            _check(caller, demand)
            if demand.change:
                begun = await self._audit.append(replace(fact, result=AuditResult.BEGUN))
                fact = replace(fact, of=begun.number)
        except (DeniedError, UnknownCallerError) as error:
            await self._refused(replace(fact, detail=str(error)))
            raise
        except self._away as error:
            raise _away(fact, error) from None
        return Deed(caller, demand, fact)

    async def again(self, deed: Deed, proof: Proof) -> None:
        """Recognises the caller of a long call anew. Raises DeniedError, UnknownCallerError, AwayError."""
        try:
            now = await self._recognise(deed.demand, proof, deed.caller.peer)
        except self._away as error:
            raise _away(deed.fact, error) from None
        if now.principal != deed.caller.principal:
            raise DeniedError("what you may do was changed meanwhile: call again")

    @asynccontextmanager
    async def doing(self, deed: Deed, told: Callable[[BaseException], str]) -> AsyncIterator[None]:
        """The block in which a call is done; tells how a change ended, and what the service itself refused.

        Raises AwayError for a database that went away meanwhile.
        """
        try:
            yield
        except DeniedError as error:
            await self._refused(replace(deed.fact, result=AuditResult.REFUSED, detail=str(error)))
            raise
        except BaseException as error:
            await self._ended(deed, AuditResult.FAILED, told(error))
            if isinstance(error, self._away):
                raise _away(deed.fact, error) from None
            raise
        if deed.demand.change:
            outcome = deed.demand.outcome if deed.answer is not None else done
            await self._ended(deed, *outcome(deed.answer))

    async def _ended(self, deed: Deed, result: AuditResult, detail: str) -> None:
        if not deed.demand.change:
            return
        try:
            await self._audit.append(replace(deed.fact, result=result, detail=detail))
        except self._away:  # it is done, whatever the log says: that it began stands there
            log.exception("how %s by %s ended could not be told in the audit log", deed.fact.action, deed.fact.actor)

    async def _refused(self, fact: AuditFact) -> None:
        try:
            await self._refusals.tell(fact)
        except self._away as error:  # it stays refused
            log.error(
                "%s was refused (%s), which could not be told in the audit log: %s", fact.action, fact.peer, error
            )

    async def _recognise(self, demand: Demand, proof: Proof, peer: str) -> Caller:
        """Raises UnknownCallerError, one of UNAVAILABLE."""
        if demand.open:  # a token is not looked at: whoever signs in may bring the one of a session that has ended
            return Caller(NOBODY, peer, self._belonging)
        principal = await self._credentials.recognise(proof)
        if principal is None and proof.token:
            raise UnknownCallerError("this session or API token does not hold (any more): sign in with `fleet login`")
        if principal is None and proof.certificate:
            raise UnknownCallerError("this certificate is no operator's, or holds no more: sign in with `fleet login`")
        if principal is None:
            raise UnknownCallerError("nobody is signed in: `parkfleet fleet login`")
        return Caller(principal, peer, self._belonging)


def action_of(method: str) -> str:
    """How the audit log calls a method: parkfleet.v1.Fleet/ListGateways is Fleet/ListGateways."""
    return method.removeprefix("parkfleet.v1.")


def via_of(principal: Principal) -> str:
    """How somebody was recognised, for the audit log."""
    return f"{principal.via.value} {principal.credential}".strip()


def _check(caller: Caller, demand: Demand) -> None:
    """Raises DeniedError."""
    if demand.personal and caller.principal.via in (Via.API_TOKEN, Via.CERTIFICATE):
        via = caller.principal.via.value
        raise DeniedError(f"that is not done with the {via}: sign in as yourself with `parkfleet fleet login`")
    if demand.permission is not None:
        caller.need(demand.permission, demand.reach)


def _scope(demand: Demand) -> str:
    """The scope of a demand, where there is one."""
    if demand.scope is not None:
        return str(demand.scope)
    one = demand.reach.mode is Mode.EVERY and len(demand.reach.scopes) == 1
    return str(demand.reach.scopes[0]) if one else ""


def _away(fact: AuditFact, error: BaseException) -> AwayError:
    log.error("%s from %s cannot be answered: the database: %s", fact.action, fact.peer, error)
    return AwayError()
