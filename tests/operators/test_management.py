"""People who manage people: nobody gives, takes or takes over more than they hold; tokens end with their owner."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkfleet.controller.access import Grant, Permission, Principal, Reach, Role, Scope, Via
from parkfleet.controller.people import People, PeopleError
from parkfleet.proto import fleet_pb2
from parkfleet.proto import operators_pb2 as pb
from tests.conftest import DatabaseAt
from tests.operators.test_access import SCOPES
from tests.operators.world import LIST, WHO, World, change, sqlite_at, world

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNKNOWN, NOT_NOW = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[World]:
    """A controller with people."""
    async with world(sqlite_at(tmp_path)) as running:
        yield running


def granting(user: str, grant: str, revoke: bool = False) -> pb.ChangeGrantRequest:
    return pb.ChangeGrantRequest(user=user, grant=grant, revoke=revoke, reason="test")


async def test_grants_take_effect_with_the_next_call(fleet: World) -> None:
    """Given and taken."""
    boss, bob = await fleet.user("boss", "admin@fleet"), await fleet.user("bob")
    flush = change("park/p1", "buffer.retain", "2d")
    assert await fleet.code(bob, "Fleet/ListGateways", LIST) is DENIED
    assert await fleet.code(boss, "Operators/ChangeGrant", granting("bob", "operator@park/p1")) is OK
    assert await fleet.code(bob, "FleetConfiguration/ChangeLayer", flush) is OK
    assert await fleet.code(boss, "Operators/ChangeGrant", granting("bob", "operator@park/p1", revoke=True)) is OK
    assert await fleet.code(bob, "FleetConfiguration/ChangeLayer", flush) is DENIED


async def test_an_admin_of_a_region_stays_in_it(fleet: World) -> None:
    """Who they give what, whose password they set, whom they disable, whom they see."""
    await fleet.user("boss", "admin@fleet")
    nora = await fleet.user("nora", "admin@region/north")
    await fleet.user("olaf", "operator@park/p1")
    await fleet.user("mixed", "viewer@park/p1", "operator@park/p3")
    await fleet.user("empty")
    for user, grant, expected in (
        ("olaf", "admin@region/north", OK),
        ("olaf", "viewer@park/p2", OK),
        ("olaf", "viewer@park/p3", DENIED),
        ("olaf", "admin@fleet", DENIED),
        ("nora", "admin@fleet", DENIED),
        ("nobody", "viewer@park/p1", NOT_NOW),
    ):
        assert await fleet.code(nora, "Operators/ChangeGrant", granting(user, grant)) is expected, (user, grant)
    assert await fleet.code(nora, "Operators/ChangeGrant", granting("boss", "admin@fleet", revoke=True)) is DENIED
    for user, expected in (("olaf", OK), ("mixed", DENIED), ("boss", DENIED), ("empty", DENIED), ("nobody", DENIED)):
        request = pb.SetPasswordRequest(user=user)
        assert await fleet.code(nora, "Operators/SetPassword", request) is expected, user
        assert await fleet.code(nora, "Operators/EnableUser", pb.EnableUserRequest(user=user, enabled=True)) is expected
    seen = await fleet.call(nora, "Operators/ListUsers", pb.ListUsersRequest())
    assert [user.name for user in seen.users] == ["mixed", "nora", "olaf"]
    for grants, expected in ((["viewer@park/p1"], OK), ([], DENIED), (["viewer@park/p3"], DENIED)):
        new = pb.AddUserRequest(user=f"new{len(grants)}", grants=grants)
        assert await fleet.code(nora, "Operators/AddUser", new) is expected


async def test_operators_and_viewers_manage_nobody(fleet: World) -> None:
    """Nor see who there is."""
    for name, grant in (("olaf", "operator@fleet"), ("vera", "viewer@fleet")):
        token = await fleet.user(name, grant)
        assert await fleet.code(token, "Operators/ListUsers", pb.ListUsersRequest()) is DENIED
        assert await fleet.code(token, "Operators/ChangeGrant", granting(name, grant)) is DENIED
        assert await fleet.code(token, "Operators/EnableUser", pb.EnableUserRequest(user="vera")) is DENIED
        assert await fleet.code(token, "Operators/SetPassword", pb.SetPasswordRequest(user="boss")) is DENIED
        assert await fleet.code(token, "Audit/GetHead", pb.GetHeadRequest()) is DENIED
        assert await fleet.code(token, "Audit/ListEntries", pb.ListEntriesRequest()) is DENIED


async def test_a_disabled_user_is_out_at_once(fleet: World) -> None:
    """With sessions and tokens; enabled again, the tokens hold again and the sessions do not."""
    boss = await fleet.user("boss", "admin@fleet")
    bob = await fleet.user("bob", "viewer@fleet")
    request = pb.CreateApiTokenRequest(name="nightly", life_ms=3600_000)
    token = (await fleet.call(bob, "Operators/CreateApiToken", request)).token
    for enabled, expected in ((False, [UNKNOWN, UNKNOWN]), (True, [UNKNOWN, OK])):
        request_ = pb.EnableUserRequest(user="bob", enabled=enabled, reason="test")
        assert await fleet.code(boss, "Operators/EnableUser", request_) is OK
        assert [await fleet.code(one, "Operators/WhoAmI", WHO) for one in (bob, token)] == expected


async def test_there_is_always_an_admin_of_the_whole_fleet(fleet: World) -> None:
    """The last one is neither disabled nor stripped of it."""
    boss = await fleet.user("boss", "admin@fleet")
    gone = pb.EnableUserRequest(user="boss", enabled=False)
    assert await fleet.code(boss, "Operators/EnableUser", gone) is NOT_NOW
    assert await fleet.code(boss, "Operators/ChangeGrant", granting("boss", "admin@fleet", revoke=True)) is NOT_NOW
    await fleet.user("other", "admin@fleet")
    assert await fleet.code(boss, "Operators/EnableUser", gone) is OK


async def test_one_of_two_admins_is_left_when_both_are_revoked_at_once(database_at: DatabaseAt) -> None:
    """At two controllers on one database."""
    replicas = [await database_at.open() for _ in range(2)]
    admin = Grant.parse("admin@fleet")
    try:
        both = [People(replica) for replica in replicas]
        await both[0].add("a", "x", [admin])
        await both[0].add("b", "x", [admin])
        ends = await asyncio.gather(both[0].revoke("a", admin), both[1].revoke("b", admin), return_exceptions=True)
        assert [type(end) for end in ends if end is not None] == [PeopleError]
    finally:
        for replica in replicas:
            await replica.close()


async def test_ones_own_password_takes_the_one_that_holds(fleet: World) -> None:
    """And ends the other sessions, not this one. Tries of it are counted as those to sign in."""
    await fleet.user("boss", "admin@fleet")
    bob = await fleet.user("bob", "viewer@fleet")
    await fleet.operators.people.set_password("bob", await fleet.operators.passwords.hash("correct horse battery"))
    other = (await fleet.operators.credentials.open_session("bob")).token
    wrong = pb.SetPasswordRequest(current="wrong", password="another horse battery")
    assert await fleet.code(bob, "Operators/SetPassword", wrong) is NOT_NOW
    right = pb.SetPasswordRequest(current="correct horse battery", password="another horse battery")
    assert await fleet.code(bob, "Operators/SetPassword", right) is OK
    assert [await fleet.code(one, "Operators/WhoAmI", WHO) for one in (bob, other)] == [OK, UNKNOWN]
    for _ in range(5):
        assert await fleet.code(bob, "Operators/SetPassword", wrong) is NOT_NOW
    assert await fleet.code(bob, "Operators/SetPassword", wrong) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_token_does_what_its_grants_and_its_owners_both_allow(fleet: World) -> None:
    """Also after the owner's have changed."""
    boss = await fleet.user("boss", "admin@fleet")
    bob = await fleet.user("bob", "operator@region/north")

    async def token(*grants: str, name: str = "t") -> str:
        request = pb.CreateApiTokenRequest(name=name, life_ms=3600_000, grants=grants)
        return str((await fleet.call(bob, "Operators/CreateApiToken", request)).token)

    reader, worker = await token("viewer@park/p1", name="reader"), await token(name="worker")
    flush = change("park/p1", "buffer.retain", "2d")
    assert await fleet.code(reader, "FleetConfiguration/ChangeLayer", flush) is DENIED
    assert await fleet.code(reader, "Fleet/ListGateways", fleet_pb2.ListGatewaysRequest(park="p2")) is DENIED
    assert {one.park for one in (await fleet.call(reader, "Fleet/ListGateways", LIST)).gateways} == {"p1"}
    assert await fleet.code(worker, "FleetConfiguration/ChangeLayer", flush) is OK
    history = await fleet.audit()
    assert history[0]["actor"] == "bob" and history[0]["via"].startswith("api token")
    for grant in ("operator@fleet", "admin@region/north", "viewer@park/p3"):
        request = pb.CreateApiTokenRequest(name="more", life_ms=1000, grants=[grant])
        assert await fleet.code(bob, "Operators/CreateApiToken", request) is DENIED
    assert await fleet.code(boss, "Operators/ChangeGrant", granting("bob", "operator@region/north", revoke=True)) is OK
    for one in (reader, worker):
        assert await fleet.code(one, "Fleet/ListGateways", LIST) is DENIED


