"""Enrolments: who gets a certificate with a join token, and who does not; on SQLite and on PostgreSQL."""

import asyncio

import pytest
from sqlalchemy import text

from parkfleet.controller.authority import RequestError, certificate_of, common_name, key_hash
from parkfleet.controller.gatehouse import Gatehouse
from parkfleet.controller.identity_errors import Fault, IdentityError
from parkfleet.controller.registry import GatewayKey
from parkfleet.protocols.join_token import JoinToken
from tests.conftest import DatabaseAt
from tests.identity.conftest import DAY_MS, LIFE_S, Box, Clock, new_token

GW = GatewayKey("p1", "gw-01")


async def refused(fault: Fault, told: str, house: Gatehouse, token: JoinToken, box: Box) -> None:
    """Asserts that a box does not get in, and why."""
    with pytest.raises(IdentityError, match=told) as caught:
        await box.enrols(house, token)
    assert caught.value.fault is fault


async def used(house: Gatehouse, token: JoinToken) -> int:
    """How often a token was used."""
    return next(info.used for info in await house.tokens.all() if info.id == token.id)


async def test_apply_gives_a_certificate_of_the_name_and_the_key(house: Gatehouse, clock: Clock) -> None:
    """The park is the token's, the name the one that was asked for, whatever the request calls itself."""
    box = Box()
    outcome = await box.enrols(house, await new_token(house))
    assert outcome.certificate is not None
    certificate = certificate_of(outcome.certificate.encode())
    assert common_name(certificate) == "p1/gw-01"
    assert certificate.public_key() == box.key.public_key()
    assert house.authority.signed(certificate)
    assert certificate.not_valid_after_utc.timestamp() == clock.ms // 1000 + LIFE_S


async def test_apply_counts_each_box_once(house: Gatehouse) -> None:
    """A box whose answer was lost asks again and has the same certificate; the next box is one too many."""
    token, box = await new_token(house), Box()
    first = await box.enrols(house, token)
    again = await box.enrols(house, token)
    assert (again.certificate, again.new, await used(house, token)) == (first.certificate, False, 1)
    await refused(Fault.REFUSED, "has been used 1 of 1 times", house, token, Box("gw-02"))
    assert [identity.key for identity in await house.store.page(GatewayKey("", ""), 10)] == [GW]


async def test_apply_counts_right_when_all_come_at_once(house: Gatehouse) -> None:
    """Of twelve boxes with a token of five uses, five get in, and only they are known."""
    token = await new_token(house, uses=5)
    boxes = [Box(f"gw-{number:02}") for number in range(12)]
    outcomes = await asyncio.gather(*(box.enrols(house, token) for box in boxes), return_exceptions=True)
    inside = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    told = {str(outcome) for outcome in outcomes if isinstance(outcome, IdentityError)}
    assert (len(inside), await used(house, token)) == (5, 5)
    assert told == {f"join token {token.id} has been used 5 of 5 times: have another one made"}
    known = await house.store.page(GatewayKey("", ""), 100)
    assert {identity.key for identity in known} == {outcome.key for outcome in inside}


async def test_apply_gives_a_name_to_one_of_those_who_want_it(house: Gatehouse) -> None:
    """Also when they come at once, with tokens of their own; the others' uses are not taken."""
    tokens = [await new_token(house) for _ in range(6)]
    outcomes = await asyncio.gather(*(Box().enrols(house, token) for token in tokens), return_exceptions=True)
    faults = [outcome.fault for outcome in outcomes if isinstance(outcome, IdentityError)]
    assert faults == [Fault.TAKEN] * 5
    assert sum([await used(house, token) for token in tokens]) == 1


async def test_apply_of_one_box_twice_at_once(house: Gatehouse) -> None:
    """A retry that crosses with its first try uses the token once and has the same certificate."""
    token, box = await new_token(house, uses=3), Box()
    first, second = await asyncio.gather(box.enrols(house, token), box.enrols(house, token))
    assert first.certificate == second.certificate
    assert await used(house, token) == 1


async def test_apply_refuses_tokens_that_open_no_door(house: Gatehouse, clock: Clock) -> None:
    """Unknown, of a wrong secret, revoked, expired: each with its sentence, but only to who has the secret."""
    good = await new_token(house, uses=9)
    wrong = JoinToken(good.address, good.fingerprint, good.id, b"x" * 20)
    unknown = JoinToken.new(good.address, good.fingerprint)
    await refused(Fault.UNPROVEN, "not known here", house, wrong, Box())
    await refused(Fault.UNPROVEN, "not known here", house, unknown, Box())
    revoked = await new_token(house)
    await house.revoke_token(revoked.id, "", "bob")
    await refused(Fault.REFUSED, "was revoked", house, revoked, Box())
    clock.pass_days(1)
    await refused(Fault.REFUSED, "expired on 2026-09-22 .* UTC", house, good, Box())
    assert await used(house, good) == 0


async def test_apply_after_the_token_ended_still_answers_its_boxes(house: Gatehouse, clock: Clock) -> None:
    """The token is not looked at again for a box that was let in with it."""
    token, box = await new_token(house, uses=2), Box()
    first = await box.enrols(house, token)
    clock.pass_days(2)
    await house.revoke_token(token.id, "p1", "bob")
    assert (await box.enrols(house, token)).certificate == first.certificate
    await refused(Fault.REFUSED, "was revoked", house, token, Box("gw-02"))


