"""Gatehouse: renewal, proofs and revocation; on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.controller.authority import Authority, AuthorityError, certificate_of, serial_of
from parkfleet.controller.bus import Bus
from parkfleet.controller.deny_list import RevokedError
from parkfleet.controller.gatehouse import CRL_FILE, Gatehouse
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.reclaim import proof
from tests.conftest import DatabaseAt
from tests.eventually import eventually
from tests.identity.conftest import DAY_MS, LIFE_S, Box, Clock, new_token

GW = GatewayKey("p1", "gw-01")


async def enrolled(house: Gatehouse, box: Box) -> bytes:
    """A box with a certificate, PEM."""
    outcome = await box.enrols(house, await new_token(house))
    assert outcome.certificate is not None
    return outcome.certificate.encode()


def signed(box: Box, nonce: bytes, certificate: bytes) -> bytes:
    """A proof by a box's key."""
    shown = certificate_of(certificate).fingerprint(hashes.SHA256())
    return box.key.sign(proof(nonce, shown), ec.ECDSA(hashes.SHA256()))


def serial(pem: bytes | str) -> str:
    """A certificate's number."""
    return serial_of(certificate_of(pem.encode() if isinstance(pem, str) else pem))


async def test_renew_gives_a_further_certificate_of_the_same_key(house: Gatehouse, clock: Clock) -> None:
    """The one before still holds; both stand in the gateway's history."""
    box = Box()
    first = await enrolled(house, box)
    clock.pass_days(60)
    second = await house.renew(house.credential(first))
    assert certificate_of(second.encode()).public_key() == box.key.public_key()
    assert [row.cause for row in await house.store.issued(GW)] == ["renewed", "enrolled"]
    house.deny.check(serial(first))
    house.deny.check(serial(second))


async def test_renew_again_after_a_lost_answer(house: Gatehouse, clock: Clock) -> None:
    """Gives the same certificate; who shows the new one already gets a further one."""
    first = await enrolled(house, Box())
    clock.pass_days(60)
    second = await house.renew(house.credential(first))
    clock.ms += 1000
    assert await house.renew(house.credential(first)) == second
    third = await house.renew(house.credential(second.encode()))
    assert third != second
    assert len(await house.store.issued(GW)) == 3


async def test_renew_for_a_new_key(house: Gatehouse, clock: Clock) -> None:
    """The certificate is of the new key."""
    first = await enrolled(house, Box())
    clock.pass_days(1)
    new = Box()
    found = certificate_of((await house.renew(house.credential(first), new.key.public_key())).encode())
    assert found.public_key() == new.key.public_key()


async def test_renew_forgets_what_ended_long_ago(house: Gatehouse, clock: Clock) -> None:
    """The history of a gateway does not grow for ever."""
    pem = await enrolled(house, Box())
    for _ in range(12):
        clock.pass_days(60)
        pem = (await house.renew(house.credential(pem))).encode()
    assert len(await house.store.issued(GW)) == 8  # of 13: those that ended within a year, and those that hold


async def test_reclaim_after_the_certificate_has_ended(house: Gatehouse, clock: Clock) -> None:
    """A box that was off for two years proves that it has the key."""
    box = Box()
    old = await enrolled(house, box)
    clock.pass_days(730)
    nonce = house.challenge()
    new = certificate_of((await house.reclaim(old, nonce, signed(box, nonce, old))).encode())
    assert new.public_key() == box.key.public_key()
    assert new.not_valid_after_utc.timestamp() == clock.ms // 1000 + LIFE_S


async def test_reclaim_refuses_what_proves_nothing(house: Gatehouse, clock: Clock, tmp_path: Path) -> None:
    """Another's key, another nonce, one that is too old, another certificate, bytes of any kind."""
    box, other = Box(), Box("gw-02")
    mine, theirs = await enrolled(house, box), await enrolled(house, other)
    nonce = house.challenge()
    proof_ = signed(box, nonce, mine)
    alien = Authority.new(clock.ms / 1000).client("p1/gw-01", box.key.public_key(), clock.ms / 1000, LIFE_S)
    tries = [
        (mine, nonce, signed(other, nonce, mine), "not signed with the key of the certificate of p1/gw-01"),
        (theirs, nonce, proof_, "not signed with the key of the certificate of p1/gw-02"),
        (mine, nonce, b"", "not signed"),
        (mine, nonce[:-1] + bytes([nonce[-1] ^ 1]), proof_, "no challenge of ours"),
        (mine, b"", proof_, "no challenge of ours"),
        (alien.pem.encode(), nonce, signed(box, nonce, alien.pem.encode()), "not of this controller's authority"),
        (b"garbage", nonce, proof_, "no certificate"),
    ]
    for certificate, challenge, signature, told in tries:
        with pytest.raises(IdentityError, match=told) as caught:
            await house.reclaim(certificate, challenge, signature)
        assert caught.value.fault is Fault.UNPROVEN
    clock.ms += 62_000
    with pytest.raises(IdentityError, match="older than 60 s"):
        await house.reclaim(mine, nonce, proof_)
    assert len(await house.store.issued(GW)) == 1


