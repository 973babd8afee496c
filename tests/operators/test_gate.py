"""The gate in front of a real controller: who is let through, what they see of it, and what is told of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from parkfleet.controller.audit_chain import ChainCheck
from parkfleet.controller.client import FleetClient, SignedOutError
from parkfleet.controller.credentials import GRACE_S
from parkfleet.proto import config_pb2, fleet_pb2, operators_pb2
from parkfleet.proto.errors import DATABASE_AWAY
from parkfleet.proto.fleet_pb2_grpc import FleetStub
from tests.controller.raw_agent import RawAgent, heartbeat
from tests.eventually import eventually
from tests.operators.test_demands import OPERATORS
from tests.operators.world import LIST, WHO, World, change, sqlite_at, world

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
OK = grpc.StatusCode.OK


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[World]:
    """A controller with people."""
    async with world(sqlite_at(tmp_path)) as running:
        yield running


async def test_nobody_is_let_in_without_a_token(fleet: World) -> None:
    """To nothing but signing in; agents have their own way in."""
    for token in ("", "x", "pfs_0123456789ab_" + "0" * 64):
        assert await fleet.code(token, "Fleet/ListGateways", LIST) is UNKNOWN
        assert await fleet.code(token, "Operators/WhoAmI", WHO) is UNKNOWN
        assert await fleet.code(token, "Fleet/WatchGateways", fleet_pb2.WatchGatewaysRequest()) is UNKNOWN
    async with RawAgent(fleet.server.address) as agent:
        await agent.join()
    told = [(entry["action"], entry["result"], entry["actor"], entry["peer"]) for entry in await fleet.audit()]
    assert ("Fleet/ListGateways", "refused", "", "127.0.0.1") in told


async def test_lists_show_what_the_caller_may_see(fleet: World) -> None:
    """Gateways, layers, and checks; one park that is not theirs is refused, whether it is there or not."""
    token = await fleet.user("vera", "viewer@park/p1")
    north = await fleet.user("nora", "viewer@region/north")
    everywhere = await fleet.user("emil", "viewer@fleet")

    async def parks(token: str) -> set[str]:
        return {one.park for one in (await fleet.call(token, "Fleet/ListGateways", LIST)).gateways}

    assert [await parks(one) for one in (token, north, everywhere)] == [{"p1"}, {"p1", "p2"}, {"p1", "p2", "p3"}]
    for park in ("p3", "none"):
        assert await fleet.code(token, "Fleet/ListGateways", fleet_pb2.ListGatewaysRequest(park=park)) is DENIED
        request = config_pb2.GetEffectiveRequest(park=park, gateway="gw-01")
        assert await fleet.code(token, "FleetConfiguration/GetEffective", request) is DENIED
    layers = await fleet.call(token, "FleetConfiguration/ListLayers", config_pb2.ListLayersRequest())
    assert [one.layer for one in layers.layers] == ["gateway/p1/gw-01", "label/lte", "park/p1", "region/north"]
    checked = await fleet.call(token, "FleetConfiguration/Validate", config_pb2.ValidateRequest())
    assert checked[-1].result.gateways == 1


async def test_a_watch_tells_only_of_what_the_caller_may_see(fleet: World) -> None:
    """As it is, and what comes after."""
    token = await fleet.user("vera", "viewer@park/p1")
    async with RawAgent(fleet.server.address) as foreign, FleetClient(fleet.server.address, token=token) as client:
        await foreign.join("gw-far", park="p3")
        watch = client.watch()
        async with RawAgent(fleet.server.address) as agent:
            await agent.join("gw-01", park="p1")
            seen = await anext(watch)
        assert (seen.park, seen.gateway) == ("p1", "gw-01")
        assert (await anext(watch)).park == "p1"


async def test_a_change_takes_rights_over_all_it_touches(fleet: World) -> None:
    """And is signed by whoever made it, whatever name the call gives."""
    one = await fleet.user("olaf", "operator@park/p1", "viewer@fleet")
    north = await fleet.user("nora", "operator@region/north")
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", change("park/p1", "buffer.flush", "2s")) is OK
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", change("park/p2", "buffer.flush", "2s")) is DENIED
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", change("park/p2", "x", "2s", dry_run=True)) is OK
    assert (
        await fleet.code(one, "FleetConfiguration/ChangeLayer", change("region/north", "buffer.flush", "2s")) is DENIED
    )
    assert await fleet.code(north, "FleetConfiguration/ChangeLayer", change("region/north", "buffer.flush", "3s")) is OK
    assert await fleet.code(north, "FleetConfiguration/ChangeLayer", change("label/lte", "buffer.flush", "3s")) is OK
    history = await fleet.call(
        one, "FleetConfiguration/GetHistory", config_pb2.GetHistoryRequest(layer="park/p1", limit=1)
    )
    assert history.entries[0].info.author == "olaf"


async def test_a_park_is_moved_by_who_holds_both_regions(fleet: World) -> None:
    """Moving it gives rights over it to others, and takes them from some."""
    one = await fleet.user("olaf", "operator@park/p1")
    north = await fleet.user("nora", "operator@region/north")
    both = await fleet.user("boss", "operator@region/north", "operator@region/south")
    begin = change("region/south", "broker", "{url: mqtt://10.0.0.9:1883}")
    begin.settings.settings.add(key="controller", value="{url: 10.0.0.9:7443}")
    move = change("park/p1", "region", "south")
    assert await fleet.code(both, "FleetConfiguration/ChangeLayer", begin) is OK
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", move) is DENIED
    assert await fleet.code(north, "FleetConfiguration/ChangeLayer", move) is DENIED
    assert await fleet.code(both, "FleetConfiguration/ChangeLayer", move) is OK
    assert (
        await fleet.code(north, "FleetConfiguration/GetEffective", config_pb2.GetEffectiveRequest(park="p1")) is DENIED
    )


async def test_a_label_put_on_a_foreign_gateway_takes_rights_over_it(fleet: World) -> None:
    """Labels cross parks: who holds one park cannot reach another by its label."""
    everywhere = await fleet.user("emil", "operator@fleet")
    one = await fleet.user("olaf", "operator@park/p1")
    request = change("label/lte", "buffer.flush", "9s")
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", request) is OK  # only p1 has it
    labelled = change("gateway/p3/gw-01", "labels", "[lte]")
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", labelled) is DENIED
    assert await fleet.code(everywhere, "FleetConfiguration/ChangeLayer", labelled) is OK
    assert await fleet.code(one, "FleetConfiguration/ChangeLayer", request) is DENIED


async def test_secrets_take_an_admin_of_the_fleet(fleet: World) -> None:
    """Names are for those who write configurations; values are for nobody, nor for the audit log."""
    boss = await fleet.user("boss", "admin@fleet")
    north = await fleet.user("nora", "admin@region/north")
    viewer = await fleet.user("vera", "viewer@fleet")
    request = config_pb2.SetSecretRequest(name="mqtt", value=b"tiger-in-the-tank", reason="login")
    assert await fleet.code(north, "FleetConfiguration/SetSecret", request) is DENIED
    assert await fleet.code(boss, "FleetConfiguration/SetSecret", request) is OK
    names = config_pb2.ListSecretsRequest()
    assert await fleet.code(viewer, "FleetConfiguration/ListSecrets", names) is DENIED
    assert (await fleet.call(north, "FleetConfiguration/ListSecrets", names)).secrets[0].author == "boss"
    assert "tiger" not in str(await fleet.audit())


async def test_every_change_and_refusal_is_told(fleet: World) -> None:
    """Who, from where, what, of what, why, with what result: a change before it begins, and how it ended."""
    token = await fleet.user("olaf", "operator@park/p1")
    await fleet.call(token, "FleetConfiguration/ChangeLayer", change("park/p1", "buffer.flush", "2s"))
    await fleet.code(token, "FleetConfiguration/ChangeLayer", change("park/p1", "buffer.retain", "2 parsecs"))
    await fleet.code(token, "FleetConfiguration/ChangeLayer", change("park", "buffer.flush", "2s"))
    await fleet.code(token, "FleetConfiguration/ChangeLayer", change("park/p2", "buffer.flush", "2s"))
    await fleet.code(token, "FleetConfiguration/ChangeLayer", change("park/p1", "buffer.flush", "4s", dry_run=True))
    refused, refused_too, mistaken, mistaken_begun, stored, begun = await fleet.audit()
    assert (begun["result"], begun["actor"], begun["peer"], begun["reason"]) == ("begun", "olaf", "127.0.0.1", "test")
    assert (stored["result"], stored["target"], stored["scope"]) == ("done", "layer park/p1", "park/p1")
    assert (stored["of"], stored["detail"]) == (begun["number"], "revision 9, 1 gateways touched")
    assert stored["via"].startswith("session ") and token.split("_")[1] in stored["via"]
    assert (mistaken["result"], mistaken["of"]) == ("failed", mistaken_begun["number"])
    assert mistaken["detail"] == "nothing was stored: 1 mistakes"
    assert [one["result"] for one in (refused, refused_too)] == ["refused", "refused"]
    assert (
        "may not change the configuration in park/p2: it takes operator there, granted is operator@park/p1"
        in refused["detail"]
    )
    assert "sec" not in str([one["detail"] for one in (begun, stored)]) and token not in str(await fleet.audit())


async def test_what_the_service_refuses_is_told_with_its_words(fleet: World) -> None:
    """An error of a change that was allowed."""
    token = await fleet.user("emil", "operator@fleet")
    await fleet.code(token, "FleetConfiguration/ChangeLayer", change("nonsense", "buffer.flush", "2s"))
    while (entry := (await fleet.audit())[0])["result"] == "begun":  # told when the caller has heard already
        pass
    assert entry["result"] == "failed"
    assert "expected region/NAME" in entry["detail"]


async def test_rights_that_are_lost_end_a_watch(fleet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the next call."""
    token = await fleet.user("vera", "viewer@fleet")
    await fleet.user("boss", "admin@fleet")
    monkeypatch.setattr("parkfleet.controller.guard.RECHECK_S", 0.0)
    async with FleetClient(fleet.server.address, token=token) as client, RawAgent(fleet.server.address) as agent:
        await agent.join()
        watch = client.watch()
        await anext(watch)
        await fleet.operators.people.enable("vera", False)
        await agent.say(heartbeat(sequence=1))
        with pytest.raises(SignedOutError):
            await anext(watch)


