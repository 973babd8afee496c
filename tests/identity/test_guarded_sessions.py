"""Guarded sessions: a real controller with its three ports, and agents with certificates that are right and wrong."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc import aio

from parkfleet.agent.controller_connection import ControllerConnection
from parkfleet.agent.credential_keeper import LOOK_S, CredentialKeeper
from parkfleet.agent.enrolling import Wish, enrol, reclaim
from parkfleet.agent.identity import IdentityFolder
from parkfleet.agent.session import ControllerSession
from parkfleet.agent.status import AgentFacts, AgentSnapshot
from parkfleet.controller.authority import Authority
from parkfleet.controller.bus import Bus
from parkfleet.controller.client import FleetClient
from parkfleet.controller.database import Database
from parkfleet.controller.gatehouse import Gatehouse
from parkfleet.controller.listeners import BindError, Gates
from parkfleet.controller.registry import GatewayKey, Moment
from parkfleet.controller.server import ControllerServer
from parkfleet.proto.enrolment_pb2 import EnrollRequest, GetAuthorityRequest
from parkfleet.proto.enrolment_pb2_grpc import EnrolmentStub
from parkfleet.proto.fleet_pb2 import ListGatewaysRequest
from parkfleet.proto.fleet_pb2_grpc import FleetStub
from parkfleet.proto.identity_pb2 import ListTokensRequest
from parkfleet.proto.identity_pb2_grpc import FleetIdentityStub
from parkfleet.protocols.certificate import validity
from parkfleet.protocols.join_token import JoinToken
from parkfleet.simulators.proxy import LinkProxy
from tests.controller.raw_agent import METHOD, hello
from tests.eventually import eventually
from tests.identity.conftest import Box

GW = GatewayKey("p1", "gw-01")
SOON = (0.01, 0.05)


@dataclass
class Site:
    """A controller in this process, and what it knows of who gets in. ahead_s: its clock goes so far ahead."""

    house: Gatehouse
    server: ControllerServer
    folder: Path
    shift: list[float]

    @property
    def enrolment(self) -> str:
        """host:port."""
        port = self.server.listeners.enrolment
        assert port is not None
        return port.address

    async def enrolled(self, gateway: str = "gw-01") -> IdentityFolder:
        """A box's identity, got as a box gets it."""
        facts = (self.enrolment, "p1", 1, 3_600_000, False, "alice", "test")
        token, _ = await self.house.create_token(*facts)
        folder = IdentityFolder(self.folder / gateway / "identity")
        await enrol(token, Wish(gateway), folder, lambda _: None)
        return folder

    def online(self, key: GatewayKey = GW) -> bool:
        """Whether the controller says so."""
        gateway = self.server.fleet.registry.get(key)
        return gateway is not None and gateway.is_online

    def session(self, folder: IdentityFolder, name: str = "gw-01", **keeping: object) -> ControllerSession:
        """An agent's session, not running yet."""
        facts = AgentFacts("p1", name, "1.2.3", "boot", "hash", 2, 8)
        keeper = CredentialKeeper(self.server.address, folder.folder, **keeping)  # type: ignore[arg-type]
        return ControllerSession(self.server.address, facts, AgentSnapshot, reconnect_s=SOON, keeper=keeper)


@asynccontextmanager
async def guarded_site(folder: Path, life_s: float = 86400.0) -> AsyncIterator[Site]:
    """A controller whose clock can be set ahead; life_s: of gateways' certificates."""
    shift = [0.0]

    def now_ms() -> int:
        return round((time.time() + shift[0]) * 1000)

    database = await Database.open(f"sqlite:///{folder}/controller.db")
    house = await Gatehouse.open(database, folder / "data", now_ms, life_s, Bus(database))
    clock = lambda: Moment(time.monotonic(), now_ms())  # noqa: E731  # as short as it can be
    async with ControllerServer("127.0.0.1:0", 0.1, clock, gates=Gates(house)) as server:
        yield Site(house, server, folder, shift)
    await database.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """With certificates for a day."""
    async with guarded_site(tmp_path) as found:
        yield found