async def test_credential_survives_any_bytes(tmp_path: Path, clock: Clock) -> None:
    """What a peer shows is a certificate of ours, or it is refused; what the signature does not cover says nothing."""
    database = await DatabaseAt(f"sqlite:///{tmp_path}/x.db").open()
    house = await Gatehouse.open(database, tmp_path, clock, LIFE_S)
    good = certificate_of(await enrolled(house, Box()))
    data = good.public_bytes(serialization.Encoding.DER)

    @given(st.integers(0, len(data) - 1), st.integers(1, 255), st.binary(max_size=200))
    @settings(max_examples=500)
    def refuses(at: int, change: int, noise: bytes) -> None:
        for der in (noise, data[:at]):
            with pytest.raises(IdentityError):
                house.credential(ssl.DER_cert_to_PEM_cert(der).encode())
        changed = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
        with contextlib.suppress(IdentityError):
            found = house.credential(ssl.DER_cert_to_PEM_cert(changed).encode())
            assert found.certificate.tbs_certificate_bytes == good.tbs_certificate_bytes

    refuses()
    assert house.credential(ssl.DER_cert_to_PEM_cert(data).encode()).key == GW
    await database.close()


async def test_revoke_ends_streams_and_lets_none_open(house: Gatehouse, tmp_path: Path) -> None:
    """Of all the gateway's certificates, and of no other's; the broker's list has them, in a file of its own."""
    box, other = Box(), Box("gw-02")
    mine, theirs = await enrolled(house, box), await enrolled(house, other)
    newer = await house.renew(house.credential(mine), Box().key.public_key())
    ended: list[str] = []
    house.deny.opened(serial(mine), ended.append)
    house.deny.opened(serial(theirs), lambda told: ended.append("not this one"))
    identity = await house.revoke(GW, "bob", "stolen")
    assert ended == [identity.revoked_told()]
    assert "p1/gw-01 was revoked on 2026-09-21 14:13:20 UTC by bob: stolen" in ended[0]
    for pem in (mine, newer):
        with pytest.raises(RevokedError, match="stolen"):
            house.deny.opened(serial(pem), ended.append)
        with pytest.raises(IdentityError, match="stolen"):
            await house.renew(house.credential(pem.encode() if isinstance(pem, str) else pem))
    nonce = house.challenge()
    with pytest.raises(IdentityError, match="stolen"):
        await house.reclaim(mine, nonce, signed(box, nonce, mine))
    crl = x509.load_pem_x509_crl((tmp_path / CRL_FILE).read_bytes())
    assert {f"{one.serial_number:x}" for one in crl} == {serial(mine), serial(newer)}
    assert crl.next_update_utc == house.authority.certificate.not_valid_after_utc
    house.deny.check(serial(theirs))


async def test_revoke_ends_a_stream_that_is_older_than_its_certificate(house: Gatehouse, clock: Clock) -> None:
    """A session of a hundred days began with a certificate that has ended since."""
    first = await enrolled(house, Box())
    ended: list[str] = []
    house.deny.opened(serial(first), ended.append)
    clock.pass_days(60)
    await house.renew(house.credential(first))
    clock.pass_days(40)
    await house.revoke(GW, "bob", "stolen")
    assert len(ended) == 1


async def test_revoked_stays_revoked_after_a_restart(
    house: Gatehouse, database_at: DatabaseAt, tmp_path: Path, clock: Clock
) -> None:
    """The next process knows, and has the same authority."""
    pem = await enrolled(house, Box())
    await house.revoke(GW, "bob", "stolen")
    database = await database_at.open()
    again = await Gatehouse.open(database, tmp_path, clock, LIFE_S)
    assert again.authority.fingerprint == house.authority.fingerprint
    with pytest.raises(RevokedError, match="by bob: stolen"):
        again.deny.check(serial(pem))
    clock.pass_days(130)  # and is not carried along when the certificate has ended anyway
    assert len((await Gatehouse.open(database, tmp_path, clock, LIFE_S)).deny) == 0
    await database.close()


async def test_replaced_box_is_told_so(house: Gatehouse) -> None:
    """Its stream ends with what happened, not with a revocation."""
    old = await enrolled(house, Box())
    ended: list[str] = []
    house.deny.opened(serial(old), ended.append)
    await house.open_for_replacement(GW, DAY_MS, "bob")
    assert ended == []
    await enrolled(house, Box())
    assert ended == ["another box has taken the place of this one as gateway p1/gw-01"]


async def test_open_refuses_the_folder_of_another_authority(
    house: Gatehouse, database_at: DatabaseAt, tmp_path: Path, clock: Clock
) -> None:
    """A second controller on the database needs the first one's authority."""
    database = await database_at.open()
    with pytest.raises(AuthorityError, match=r"copy authority\.pem and secrets\.key"):
        await Gatehouse.open(database, tmp_path / "another", clock, LIFE_S)
    await database.close()


async def test_revocation_reaches_the_other_replicas(on_postgres: DatabaseAt, tmp_path: Path, clock: Clock) -> None:
    """A stream at one controller ends when the gateway is revoked at another."""
    databases = [await on_postgres.open() for _ in range(2)]
    buses = [Bus(database) for database in databases]
    here, there = [
        await Gatehouse.open(database, tmp_path, clock, LIFE_S, bus)
        for database, bus in zip(databases, buses, strict=True)
    ]
    pem = await enrolled(here, Box())
    ended: list[str] = []
    there.deny.opened(serial(pem), ended.append)
    running = [asyncio.create_task(bus.run()) for bus in buses]
    await eventually(lambda: all(bus.is_listening for bus in buses))
    await here.revoke(GW, "bob", "stolen")
    await eventually(lambda: ended)
    assert "by bob: stolen" in ended[0]
    nonce = here.challenge()  # any replica takes it
    with pytest.raises(IdentityError, match="not signed"):
        await there.reclaim(pem, nonce, b"")
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for database in databases:
        await database.close()