async def test_watches_of_those_who_left_are_forgotten(fleet: World) -> None:
    """Their places are for others, however they leave: with their connection, or without it."""
    token = await fleet.user("vera", "viewer@fleet")
    async with RawAgent(fleet.server.address) as agent, FleetClient(fleet.server.address, token=token) as lasting:
        await agent.join()
        for _ in range(20):
            async with FleetClient(fleet.server.address, token=token) as client:
                await anext(client.watch())
            call = FleetStub(lasting.channel).WatchGateways(fleet_pb2.WatchGatewaysRequest())
            await call.read()
            call.cancel()
        await eventually(lambda: not fleet.server.fleet._watchers._watchers)


@pytest.mark.parametrize("metadata", [("authorization", "Basic x"), ("authorization", "Bearer"), ("authorization", "")])
async def test_other_metadata_lets_nobody_in(fleet: World, metadata: tuple[str, str]) -> None:
    """Whatever is written there."""
    async with FleetClient(fleet.server.address) as client:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary("/parkfleet.v1.Operators/WhoAmI")
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"", metadata=aio.Metadata(metadata))
        assert caught.value.code() is UNKNOWN


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300), st.binary(max_size=300))
async def test_any_metadata_and_body_is_survived(fleet: World, metadata: str, body: bytes) -> None:
    """A refusal each, and the next caller does not notice."""
    async with FleetClient(fleet.server.address) as client:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
            "/parkfleet.v1.FleetConfiguration/SetSecret"
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await call(body, metadata=aio.Metadata(("authorization", metadata)))
        assert caught.value.code() in (UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT)
    assert await fleet.code("", "Operators/WhoAmI", WHO) is UNKNOWN


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("FleetConfiguration/GetHistory", config_pb2.GetHistoryRequest(layer="park/\0")),
        ("FleetConfiguration/GetLayer", config_pb2.GetLayerRequest(moment=config_pb2.Moment(at_ms=2**63))),
        ("Operators/AddUser", operators_pb2.AddUserRequest(user="bob", grants=["viewer@fleet", "\0"])),
        ("Operators/SignIn", operators_pb2.SignInRequest(user="boss\0", password="x")),
    ],
)
async def test_what_no_database_holds_is_refused_first(fleet: World, method: str, request_: Any) -> None:
    """PostgreSQL would refuse it in the middle of something."""
    token = await fleet.user("boss", "admin@fleet")
    assert await fleet.code(token, method, request_) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_method_that_is_not_there_is_not_answered(fleet: World) -> None:
    """By gRPC's own words."""
    token = await fleet.user("boss", "admin@fleet")
    async with FleetClient(fleet.server.address, token=token) as client:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
            "/parkfleet.v1.Fleet/DropEverything"
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_while_the_database_is_away_who_was_there_goes_on_looking(fleet: World) -> None:
    """For some minutes; nothing is changed, nobody else gets in, and the words say why."""
    boss, late = await fleet.user("boss", "admin@fleet"), await fleet.user("late", "viewer@fleet")
    flush = change("park/p1", "buffer.retain", "2d")
    assert await fleet.code(boss, "Fleet/ListGateways", LIST) is OK
    async with fleet.database.write() as connection:
        for table in ("operator_session", "operator_user", "failed_tries"):
            await connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_hidden"))
    assert await fleet.code(boss, "Fleet/ListGateways", LIST) is OK
    for token, method, request in (
        (boss, "Operators/ListUsers", operators_pb2.ListUsersRequest()),
        (late, "Fleet/ListGateways", LIST),
        ("", "Operators/SignIn", operators_pb2.SignInRequest(user="boss", password="x")),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await fleet.call(token, method, request)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, DATABASE_AWAY)
    assert await fleet.code(boss, "FleetConfiguration/ChangeLayer", flush) is OK  # the log itself is there
    fleet.now[0] += GRACE_S
    assert await fleet.code(boss, "Fleet/ListGateways", LIST) is grpc.StatusCode.UNAVAILABLE