@asynccontextmanager
async def running(session: ControllerSession) -> AsyncIterator[ControllerSession]:
    """While the block runs."""
    task = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        task.cancel()
        await asyncio.wait({task})


def channel(address: str, ca: bytes, box: IdentityFolder | None = None) -> aio.Channel:
    """A connection as somebody with, or without, a certificate has it."""
    own = box.credentials() if box is not None else None
    pair = (own.key, own.chain) if own is not None else (None, None)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    return aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair), options=options)


async def refused(call: object) -> tuple[grpc.StatusCode, str]:
    """The status of a call that must fail."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code(), caught.value.details() or ""


async def _to_the_end(stream: "aio.StreamStreamCall[bytes, bytes]") -> None:
    """Reads all that there is."""
    while await stream.read() is not aio.EOF:
        pass


async def session_refused(connection: aio.Channel) -> tuple[grpc.StatusCode, str]:
    """The status of a session that must not come about."""
    stream: aio.StreamStreamCall[bytes, bytes] = connection.stream_stream(METHOD)()
    with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
        await stream.write(hello().SerializeToString())
    return await refused(_to_the_end(stream))


async def test_session_is_known_by_its_certificate(site: Site) -> None:
    """It comes online, and the operators' port shows it to who trusts the authority."""
    box = await site.enrolled()
    async with running(site.session(box)) as session:
        await eventually(lambda: session.status.connected and site.online())
        operators = site.server.listeners.operators.address
        async with FleetClient(operators, ca=site.house.authority.pem) as client:
            (view,) = await client.list_gateways()
        assert (view.park, view.gateway, view.state) == ("p1", "gw-01", "online")


async def test_session_under_another_name_is_refused(site: Site) -> None:
    """The certificate counts, not the hello; both sides say so."""
    await site.enrolled("gw-02")
    box = await site.enrolled("gw-01")
    async with running(site.session(box, "gw-02")) as session:
        await eventually(lambda: "the certificate is of p1/gw-01" in session.status.told)
        assert "the configuration says p1/gw-02: correct park and gateway" in session.status.told
    assert not site.online(GatewayKey("p1", "gw-02"))


async def test_each_port_serves_its_own_guests_only(site: Site) -> None:
    """Boxes do not reach operators' services, nor operators' tools the sessions; nobody without certificate gets
    through the sessions' handshake."""
    ca, box = site.house.authority.pem, await site.enrolled()
    listeners = site.server.listeners
    unknown = grpc.StatusCode.UNIMPLEMENTED
    async with channel(site.enrolment, ca) as stranger:
        assert (await refused(FleetStub(stranger).ListGateways(ListGatewaysRequest())))[0] is unknown
        assert (await refused(FleetIdentityStub(stranger).ListTokens(ListTokensRequest())))[0] is unknown
        assert (await session_refused(stranger))[0] is unknown
    async with channel(listeners.operators.address, ca) as operator:
        assert (await session_refused(operator))[0] is unknown
        assert (await refused(EnrolmentStub(operator).GetAuthority(GetAuthorityRequest())))[0] is unknown
    async with channel(listeners.sessions.address, ca, box) as gateway:
        assert (await refused(FleetStub(gateway).ListGateways(ListGatewaysRequest())))[0] is unknown
        assert (await refused(FleetIdentityStub(gateway).ListTokens(ListTokensRequest())))[0] is unknown
    async with channel(listeners.sessions.address, ca) as nobody:
        code, told = await session_refused(nobody)
        assert code is grpc.StatusCode.UNAVAILABLE and "closed" in told


