"""Signing in: who gets a session, how often somebody may fail, and what that tells nobody."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkfleet.controller.access import Grant
from parkfleet.controller.caller import Nowhere, Proof
from parkfleet.controller.credentials import SESSION_S
from parkfleet.controller.database import Database
from parkfleet.controller.operators import Operators
from parkfleet.controller.passwords import BusyError, Passwords, check, new_password
from parkfleet.controller.sign_in import SignInError
from parkfleet.controller.tries import (
    ACCOUNT_FREE,
    FORGET_S,
    PEER_FREE,
    WAITS_S,
    TooManyTriesError,
    Tries,
    account,
    peer_subject,
)
from parkfleet.proto import operators_pb2 as pb
from tests.conftest import DatabaseAt
from tests.operators.world import WHO, World, sqlite_at, world

PASSWORD = "correct horse battery"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[World]:
    """A controller with alice, who has a password."""
    async with world(sqlite_at(tmp_path)) as running:
        hashed = await running.operators.passwords.hash(PASSWORD)
        await running.operators.people.add("alice", hashed, [Grant.parse("viewer@fleet"), Grant.parse("admin@park/p1")])
        await running.operators.people.add("boss", hashed, [Grant.parse("admin@fleet")])
        yield running


async def sign_in(fleet: World, user: str, password: str) -> tuple[grpc.StatusCode, str, str]:
    """(status, words, token)."""
    try:
        answer = await fleet.call("", "Operators/SignIn", pb.SignInRequest(user=user, password=password))
    except aio.AioRpcError as error:
        return error.code(), error.details() or "", ""
    return grpc.StatusCode.OK, "", answer.token


async def test_a_session_lasts_a_working_day(fleet: World) -> None:
    """And says who it is of; then the password is asked for again."""
    _, _, token = await sign_in(fleet, "alice", PASSWORD)
    person = await fleet.call(token, "Operators/WhoAmI", WHO)
    assert (person.user, person.via, list(person.grants)) == ("alice", "session", ["viewer@fleet", "admin@park/p1"])
    assert person.expires_ms == (fleet.now[0] + SESSION_S) * 1000
    fleet.now[0] += SESSION_S
    assert await fleet.code(token, "Operators/WhoAmI", WHO) is grpc.StatusCode.UNAUTHENTICATED


async def test_signing_out_ends_the_session(fleet: World) -> None:
    """That one; another goes on."""
    tokens = [(await sign_in(fleet, "alice", PASSWORD))[2] for _ in range(2)]
    assert await fleet.code(tokens[0], "Operators/SignOut", pb.SignOutRequest()) is grpc.StatusCode.OK
    assert await fleet.code(tokens[0], "Operators/WhoAmI", WHO) is grpc.StatusCode.UNAUTHENTICATED
    assert await fleet.code(tokens[1], "Operators/WhoAmI", WHO) is grpc.StatusCode.OK


async def test_whatever_is_wrong_the_words_are_the_same(fleet: World) -> None:
    """A wrong password, a name that nobody has, a user who is disabled, and one who may not sign in by password."""
    await fleet.operators.people.enable("alice", False)
    await fleet.operators.people.add("robot", "no hash at all", [])
    told = {await sign_in(fleet, "boss", "wrong password"), await sign_in(fleet, "nobody", PASSWORD)}
    told |= {await sign_in(fleet, "alice", PASSWORD), await sign_in(fleet, "robot", PASSWORD)}
    told |= {await sign_in(fleet, "boss", ""), await sign_in(fleet, "", ""), await sign_in(fleet, "boss", "x" * 9999)}
    assert told == {(grpc.StatusCode.UNAUTHENTICATED, "wrong name or password", "")}


async def test_whatever_is_wrong_a_hash_is_reckoned(fleet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time tells no more than words: the same work is done for a name that nobody has."""
    compared: list[bool] = []
    real = Passwords._compare

    def counted(self: Passwords, kept: str | None, password: str) -> bool:
        compared.append(kept is not None)
        return real(self, kept, password)

    monkeypatch.setattr(Passwords, "_compare", counted)
    await fleet.operators.people.enable("alice", False)
    for name in ("boss", "nobody", "alice"):
        await sign_in(fleet, name, "wrong password")
    assert compared == [True, False, False]
    kept, nobodys = await fleet.operators.people.password_of("boss"), fleet.operators.passwords._nobodys
    assert kept is not None
    costs = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$")
    assert costs.match(kept[0])[0] == costs.match(nobodys)[0]  # type: ignore[index]


