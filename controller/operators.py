"""Operators: the people's side of a controller in one piece: who they are, what they may, what they did.

What gRPC, the console and commands on the machine share. A console lets a request through `gate.admit()` with the name
of the method that does the same over gRPC, and does it within `gate.doing()`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from parkfleet.controller.access import Via
from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.authority import Authority
from parkfleet.controller.caller import Belonging, Nowhere
from parkfleet.controller.credentials import Credentials
from parkfleet.controller.database import UNAVAILABLE, Database
from parkfleet.controller.gate import Gate
from parkfleet.controller.management import Management
from parkfleet.controller.operator_certificates import OperatorCertificates
from parkfleet.controller.passwords import Passwords, new_password
from parkfleet.controller.people import People
from parkfleet.controller.refusals import Refusals
from parkfleet.controller.sign_in import SignIn
from parkfleet.controller.tries import Tries, account
from parkfleet.controller.witness import Witness

log = logging.getLogger(__name__)

FIRST_ADMIN: Final = "admin"


class Operators:
    """The people of one controller."""

    def __init__(
        self,
        database: Database,
        belonging: Belonging,
        clock: Callable[[], float] = time.time,
        authority: Authority | None = None,
    ) -> None:
        """authority: who signs operators' certificates; None: nobody."""
        self.people = People(database, clock)
        self.certificates = OperatorCertificates(database, authority, clock)
        self.credentials = Credentials(database, self.certificates, clock)
        self.passwords = Passwords()
        self.tries = Tries(database, clock)
        self.audit = AuditLog(database, clock)
        self.refusals = Refusals(self.audit)
        self.witness = Witness(self.audit, self.refusals)
        self.sign_in = SignIn(self.people, self.credentials, self.passwords, self.tries, self.audit, self.refusals)
        self.management = Management(self.people, self.credentials, self.certificates, self.passwords, self.tries)
        self.gate = Gate(self.credentials, self.audit, self.refusals, belonging)

    async def make_first_admin(self) -> str | None:
        """The password of the first admin, who is made when there is nobody yet; else None."""
        if await self.people.users():
            return None
        password = new_password()
        if await self.people.add_first(FIRST_ADMIN, await self.passwords.hash(password)) is None:
            return None  # another replica was faster
        await self.audit.append(on_machine("Operators/AddUser", f"user {FIRST_ADMIN} admin@fleet", "the first start"))
        return password

    async def run(self) -> None:
        """What is to be done while the controller runs."""
        await self.refusals.run()

    async def close(self) -> None:
        """What is to be done before the database is closed."""
        try:
            await self.refusals.flush()
        except UNAVAILABLE as error:
            log.error("the last refused attempts could not be told in the audit log: %s", error)


async def recover(url: str, password: str | None, user: str, reason: str) -> str | None:
    """A new password for a user, who is enabled too; None when there is no such user. Raises DatabaseError."""
    database = await Database.open(url, password)
    try:
        operators = Operators(database, Nowhere())
        if await operators.people.user(user) is None:
            return None
        made = new_password()
        fact = on_machine("Operators/SetPassword", f"user {user}", reason)
        begun = await operators.audit.append(replace(fact, result=AuditResult.BEGUN))
        await operators.people.set_password(user, await operators.passwords.hash(made))
        await operators.people.enable(user, True)
        await operators.credentials.close_sessions(user)
        await operators.tries.succeeded(account(user))
        await operators.audit.append(replace(fact, of=begun.number))
        return made
    finally:
        await database.close()


def on_machine(action: str, target: str, reason: str) -> AuditFact:
    """What was done by whoever rules the controller's own machine."""
    return AuditFact(action, AuditResult.DONE, via=Via.MACHINE.value, target=target, scope="fleet", reason=reason)