async def test_revoked_gateway_is_out_at_once_and_stays_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Its live session ends, the next is refused; the others go on."""
    caplog.set_level(logging.WARNING)
    mine, theirs = await site.enrolled(), await site.enrolled("gw-02")
    async with running(site.session(mine)) as session, running(site.session(theirs, "gw-02")) as other:
        await eventually(lambda: session.status.connected and other.status.connected)
        await site.house.revoke(GW, "bob", "stolen")
        await eventually(lambda: not site.online())
        await eventually(lambda: session.status.tries > 2 and "by bob: stolen" in session.status.told)
        assert session.status.sessions == 1
        assert other.status.sessions == 1 and other.status.connected
    assert any("AgentSession/Connect from" in line and "stolen" in line for line in caplog.messages)


async def test_revoked_gateway_that_does_not_listen_is_out_too(site: Site) -> None:
    """A hostile agent that reads nothing and sends on: the stream is ended under it."""
    box = await site.enrolled()
    async with channel(site.server.address, site.house.authority.pem, box) as hostile:
        stream: aio.StreamStreamCall[bytes, bytes] = hostile.stream_stream(METHOD)()
        await stream.write(hello().SerializeToString())
        await eventually(site.online)
        await site.house.revoke(GW, "bob", "stolen")
        await eventually(lambda: not site.online() and site.server.fleet.sessions == 0)
        assert (await refused(_to_the_end(stream)))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_certificate_is_renewed_while_connected(tmp_path: Path) -> None:
    """Again and again, without the session ending, and the file always has a pair that fits."""
    async with guarded_site(tmp_path, life_s=3.0) as site:
        box = await site.enrolled()
        async with running(site.session(box)) as session:
            await eventually(lambda: session.status.connected)
            before = box.credentials()
            ends = {before.validity.end if before else 0.0}

            def renewed() -> int:
                if (found := box.credentials()) is not None:
                    ends.add(found.validity.end)
                return len(ends) > 3

            await eventually(renewed)
            assert session.status.sessions == 1
            assert session.status.connected
        assert {row.cause for row in await site.house.store.issued(GW)} == {"enrolled", "renewed"}


async def test_damaged_identity_is_told_and_tried_again(site: Site) -> None:
    """While connected and when connecting: the session goes on, or says what to do."""
    box = await site.enrolled()
    good = (box.folder / "gateway.pem").read_bytes()
    keeper = CredentialKeeper(site.server.address, box.folder)
    (box.folder / "gateway.pem").write_bytes(b"damaged")
    connection = ControllerConnection(site.server.address)
    assert await keeper.keep_good(connection) == LOOK_S
    await connection.close()
    async with running(site.session(box)) as session:
        await eventually(lambda: "is damaged" in session.status.told and "enrol anew" in session.status.told)
        (box.folder / "gateway.pem").write_bytes(good)
        await eventually(lambda: session.status.connected)


async def test_box_that_was_off_too_long_proves_its_key(tmp_path: Path) -> None:
    """Its certificate has ended; the child's proof gets it another, and its session comes."""
    async with guarded_site(tmp_path, life_s=1.0) as site:
        box = await site.enrolled()
        old = box.credentials()
        assert old is not None
        await eventually(lambda: time.time() > old.validity.end)
        reclaimed: list[Path] = []

        async def child(folder: Path) -> str:
            reclaimed.append(folder)
            await reclaim(IdentityFolder(folder))
            return ""

        async with running(site.session(box, reclaim=child)) as session:
            await eventually(lambda: session.status.connected)
        assert reclaimed
        new = box.credentials()
        assert new is not None and new.key == old.key


async def test_gateways_certificate_is_no_controllers(site: Site) -> None:
    """A gateway that listens in the controller's place is not trusted by others."""
    thief, victim = await site.enrolled("gw-02"), await site.enrolled()
    own = thief.credentials()
    assert own is not None
    server = aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(own.key, own.chain)]))
    await server.start()
    keeper = CredentialKeeper(f"127.0.0.1:{port}", victim.folder)
    facts = AgentFacts("p1", "gw-01", "1.2.3", "boot", "hash", 2, 8)
    session = ControllerSession(f"127.0.0.1:{port}", facts, AgentSnapshot, reconnect_s=SOON, keeper=keeper)
    async with running(session):
        await eventually(lambda: "not a controller's: do not trust it" in session.status.told)
    await server.stop(None)