async def test_apply_refuses_names_that_cannot_be(house: Gatehouse) -> None:
    """Another park than the token's, and one that no certificate can say; no use is taken."""
    token = await new_token(house)
    await refused(
        Fault.WRONG, "token is of park p1, this gateway's configuration says p2", house, token, Box(park="p2")
    )
    await refused(Fault.WRONG, "choose a shorter one with --gateway", house, token, Box("x" * 62))
    assert await used(house, token) == 0


@pytest.mark.parametrize("request_", [b"", b"\x30\x82", b"x" * 5000, Box().request[:-1]])
async def test_apply_refuses_what_is_no_request(house: Gatehouse, request_: bytes) -> None:
    """With a sentence, and no use is taken."""
    token = await new_token(house)

    class Odd(Box):
        request = request_

    with pytest.raises(RequestError, match="request"):
        await Odd().enrols(house, token)
    assert await used(house, token) == 0


async def test_approval(house: Gatehouse) -> None:
    """A box waits, an operator sees its key and says yes, and the box has its certificate when it asks again."""
    token, box = await new_token(house, approve=True), Box()
    assert (await box.enrols(house, token)).certificate is None
    assert (await box.enrols(house, token)).certificate is None
    (waiting,) = await house.enrolments.pending()
    assert (waiting.key, waiting.key_hash) == (GW, key_hash(box.key.public_key()))
    assert await house.store.one(GW) is None
    with pytest.raises(IdentityError, match="there is no request"):
        await house.approve(waiting.number, "p2", "bob")
    assert await house.approve(waiting.number, "p1", "bob") == GW
    outcome = await box.enrols(house, token)
    assert outcome.certificate is not None
    assert await house.enrolments.pending() == []
    with pytest.raises(IdentityError, match="is issued already, by bob"):
        await house.deny_enrolment(waiting.number, "", "carol", "too late")


async def test_denial_and_revocation_while_waiting(house: Gatehouse) -> None:
    """The installer reads who said no, and why."""
    token = await new_token(house, uses=2, approve=True)
    denied, late = Box("gw-01"), Box("gw-02")
    await denied.enrols(house, token)
    await late.enrols(house, token)
    number = (await house.enrolments.pending())[0].number
    await house.deny_enrolment(number, "", "bob", "not ours")
    await refused(Fault.REFUSED, "bob denied p1/gw-01 its enrolment: not ours", house, token, denied)
    await house.revoke_token(token.id, "", "bob")
    await refused(Fault.REFUSED, "was revoked while p1/gw-02 was waiting", house, token, late)


async def test_two_boxes_that_wait_for_one_name(house: Gatehouse) -> None:
    """The first that is approved has it; the other's approval is refused, and can still be denied."""
    boxes = [Box(), Box()]
    tokens = [await new_token(house, approve=True) for _ in boxes]
    for box, token in zip(boxes, tokens, strict=True):
        await box.enrols(house, token)
    first, second = [waiting.number for waiting in await house.enrolments.pending()]
    await house.approve(first, "", "bob")
    with pytest.raises(IdentityError, match="is enrolled already"):
        await house.approve(second, "", "bob")
    await house.deny_enrolment(second, "", "bob", "twice")
    await refused(Fault.REFUSED, "denied", house, tokens[1], boxes[1])


async def test_replacement_keeps_the_name_and_shuts_the_old_box_out(house: Gatehouse, clock: Clock) -> None:
    """Only while the name is open, and once; the certificates of both stand in its history."""
    old, new = Box(), Box()
    await old.enrols(house, await new_token(house))
    token = await new_token(house, uses=5, days=30)
    await refused(Fault.TAKEN, "have an operator open it: parkfleet fleet gateway replace p1/gw-01", house, token, new)
    await house.open_for_replacement(GW, DAY_MS, "bob")
    clock.pass_days(2)
    await refused(Fault.TAKEN, "is enrolled already", house, token, new)
    await house.open_for_replacement(GW, DAY_MS, "bob")
    assert (await new.enrols(house, token)).replaced
    await refused(Fault.TAKEN, "is enrolled already", house, token, Box())
    issued = await house.store.issued(GW)
    assert [row.revoked_ms is None for row in issued] == [True, False]
    assert issued[1].revoked_reason == "another box has taken its place"


async def test_revoked_box_comes_back_by_replacement_only(house: Gatehouse) -> None:
    """Neither with its old token nor with a new one, until its name is opened."""
    token, box = await new_token(house, uses=2), Box()
    await box.enrols(house, token)
    await house.revoke(GW, "bob", "stolen")
    await refused(Fault.REFUSED, "had of this token was revoked .stolen.", house, token, box)
    await refused(Fault.TAKEN, "is enrolled already", house, await new_token(house), box)
    await house.open_for_replacement(GW, DAY_MS, "bob")
    outcome = await box.enrols(house, await new_token(house))
    assert outcome.replaced and outcome.certificate is not None
    identity = await house.store.one(GW)
    assert identity is not None and identity.revoked_ms is None


async def test_tokens_keep_no_secret(house: Gatehouse, database_at: DatabaseAt) -> None:
    """Neither in what is listed of them nor in the database; a copy of the database opens no door."""
    token = await new_token(house)
    (info,) = await house.tokens.all()
    assert (info.id, info.park, info.uses, info.author, info.state(0)) == (token.id, "p1", 1, "alice", "active")
    database = await database_at.open()
    async with database.read() as connection:
        rows = (await connection.execute(text("SELECT * FROM join_token"))).all()
    await database.close()
    assert token.secret not in repr(rows).encode() and token.secret.hex() not in repr(rows)
    assert token.text() not in repr(token) and token.secret.hex() not in repr(token)