async def test_an_account_is_locked_after_failures_and_the_audit_log_says_so(fleet: World) -> None:
    """Even the right password is not looked at then; a quarter of an hour later it is."""
    for _ in range(ACCOUNT_FREE):
        assert (await sign_in(fleet, "alice", "wrong password"))[0] is grpc.StatusCode.UNAUTHENTICATED
    code, told, _ = await sign_in(fleet, "alice", PASSWORD)
    assert (code, told[:25]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many failed tries: wa")
    assert (await sign_in(fleet, "boss", PASSWORD))[0] is grpc.StatusCode.OK
    done, limited, last, *_ = await fleet.audit()
    assert (done["actor"], limited["actor"], last["actor"]) == ("boss", "alice", "alice")
    assert last["detail"] == f"wrong password; no try for {WAITS_S[0]} s"
    assert limited["detail"] == "not looked at: this account failed too often"
    fleet.now[0] += WAITS_S[0]
    assert (await sign_in(fleet, "alice", PASSWORD))[0] is grpc.StatusCode.OK
    assert (await sign_in(fleet, "alice", "wrong password"))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_name_that_nobody_has_is_locked_alike_and_never_written(fleet: World) -> None:
    """Nobody learns from the lock which names there are; and people type their password into the wrong field."""
    for _ in range(ACCOUNT_FREE):
        await sign_in(fleet, "hunter2hunter2", "x")
    assert (await sign_in(fleet, "hunter2hunter2", "x"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "hunter2" not in str(await fleet.audit())


async def test_no_password_is_in_the_audit_log(fleet: World) -> None:
    """Neither wrong nor right ones, nor the one that is new."""
    _, _, token = await sign_in(fleet, "alice", PASSWORD)
    await sign_in(fleet, "alice", "nearly the right one")
    request = pb.SetPasswordRequest(current=PASSWORD, password="another horse altogether")
    assert await fleet.code(token, "Operators/SetPassword", request) is grpc.StatusCode.OK
    told = str(await fleet.audit())
    assert all(word not in told for word in (PASSWORD, "nearly", "another horse", token.split("_")[2]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=250), st.from_regex(r"pf[sa]_[0-9a-f]{12}_[0-9a-f]{64}", fullmatch=True)))
async def test_any_token_is_nobodys(fleet: World, token: str) -> None:
    """But those that were given out."""
    assert await fleet.operators.credentials.recognise(Proof(token)) is None


async def test_a_token_is_another_ones_if_anything_of_it_differs(fleet: World) -> None:
    """Id and secret belong together, and the kind."""
    credentials = fleet.operators.credentials
    one, other = [(await credentials.open_session("alice")).token.split("_") for _ in range(2)]
    assert await credentials.recognise(Proof("_".join(one))) is not None
    for mixed in ((one[0], one[1], other[2]), ("pfa", *one[1:]), (one[0], other[1], one[2])):
        assert await credentials.recognise(Proof("_".join(mixed))) is None


async def test_tries_are_counted_over_all_replicas_and_however_many_at_once(database_at: DatabaseAt) -> None:
    """Of a hundred tries at once at two controllers only the free ones are looked at."""
    replicas = [await database_at.open() for _ in range(2)]
    limits = [Tries(replica, lambda: 1000.0) for replica in replicas]

    async def one(number: int) -> int:
        try:
            await limits[number % 2].begin(account("alice"), peer_subject("sign-in", f"10.0.0.{number}"))
        except TooManyTriesError:
            return 0
        return 1

    try:
        assert sum(await asyncio.gather(*map(one, range(100)))) == ACCOUNT_FREE
    finally:
        for replica in replicas:
            await replica.close()


async def test_waits_grow_and_are_forgotten(database: Database) -> None:
    """Each failure doubles the wait, up to the longest; an hour of quiet forgets them all."""
    now = [1_790_000_000.0]
    tries = Tries(database, lambda: now[0])
    waits = []
    for _ in range(ACCOUNT_FREE + 9):
        waits.append(await tries.begin(account("alice")))
        if waits[-1]:
            with pytest.raises(TooManyTriesError):
                await tries.begin(account("alice"))
            now[0] += waits[-1]
    assert waits == [0] * (ACCOUNT_FREE - 1) + list(WAITS_S) + [WAITS_S[-1]] * 3
    now[0] += FORGET_S + 1
    assert await tries.begin(account("alice")) == 0


async def test_an_address_is_not_freed_by_one_success(database: Database) -> None:
    """Somebody with an account of their own cannot try out those of others without end."""
    tries, peer = Tries(database, lambda: 1000.0), peer_subject("sign-in", "10.0.0.5")
    looked_at = 0
    with pytest.raises(TooManyTriesError):
        for number in range(100):
            await tries.begin(account(f"victim{number}"), peer)
            looked_at += 1
            await tries.begin(account("mallory"), peer)
            await tries.succeeded(account("mallory"), peer)
    assert looked_at == PEER_FREE


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("10.0.0.5", "x/10.0.0.5"),
        ("2001:db8:1:2:3:4:5:6", "x/2001:db8:1:2::/64"),
        ("fe80::1%eth0", "x/fe80::/64"),
        ("::ffff:10.0.0.5", "x/10.0.0.5"),
        ("unix", "x/unix"),
    ],
)
def test_an_address_of_ipv6_is_its_network(address: str, subject: str) -> None:
    """A host has as many of them as it likes."""
    assert peer_subject("x", address).name == subject


