"""Refused attempts in the audit log: every one is there, as an entry or in a number, and no flood fills the disk."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkfleet.controller.audit_chain import AuditFact, AuditResult
from parkfleet.controller.audit_log import AuditLog
from parkfleet.controller.refusals import ALIKE, MAX_KINDS, TELL_KINDS, TOGETHER, Refusals
from tests.operators.world import sqlite_at


@pytest.fixture
async def audit(tmp_path: Path) -> AsyncIterator[AuditLog]:
    """An empty log."""
    database = await sqlite_at(tmp_path).open()
    yield AuditLog(database)
    await database.close()


def refused(peer: str, actor: str = "", action: str = "Operators/SignIn") -> AuditFact:
    """An attempt."""
    return AuditFact(action, AuditResult.REFUSED, actor, peer=peer, detail="wrong password")


async def told(audit: AuditLog, after: int = 0) -> tuple[int, int]:
    """(entries, attempts that they tell of)."""
    entries = attempts = 0
    while page := await audit.page(after):
        for record in page:
            found = re.match(r"(\d+) more ", record["detail"])
            entries, attempts, after = entries + 1, attempts + (int(found[1]) if found else 1), record["number"]
    return entries, attempts


async def test_a_flood_from_one_address_is_counted(audit: AuditLog) -> None:
    """The first ones stand there, the others in a number; an address apart is told of all the same."""
    now = [1000.0]
    refusals = Refusals(audit, lambda: now[0])
    for _ in range(500):
        await refusals.tell(refused("10.0.0.5"))
    await refusals.tell(refused("10.0.0.6"))
    assert await told(audit) == (ALIKE[0] + 1, ALIKE[0] + 1)
    await refusals.flush()
    assert await told(audit) == (ALIKE[0] + 2, 501)
    (last,) = [record for record in await audit.page(0) if record["number"] == ALIKE[0] + 2]
    assert (last["peer"], last["detail"]) == ("10.0.0.5", "490 more like this, the last: wrong password")
    now[0] += 1 / ALIKE[1]
    await refusals.tell(refused("10.0.0.5"))
    assert (await told(audit))[1] == 502


async def test_a_flood_from_everywhere_is_bounded(audit: AuditLog) -> None:
    """However many addresses, networks and names there are."""
    refusals = Refusals(audit, lambda: 1000.0)
    many = 3 * MAX_KINDS
    for number in range(many):
        await refusals.tell(refused(f"10.{number >> 8}.{number & 255}.1"))
    await refusals.flush()
    assert await told(audit) == (TOGETHER[0] + TELL_KINDS + 1, many)


async def test_an_address_of_ipv6_is_its_network(audit: AuditLog) -> None:
    """A host with all of a /64 is one attacker."""
    refusals = Refusals(audit, lambda: 1000.0)
    for number in range(50):
        await refusals.tell(refused(f"2001:db8::{number:x}"))
    assert (await told(audit))[0] == ALIKE[0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "alice"]), st.floats(0, 90)), max_size=60))
async def test_none_is_missing(audit: AuditLog, attempts: list[tuple[int, str, float]]) -> None:
    """Whoever tries when: after the counts were told, the log tells of every one."""
    before, now = (await audit.head()).number, [1000.0]
    refusals = Refusals(audit, lambda: now[0])
    for peer, actor, pause in attempts:
        now[0] += pause
        await refusals.tell(refused(f"10.0.0.{peer}", actor))
    await refusals.flush()
    await refusals.flush()
    assert (await told(audit, before))[1] == len(attempts)


async def test_what_could_not_be_told_is_counted(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away loses none of them."""
    refusals = Refusals(audit, lambda: 1000.0)

    async def away(_: AuditFact) -> None:
        raise OSError("away")

    with monkeypatch.context() as broken:
        broken.setattr(audit, "append", away)
        for _ in range(3):
            with pytest.raises(OSError, match="away"):
                await refusals.tell(refused("10.0.0.5"))
        with pytest.raises(OSError, match="away"):
            await refusals.flush()
    await refusals.flush()
    assert await told(audit) == (1, 3)