async def test_an_audit_log_that_cannot_be_written_stops_changes(fleet: World) -> None:
    """Nothing is changed that is not told."""
    token = await fleet.user("boss", "admin@fleet")
    before = fleet.config.heads()
    async with fleet.database.write() as connection:
        await connection.execute(text("ALTER TABLE audit_entry RENAME TO hidden"))
    request = change("park/p1", "buffer.flush", "2s")
    assert await fleet.code(token, "FleetConfiguration/ChangeLayer", request) is grpc.StatusCode.UNAVAILABLE
    assert await fleet.code("", "Fleet/ListGateways", LIST) is UNKNOWN  # refused all the same
    assert fleet.config.heads() == before


#: What a caller may be told: nothing that says that the controller itself failed.
TOLD = set(grpc.StatusCode) - {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
NAMES = (
    "p1 p3 gw-01 park/p1 region/north label/lte gateway/p1/gw-01 viewer@park/p1 admin@fleet boss nora buffer.flush 5s"
)
WORDS = st.sampled_from([*NAMES.split(), "", "[", "\0", "\N{PILE OF POO}", "x" * 600, "pfa_0123456789ab"])


@st.composite
def messages(draw: st.DrawFn, of: type[Message], depth: int = 2) -> Message:
    """A message of a type with any of its fields set to anything a clever caller may think of."""
    message = of()
    for field in of.DESCRIPTOR.fields:
        if draw(st.booleans()):
            continue
        value: object
        if field.type == field.TYPE_MESSAGE:
            inner_type: Any = field.message_type
            if depth == 0 or inner_type.GetOptions().map_entry:
                continue
            inner = draw(messages(message_factory.GetMessageClass(inner_type), depth - 1))
            target = getattr(message, field.name)
            target.append(inner) if field.is_repeated else target.CopyFrom(inner)
            continue
        if field.type == field.TYPE_STRING:
            value = draw(WORDS)
        elif field.type == field.TYPE_BYTES:
            value = draw(st.binary(max_size=20))
        elif field.type == field.TYPE_BOOL:
            value = draw(st.booleans())
        else:
            wide = [2**63 - 1, 2**63, 2**64 - 1] if field.type == field.TYPE_UINT64 else []
            value = draw(st.sampled_from([0, 1, 2, 1000, 2**31 - 1, *wide]))
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


CALLS = {method: request for method, request in OPERATORS if not method.endswith("/SignOut")}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(CALLS)), st.sampled_from(["", "vera", "nora", "boss"]))
async def test_any_request_is_answered_with_a_reason(fleet: World, data: st.DataObject, method: str, name: str) -> None:
    """Whoever makes it: an answer or a refusal, never a failure of ours; and the audit log stays whole."""
    body = data.draw(
        st.one_of(st.binary(max_size=50), messages(CALLS[method]).map(lambda one: one.SerializeToString()))
    )
    token = ""
    if name:
        if await fleet.operators.people.user(name) is None:
            grants = {"vera": "viewer@park/p1", "nora": "admin@region/north", "boss": "admin@fleet"}
            await fleet.user(name, grants[name])
        token = (await fleet.operators.credentials.open_session(name)).token
    async with FleetClient(fleet.server.address, token=token) as client:
        multi: aio.UnaryStreamMultiCallable[bytes, bytes] = client.channel.unary_stream(f"/{method}")
        endless = token and method.endswith("/WatchGateways")
        call = multi(body, timeout=0.5 if endless else 30.0)
        try:
            async for _ in call:
                pass
        except aio.AioRpcError:
            pass
        assert await call.code() in TOLD, (await call.code(), await call.details())
        if not token and not method.endswith("/SignIn"):
            assert await call.code() in (UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
    check = ChainCheck()
    while records := await fleet.operators.audit.page(check.head.number):
        for record in records:
            check.take(record)
    boss = await fleet.operators.people.user("boss")
    assert boss is None or list(map(str, boss.grants))[-1] == "admin@fleet"