@pytest.mark.parametrize("password", ["short", "x" * 1025, "aaaaaaaaaaaaaaaa", "abcabcabcabcabc"])
def test_passwords_that_are_not_taken(password: str) -> None:
    """With a sentence that helps."""
    with pytest.raises(ValueError, match=r"a password has|again and again"):
        check(password)


async def test_passwords_are_compared_however_they_are_typed() -> None:
    """The same characters, composed by another keyboard."""
    passwords = Passwords()
    kept = await passwords.hash("Kühlwasser im Café")
    assert await passwords.matches(kept, "Kühlwasser im Café".replace("ü", "u\u0308").replace("é", "e\u0301"))
    assert kept.startswith("$argon2id$")
    check(new_password())


async def test_too_many_comparisons_at_once_are_put_off() -> None:
    """They cost 64 MiB each: the rest is asked to come back."""
    passwords = Passwords()
    kept = await passwords.hash(PASSWORD)
    found: list[Any] = await asyncio.gather(
        *(passwords.matches(kept, PASSWORD) for _ in range(20)), return_exceptions=True
    )
    assert [one for one in found if one is True] == [True] * 16
    assert all(isinstance(one, BusyError) for one in found if one is not True)


async def test_the_first_admin_is_made_once(database_at: DatabaseAt) -> None:
    """Also when two controllers start on an empty database at once; never again after that."""
    replicas = [await database_at.open() for _ in range(2)]
    try:
        both = [Operators(replica, Nowhere()) for replica in replicas]
        made = [one for one in await asyncio.gather(*(one.make_first_admin() for one in both)) if one]
        assert len(made) == 1
        signed_in = await both[1].sign_in.sign_in("admin", made[0], "10.0.0.5")
        assert list(map(str, signed_in.principal.grants)) == ["admin@fleet"]
        assert await both[0].make_first_admin() is None
        assert made[0] not in str(await both[0].audit.page(0))
    finally:
        for replica in replicas:
            await replica.close()


async def test_a_user_disabled_during_sign_in_gets_nothing(database: Database) -> None:
    """What is looked up last counts."""
    operators = Operators(database, Nowhere())
    await operators.people.add("boss", "x", [Grant.parse("admin@fleet")])
    await operators.people.add("alice", await operators.passwords.hash(PASSWORD), [])
    real = operators.credentials.open_session

    async def disabled_meanwhile(user: str) -> Any:
        await operators.people.enable(user, False)
        return await real(user)

    operators.credentials.open_session = disabled_meanwhile  # type: ignore[method-assign]
    with pytest.raises(SignInError):
        await operators.sign_in.sign_in("alice", PASSWORD, "10.0.0.5")
