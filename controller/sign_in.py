"""SignIn: a name and a password traded for a session. Whatever is wrong, the words and the time they take are alike."""

from dataclasses import replace
from typing import Final, NamedTuple

from parkfleet.controller.access import Principal, Via
from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.credentials import Credentials, Issued
from parkfleet.controller.gate import via_of
from parkfleet.controller.passwords import Passwords
from parkfleet.controller.people import People
from parkfleet.controller.refusals import Refusals
from parkfleet.controller.tries import TooManyTriesError, Tries, account, peer_subject

ACTION: Final = "Operators/SignIn"
#: Characters of a name that are looked at; no user has a longer one.
MAX_NAME: Final = 64


class SignInError(Exception):
    """Not signed in; the message says no more than the caller may know."""


class SignedIn(NamedTuple):
    """Somebody, with their new session."""

    principal: Principal
    session: Issued


class SignIn:
    """Signs in at one controller."""

    def __init__(
        self,
        people: People,
        credentials: Credentials,
        passwords: Passwords,
        tries: Tries,
        audit: AuditLog,
        refusals: Refusals,
    ) -> None:
        self._people = people
        self._credentials = credentials
        self._passwords = passwords
        self._tries = tries
        self._audit = audit
        self._refusals = refusals

    async def sign_in(self, name: str, password: str, peer: str) -> SignedIn:
        """Raises SignInError, TooManyTriesError, BusyError."""
        name = name[:MAX_NAME]
        found = await self._people.password_of(name)
        # A name that nobody has is not told: people type their password there.
        fact = AuditFact(ACTION, AuditResult.REFUSED, name if found else "", peer=peer)
        subjects = (account(name), peer_subject("sign-in", peer))
        try:
            wait_s = await self._tries.begin(*subjects)
        except TooManyTriesError as error:
            whose = "this account" if error.subject == subjects[0].name else "this address"
            await self._refusals.tell(replace(fact, detail=f"not looked at: {whose} failed too often"))
            raise
        kept, enabled = found or (None, False)
        if not await self._passwords.matches(kept if enabled else None, password):
            why = "no such user" if found is None else "wrong password" if enabled else "the user is disabled"
            await self._refusals.tell(replace(fact, detail=f"{why}{f'; no try for {wait_s} s' if wait_s else ''}"))
            raise SignInError("wrong name or password")
        await self._tries.succeeded(*subjects)
        session = await self._credentials.open_session(name)
        principal = await self._credentials.of_user(name, Via.SESSION, session.id)
        if principal is None:  # disabled in this very moment
            raise SignInError("wrong name or password")
        await self._audit.append(replace(fact, result=AuditResult.DONE, via=via_of(principal)))
        return SignedIn(principal, session)
