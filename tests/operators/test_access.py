"""Who may do what, where: what must hold of any grants, scopes and deeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.access import (
    FLEET,
    LEAST,
    SOMEWHERE,
    Grant,
    Permission,
    Principal,
    Reach,
    Role,
    Scope,
    Via,
)

PARKS = ("p1", "p2", "p3", "p4")
REGIONS = ("north", "south")
SCOPES = [FLEET, *map(Scope.region, REGIONS), *map(Scope.park, PARKS)]

scopes = st.sampled_from(SCOPES)
grants = st.builds(Grant, st.sampled_from(list(Role)), scopes)
held = st.lists(grants, max_size=4).map(tuple)
permissions = st.sampled_from(list(Permission))
#: Which region each park is in, if any.
regions = st.dictionaries(st.sampled_from(PARKS), st.sampled_from(REGIONS))
reaches = st.one_of(
    st.lists(scopes, max_size=3).map(Reach.every), st.lists(scopes, max_size=3).map(Reach.any), st.just(SOMEWHERE)
)


def somebody(granted: tuple[Grant, ...], cap: tuple[Grant, ...] | None = None) -> Principal:
    """Somebody with these grants."""
    return Principal("alice", Via.SESSION if cap is None else Via.API_TOKEN, granted, cap)


def parks_of(scope: Scope, belongs: dict[str, str]) -> set[str]:
    """What a scope means, counted out; a park that is not there yet stands for those to come."""
    match scope.kind:
        case "fleet":
            return {*PARKS, "new", *(f"new in {region}" for region in REGIONS)}
        case "region":
            return {park for park, region in belongs.items() if region == scope.name} | {f"new in {scope.name}"}
        case _:
            return {scope.name}


@given(held, reaches, regions)
def test_a_viewer_never_changes_anything(granted: tuple[Grant, ...], reach: Reach, belongs: dict[str, str]) -> None:
    """Whatever the scope: the role of a viewer allows to see, and nothing else."""
    viewer = somebody(tuple(Grant(Role.VIEWER, grant.scope) for grant in granted))
    for permission in set(Permission) - {Permission.SEE}:
        assert not viewer.may(permission, reach, belongs.get)


@given(held, permissions, scopes, regions)
def test_scope_never_widens(
    granted: tuple[Grant, ...], permission: Permission, scope: Scope, belongs: dict[str, str]
) -> None:
    """What is allowed in a scope is allowed in each of its parks by a single grant there, and no park is forgotten."""
    allowed = somebody(granted).may(permission, Reach.every([scope]), belongs.get)
    enough = [grant for grant in granted if grant.role >= LEAST[permission]]
    by_count = any(parks_of(scope, belongs) <= parks_of(grant.scope, belongs) for grant in enough)
    assert allowed == by_count


@given(held, held, permissions, reaches, regions)
def test_a_token_never_exceeds_its_owner(
    granted: tuple[Grant, ...], cap: tuple[Grant, ...], permission: Permission, reach: Reach, belongs: dict[str, str]
) -> None:
    """Nor its own grants, whatever the owner may."""
    if somebody(granted, cap).may(permission, reach, belongs.get) and reach != SOMEWHERE:
        assert somebody(granted).may(permission, reach, belongs.get)
        assert somebody(cap).may(permission, reach, belongs.get)


@given(held, held, grants, permissions, scopes, regions)
def test_nobody_hands_out_more_than_they_hold(
    granted: tuple[Grant, ...],
    cap: tuple[Grant, ...],
    given_: Grant,
    permission: Permission,
    scope: Scope,
    belongs: dict[str, str],
) -> None:
    """Whoever gets a grant may do with it nothing that its giver may not; the giver may be a token."""
    for giver in (somebody(granted), somebody(granted, cap)):
        if giver.holds(given_, belongs.get) and given_.allows(permission, scope, belongs.get):
            assert giver.may(permission, Reach.every([scope]), belongs.get)


@given(held, permissions, reaches, regions, grants)
def test_more_grants_never_allow_less(
    granted: tuple[Grant, ...], permission: Permission, reach: Reach, belongs: dict[str, str], more: Grant
) -> None:
    """Grants only add up."""
    if somebody(granted).may(permission, reach, belongs.get):
        assert somebody((*granted, more)).may(permission, reach, belongs.get)


def test_nothing_is_allowed_without_a_grant() -> None:
    """And an empty reach is no loophole: it means the whole fleet."""
    nobody, operator = somebody(()), somebody((Grant(Role.OPERATOR, Scope.park("p1")),))
    for permission in Permission:
        for reach in (SOMEWHERE, Reach.every([]), Reach.any([])):
            assert not nobody.may(permission, reach, lambda _: None)
    assert not operator.may(Permission.SEE, Reach.every([]), lambda _: None)
    assert not operator.may(Permission.SEE, Reach.any([]), lambda _: None)
    assert operator.may(Permission.SEE, SOMEWHERE, lambda _: None)


@given(grants)
def test_a_grant_is_read_as_it_is_written(grant: Grant) -> None:
    """ROLE@SCOPE."""
    assert Grant.parse(str(grant)) == grant


@given(st.text(max_size=100))
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    """Whatever it is, there is no other outcome."""
    try:
        assert str(Grant.parse(text)) == text
    except ValueError as error:
        assert str(error).startswith("expected ")


@pytest.mark.parametrize("text", ["admin", "root@fleet", "admin@", "admin@fleet/x", "admin@park", "admin@park/", "@"])
def test_grants_that_are_none(text: str) -> None:
    """Each is told what was expected."""
    with pytest.raises(ValueError, match="expected"):
        Grant.parse(text)