async def test_another_controllers_authority_is_not_trusted(site: Site, tmp_path: Path) -> None:
    """The sentence says whose the box is, and what to do."""
    (tmp_path / "other").mkdir()
    async with guarded_site(tmp_path / "other") as other:
        box = await other.enrolled()
        async with running(site.session(box)) as session:
            await eventually(lambda: "is of another authority than the one this box trusts" in session.status.told)
            assert other.house.authority.fingerprint.hex()[:16] in session.status.told
    assert not site.online()


async def test_alien_certificate_is_refused_with_a_sentence(site: Site, tmp_path: Path) -> None:
    """A box that trusts this controller, but whose certificate is another's: the handshake only hangs up, the proof
    says why."""
    (tmp_path / "other").mkdir()
    async with guarded_site(tmp_path / "other") as other:
        box = await other.enrolled()
    (box.folder / "ca.pem").write_bytes(site.house.authority.pem)
    enrolled = (box.folder / "enrolled.json").read_text()
    (box.folder / "enrolled.json").write_text(enrolled.replace(other.enrolment, site.enrolment))

    async def child(folder: Path) -> str:
        from parkfleet.agent.enrolling import EnrolError

        try:
            await reclaim(IdentityFolder(folder))
        except EnrolError as error:
            return str(error)
        return ""

    async with running(site.session(box, reclaim=child, hung_up_s=(0.0, 0.0))) as session:
        await eventually(lambda: "is not of this controller's authority: enrol this box here" in session.status.told)


async def test_box_without_identity_dials_nobody_but_this_machine(site: Site) -> None:
    """In plain text it never goes over a network; and a guarded controller on this machine is told as such."""
    empty = IdentityFolder(site.folder / "none")
    facts = AgentFacts("p1", "gw-01", "1.2.3", "boot", "hash", 2, 8)
    far = "fleet.example.org:7443"
    session = ControllerSession(far, facts, AgentSnapshot, reconnect_s=SOON, keeper=CredentialKeeper(far, empty.folder))
    async with running(session):
        await eventually(lambda: session.status.told == "this gateway has not enrolled: parkfleet agent enroll TOKEN")
    async with running(site.session(empty)) as near:
        await eventually(lambda: "enrol this gateway: parkfleet agent enroll TOKEN" in near.status.told)


async def test_controller_renews_its_own_certificate(site: Site) -> None:
    """A handshake after two thirds of its life sees the next one; the sessions before go on."""
    host, port = "127.0.0.1", site.server.port
    box = await site.enrolled()
    async with running(site.session(box)) as session:
        await eventually(lambda: session.status.connected)
        first = await asyncio.to_thread(ssl.get_server_certificate, (host, port))
        again = await asyncio.to_thread(ssl.get_server_certificate, (host, port))
        assert first == again
        site.shift[0] = 61 * 86400.0
        second = await asyncio.to_thread(ssl.get_server_certificate, (host, port))
        assert validity(second.encode()).end > validity(first.encode()).end + 60 * 86400
        assert session.status.sessions == 1


async def test_port_that_is_taken_is_named(site: Site) -> None:
    """Whichever of the three it is."""
    taken = site.server.listeners.operators.address
    with pytest.raises(BindError, match=taken):
        async with ControllerServer("127.0.0.1:0", gates=Gates(site.house, operators=taken)):
            pass


async def test_enrolment_is_held_to_a_rate(site: Site) -> None:
    """From one address; the sentence says when to come back. Sessions do not notice."""
    async with channel(site.enrolment, site.house.authority.pem) as stranger:
        stub = EnrolmentStub(stranger)
        told = ""
        for _ in range(120):
            try:
                await stub.GetAuthority(GetAuthorityRequest())
            except aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                told = error.details() or ""
                break
        assert "too many enrolments at once: try again in 1 s" in told


