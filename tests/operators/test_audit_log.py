"""The audit log in the database, SQLite and PostgreSQL alike."""

import asyncio

import pytest
from sqlalchemy import text

from parkfleet.controller.audit_chain import AuditFact, AuditResult, ChainCheck, Head
from parkfleet.controller.audit_log import AuditLog, AuditQuery
from parkfleet.controller.database import UNAVAILABLE, Database
from tests.conftest import DatabaseAt


def fact(number: int = 0, actor: str = "", scope: str = "") -> AuditFact:
    """Something that was done."""
    return AuditFact("Fleet/Deed", AuditResult.DONE, actor or f"user{number % 3}", scope=scope)


async def whole(log: AuditLog) -> Head:
    """Checks all of a log."""
    check = ChainCheck()
    while records := await log.page(check.head.number, 7):
        for record in records:
            check.take(record)
    assert check.finish() == await log.head()
    return check.head


async def test_entries_follow_on_each_other(database: Database) -> None:
    """From an empty log on."""
    log = AuditLog(database, lambda: 1_790_000_000.5)
    assert await whole(log) == Head()
    for number in range(10):
        entry = await log.append(fact(number))
        assert (entry.number, entry.at_ms) == (number + 1, 1_790_000_000_500)
    assert (await whole(log)).number == 10


async def test_replicas_append_beside_each_other(database_at: DatabaseAt) -> None:
    """Three controllers on one database write at once: no entry is lost, and the chain is one."""
    replicas = [await database_at.open() for _ in range(3)]
    logs = [AuditLog(replica) for replica in replicas]
    try:
        await asyncio.gather(*(logs[number % 3].append(fact(number)) for number in range(60)))
        assert {(await whole(log)).number for log in logs} == {60}
    finally:
        for replica in replicas:
            await replica.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_entry SET actor = 'mallory' WHERE number = 2",
        "DELETE FROM audit_entry WHERE number = 3",
        "DELETE FROM audit_entry",
        "INSERT OR REPLACE INTO audit_entry SELECT 2, at_ms, 'mallory', via, peer, action, target, scope, reason, "
        "result, detail, begun_by, previous, hash FROM audit_entry WHERE number = 2",
        "TRUNCATE audit_entry",
    ],
)
async def test_the_database_itself_refuses_to_change_it(database: Database, change: str) -> None:
    """Each in the dialect that knows the statement."""
    log = AuditLog(database)
    for number in range(3):
        await log.append(fact(number))
    with pytest.raises(UNAVAILABLE) as caught:
        async with database.write() as connection:
            await connection.execute(text(change))
    knows = ("TRUNCATE" in change) <= database.is_shared and ("OR REPLACE" in change) <= (not database.is_shared)
    assert ("only grows" in str(caught.value)) is knows
    assert (await whole(log)).number == 3


async def test_find_filters_and_pages(database: Database) -> None:
    """The newest first; a beginning is left away once its end is told."""
    log = AuditLog(database, lambda: 1_790_000_000)
    begun = await log.append(fact(0, actor="alice", scope="park/p1"))
    begun = await log.append(AuditFact("Fleet/Other", AuditResult.BEGUN, "bob", scope="park/p2"))
    await log.append(AuditFact("Fleet/Other", AuditResult.BEGUN, "carol"))
    await log.append(AuditFact("Fleet/Other", AuditResult.FAILED, "bob", scope="park/p2", of=begun.number))

    async def numbers(**asked: object) -> list[int]:
        return [record["number"] for record in await log.find(AuditQuery(**asked))]  # type: ignore[arg-type]

    assert await numbers() == [4, 3, 1]
    assert await numbers(before=4) == [3, 1]
    assert await numbers(limit=1) == [4]
    assert await numbers(actor="bob") == [4]
    assert await numbers(scopes=["park/p1"]) == [1]
    assert await numbers(scopes=[]) == []
    assert await numbers(action="Fleet/O") == [4, 3]
    assert await numbers(action="Fleet/%") == []
    assert await numbers(result="begun") == [3]
    assert await numbers(since_ms=1_790_000_000_001) == []