async def test_a_token_makes_no_tokens_and_changes_no_password(fleet: World) -> None:
    """Whoever finds one cannot make it last."""
    boss = await fleet.user("boss", "admin@fleet")
    request = pb.CreateApiTokenRequest(name="t", life_ms=3600_000)
    token = (await fleet.call(boss, "Operators/CreateApiToken", request)).token
    assert await fleet.code(token, "Operators/CreateApiToken", request) is DENIED
    assert await fleet.code(token, "Operators/SetPassword", pb.SetPasswordRequest(user="boss")) is DENIED
    assert await fleet.code(token, "Operators/SignOut", pb.SignOutRequest()) is NOT_NOW


async def test_a_token_ends(fleet: World) -> None:
    """By time, or because it is revoked; by its owner, or by who manages that one."""
    boss = await fleet.user("boss", "admin@fleet")
    bob, eve = await fleet.user("bob", "viewer@fleet"), await fleet.user("eve", "viewer@fleet")

    async def token(name: str) -> str:
        request = pb.CreateApiTokenRequest(name=name, life_ms=3600_000)
        return str((await fleet.call(bob, "Operators/CreateApiToken", request)).token)

    first, second, third = [await token(name) for name in "abc"]
    assert await fleet.code(eve, "Operators/RevokeApiToken", pb.RevokeApiTokenRequest(token=first)) is NOT_NOW
    assert await fleet.code(first, "Operators/WhoAmI", WHO) is OK
    assert await fleet.code(bob, "Operators/RevokeApiToken", pb.RevokeApiTokenRequest(token="a")) is OK
    prefix = "_".join(second.split("_")[:2])
    assert await fleet.code(boss, "Operators/RevokeApiToken", pb.RevokeApiTokenRequest(token=prefix)) is OK
    assert [await fleet.code(one, "Operators/WhoAmI", WHO) for one in (first, second, third)] == [UNKNOWN, UNKNOWN, OK]
    fleet.now[0] += 3601
    assert await fleet.code(third, "Operators/WhoAmI", WHO) is UNKNOWN
    listed = (await fleet.call(boss, "Operators/ListApiTokens", pb.ListApiTokensRequest(all=True))).tokens
    assert {(one.name, bool(one.revoked_ms)) for one in listed} == {("a", True), ("b", True), ("c", False)}
    assert not (await fleet.call(eve, "Operators/ListApiTokens", pb.ListApiTokensRequest(all=True))).tokens
    assert first.split("_")[2] not in str(listed)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (pb.CreateApiTokenRequest(name="", life_ms=1000), "a token's name is"),
        (pb.CreateApiTokenRequest(name="x\n", life_ms=1000), "a token's name is"),
        (pb.CreateApiTokenRequest(name="x", life_ms=0), "lives for 366 days at most"),
        (pb.CreateApiTokenRequest(name="x", life_ms=367 * 86400_000), "lives for 366 days at most"),
        (pb.CreateApiTokenRequest(name="x", life_ms=1000, grants=["root@fleet"]), "expected viewer, operator or admin"),
        (pb.AddUserRequest(user="Bob"), "small letters"),
        (pb.AddUserRequest(user="boss"), "there is a user boss already"),
        (pb.AddUserRequest(user="bob", password="short"), "at least 12 characters"),
        (pb.AddUserRequest(user="bob", grants=["viewer@fleet"] * 101), "at most 100 grants"),
        (pb.ChangeGrantRequest(user="boss", grant="viewer@park/p1", revoke=True), "boss has no grant viewer@park/p1"),
        (pb.EnableUserRequest(user="nobody"), "there is no user 'nobody'"),
        (pb.RevokeApiTokenRequest(token="x"), "there is no such token"),
    ],
)
async def test_mistakes_are_told(fleet: World, request_: object, told: str) -> None:
    """In a sentence, to whom may ask."""
    boss = await fleet.user("boss", "admin@fleet")
    method = {
        pb.CreateApiTokenRequest: "CreateApiToken",
        pb.AddUserRequest: "AddUser",
        pb.ChangeGrantRequest: "ChangeGrant",
        pb.EnableUserRequest: "EnableUser",
        pb.RevokeApiTokenRequest: "RevokeApiToken",
    }[type(request_)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet.call(boss, f"Operators/{method}", request_)
    assert told in str(caught.value.details())


async def test_the_audit_log_of_a_region_is_its_admins(fleet: World) -> None:
    """What was done to its parks; the whole chain is for admins of the whole fleet."""
    boss = await fleet.user("boss", "admin@fleet")
    nora, sam = await fleet.user("nora", "admin@region/north"), await fleet.user("sam", "admin@park/p3")
    for park in ("p1", "p2", "p3"):
        assert (
            await fleet.code(boss, "FleetConfiguration/ChangeLayer", change(f"park/{park}", "buffer.retain", "2d"))
            is OK
        )
    assert await fleet.code(boss, "FleetConfiguration/ChangeLayer", change("region/north", "buffer.retain", "3d")) is OK

    async def targets(token: str, **asked: str) -> list[str]:
        request = pb.ListEntriesRequest(result="done", action="FleetConfiguration/", **asked)  # type: ignore[arg-type]
        return [entry.target for entry in (await fleet.call(token, "Audit/ListEntries", request)).entries]

    assert await targets(nora) == ["layer region/north", "layer park/p2", "layer park/p1"]
    assert await targets(sam) == ["layer park/p3"]
    assert len(await targets(boss)) == 4
    assert await targets(nora, park="p1") == ["layer park/p1"]
    assert await targets(nora, park="p3") == []
    assert await fleet.code(nora, "Audit/Export", pb.ExportRequest()) is DENIED
    assert await fleet.code(nora, "Audit/GetHead", pb.GetHeadRequest()) is DENIED


names = st.sampled_from(["a", "b", "c"])
texts = st.builds(lambda role, scope: f"{role.word}@{scope}", st.sampled_from(list(Role)), st.sampled_from(SCOPES))
steps = st.lists(
    st.one_of(
        st.builds(
            lambda by, user, grant, revoke: ("grant", by, user, grant, revoke), names, names, texts, st.booleans()
        ),
        st.tuples(st.sampled_from(["enable", "password"]), names, names, st.just(""), st.booleans()),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.lists(texts, max_size=2), max_size=3), steps)
async def test_whatever_people_do_to_each_other_rights_only_come_from_above(
    tmp_path_factory: pytest.TempPathFactory, begin: dict[str, list[str]], deeds: list[tuple[str, str, str, str, bool]]
) -> None:
    """What three people may do together never grows, whatever they grant, enable or take over; boss only watches."""
    async with world(sqlite_at(tmp_path_factory.mktemp("w"))) as fleet:
        await fleet.user("boss", "admin@fleet")
        tokens = {name: await fleet.user(name, *begin.get(name, ())) for name in ("a", "b", "c")}
        before = await may(fleet)
        for kind, by, user, grant, flag in deeds:
            match kind:
                case "grant":
                    await fleet.code(tokens[by], "Operators/ChangeGrant", granting(user, grant, revoke=flag))
                case "enable":
                    await fleet.code(tokens[by], "Operators/EnableUser", pb.EnableUserRequest(user=user, enabled=flag))
                case _:
                    await fleet.code(tokens[by], "Operators/SetPassword", pb.SetPasswordRequest(user=user))
            assert await may(fleet) <= before
        boss = await fleet.operators.people.user("boss")
        assert boss is not None and boss.enabled and list(map(str, boss.grants)) == ["admin@fleet"]


async def may(fleet: World) -> set[tuple[Permission, Scope]]:
    """What all but boss may do, somewhere among them."""
    found = set()
    for user in await fleet.operators.people.users():
        who = Principal(user.name, Via.SESSION, user.grants)
        for permission in Permission if user.name != "boss" else ():
            for scope in SCOPES:
                if who.may(permission, Reach.every([scope]), {"p1": "north", "p2": "north"}.get):
                    found.add((permission, scope))
    return found