async def test_enrolment_survives_garbage_and_floods_of_bytes(site: Site) -> None:
    """A stream of nonsense, oversized messages, empty ones: each has its answer, and the next box enrols."""
    async with channel(site.enrolment, site.house.authority.pem) as stranger:
        enroll: aio.UnaryUnaryMultiCallable[bytes, bytes] = stranger.unary_unary("/parkfleet.v1.Enrolment/Enroll")
        for data, code in [
            (b"\xff" * 100, grpc.StatusCode.INVALID_ARGUMENT),
            (b"", grpc.StatusCode.UNAUTHENTICATED),
            (EnrollRequest(token="x" * 500, secret=b"y" * 8000).SerializeToString(), grpc.StatusCode.UNAUTHENTICATED),
            (b"\0" * 20_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ]:
            assert (await refused(enroll(data)))[0] is code
    host, port = site.enrolment.split(":")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500, b"\0" * 5000):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(junk)
        await reader.read()  # until it hangs up
        writer.close()
    await site.enrolled()


async def test_enrolling_at_a_false_controller_tells_it_nothing(site: Site, tmp_path: Path) -> None:
    """Whoever answers at the token's address with another authority hears neither the token nor the key."""
    (tmp_path / "false").mkdir()
    async with guarded_site(tmp_path / "false") as false:
        heard: list[object] = []
        apply: Callable[..., object] = false.house.apply

        async def listen(application: object) -> object:
            heard.append(application)
            return await apply(application)  # type: ignore[misc]

        false.house.apply = listen  # type: ignore[assignment, method-assign]
        token = JoinToken.new(false.enrolment, site.house.authority.fingerprint)
        with pytest.raises(Exception, match=r"is not the controller of this token.* The token was not shown to it"):
            await enrol(token, Wish("gw-01"), IdentityFolder(tmp_path / "box"), lambda _: None)
        assert heard == []


async def test_enrolling_goes_on_after_the_link_broke(site: Site, tmp_path: Path) -> None:
    """The key of the first try is kept, so that the token is used once."""
    facts = ("p1", 1, 3_600_000, False, "alice", "test")
    folder = IdentityFolder(tmp_path / "box")
    async with LinkProxy("127.0.0.1", int(site.enrolment.split(":")[1])) as link:
        token, _ = await site.house.create_token(f"127.0.0.1:{link.port}", *facts)
        await link.cut()
        with pytest.raises(Exception, match="no controller answers"):
            await enrol(token, Wish("gw-01"), folder, lambda _: None)
        key = (folder.folder / "new-key.pem").read_bytes()
        link.mend()
        enrolment = await enrol(token, Wish("gw-01"), folder, lambda _: None)
    assert enrolment.credentials.key == key
    assert not (folder.folder / "new-key.pem").exists()
    assert (enrolment.enrolled.park, enrolment.enrolled.gateway) == ("p1", "gw-01")
    (info,) = await site.house.tokens.all()
    assert info.used == 1


async def test_waiting_box_is_told_and_gets_in(site: Site, tmp_path: Path) -> None:
    """It shows the key that the operator sees, and has its certificate after the yes."""
    said: list[str] = []
    facts = (site.enrolment, "p1", 1, 3_600_000, True, "alice", "test")
    token, _ = await site.house.create_token(*facts)
    folder = IdentityFolder(tmp_path / "box")
    enrolling = asyncio.create_task(enrol(token, Wish("gw-01"), folder, said.append))
    await eventually(lambda: any("waiting for an operator" in line for line in said))
    (waiting,) = await site.house.enrolments.pending("p1")
    assert any(waiting.key_hash.startswith(line.rsplit(" ", 1)[1]) for line in said if "the key of this box" in line)
    await site.house.approve(waiting.number, "", "bob")
    assert (await enrolling).enrolled.gateway == "gw-01"


async def test_certificate_of_another_key_is_not_kept(site: Site) -> None:
    """What does not fit the key would lock the box out: the old pair stays."""
    box = await site.enrolled()
    before = box.credentials()
    other = site.house.authority.client("p1/gw-01", Box().key.public_key(), time.time(), 1000.0)
    with pytest.raises(Exception, match="not of this gateway's key"):
        box.renewed(other.pem.encode())
    assert box.credentials() == before
    assert isinstance(site.house.authority, Authority)
