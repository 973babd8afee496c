"""Tries: how often somebody may fail to show who they are, counted in the database, so over all replicas.

A try is counted before it is judged, in one statement, so that many at once are no way around; one that succeeds is
given back. Whoever fails too often waits, twice as long after each further failure.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from sqlalchemy import BigInteger, Column, Integer, Table, Text, case, delete, update

from parkfleet.controller.database import Database, metadata, upsert

TRIES: Final = Table(
    "failed_tries",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("count", Integer),
    Column("last_ms", BigInteger),
    Column("until_ms", BigInteger),
)

#: The waits after the first failure too many, and after each further one. The last is for good: 96 tries a day are
#: nothing against a password of 12 characters, and a person who mistyped is back soon. Seconds.
WAITS_S: Final = (15, 30, 60, 120, 240, 480, 900)
#: A subject without a try for so long is forgotten. Seconds.
FORGET_S: Final = 3600
#: Failures that are free: of an account; of an address, behind which many people may be.
ACCOUNT_FREE: Final = 5
PEER_FREE: Final = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose tries are counted."""

    name: str  # account/alice, sign-in/10.0.0.5, enrol/10.0.0.5
    free: int  # failures before the first wait
    own: bool = False  # a success forgets all its failures: it is its own, as an account's is; an address is shared


class TooManyTriesError(Exception):
    """Nothing is judged before the wait is over."""

    def __init__(self, subject: str) -> None:
        super().__init__("too many failed tries: wait a quarter of an hour at most, then try again")
        self.subject = subject


class Tries:
    """The counts of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, *subjects: Subject) -> int:
        """Counts a try of each; the wait in s that begins should it fail, 0 for none. Raises TooManyTriesError."""
        now = int(self._clock() * 1000)
        longest = now
        async with self._database.write() as connection:
            await connection.execute(delete(TRIES).where(TRIES.c.last_ms < now - FORGET_S * 1000))
            for subject in sorted(subjects, key=lambda one: one.name):  # one order: replicas never wait in a ring
                until = case(
                    *((TRIES.c.count + 1 == subject.free + n, now + wait * 1000) for n, wait in enumerate(WAITS_S)),
                    (TRIES.c.count + 1 > subject.free, now + WAITS_S[-1] * 1000),
                    else_=0,
                )
                statement = upsert(connection, TRIES).values(subject=subject.name, count=1, last_ms=now, until_ms=0)
                statement = statement.on_conflict_do_update(
                    index_elements=["subject"],
                    set_={"count": TRIES.c.count + 1, "last_ms": now, "until_ms": until},
                    where=TRIES.c.until_ms <= now,
                ).returning(TRIES.c.until_ms)
                row = (await connection.execute(statement)).first()
                if row is None:
                    raise TooManyTriesError(subject.name)  # undoes the counting of the others
                longest = max(longest, row.until_ms)
        return (longest - now) // 1000

    async def succeeded(self, *subjects: Subject) -> None:
        """Gives the try back, with the wait that it would have begun."""
        async with self._database.write() as connection:
            for subject in sorted(subjects, key=lambda one: one.name):
                mine = TRIES.c.subject == subject.name
                if subject.own:
                    await connection.execute(delete(TRIES).where(mine))
                else:
                    await connection.execute(
                        update(TRIES).where(mine, TRIES.c.count > 0).values(count=TRIES.c.count - 1, until_ms=0)
                    )


def account(name: str) -> Subject:
    """Whose tries those to sign in as somebody are."""
    return Subject(f"account/{name}", ACCOUNT_FREE, own=True)


def peer_subject(purpose: str, address: str, free: int = PEER_FREE) -> Subject:
    """Whose tries an address's are; of IPv6 its network, for a host has 2^64 addresses to come from."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return Subject(f"{purpose}/{address}", free)
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if isinstance(parsed, IPv6Address):
        return Subject(f"{purpose}/{ip_network((parsed, 64), strict=False)}", free)
    return Subject(f"{purpose}/{parsed}", free)
