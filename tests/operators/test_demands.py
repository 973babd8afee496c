"""The table of demands: every method of every service stands in it, and nothing that changes anything is open."""

import importlib
import pkgutil

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

import parkfleet.proto
from parkfleet.controller.access import (
    EVERYBODY,
    FLEET,
    SOMEWHERE,
    Grant,
    Permission,
    Principal,
    Reach,
    Role,
    Scope,
    Via,
)
from parkfleet.controller.caller import Nowhere
from parkfleet.controller.demands import AGENT_SERVICES, TABLE, Demand, demand_of
from parkfleet.proto import config_pb2, operators_pb2


def services() -> list[tuple[str, type[Message]]]:
    """(method, its request) of all that our .proto files define."""
    found = []
    for module in pkgutil.iter_modules(parkfleet.proto.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"parkfleet.proto.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                for method in service.methods:
                    request = message_factory.GetMessageClass(method.input_type)
                    found.append((f"{service.full_name}/{method.name}", request))
    return found


OPERATORS = [(name, request) for name, request in services() if name.partition("/")[0] not in AGENT_SERVICES]


@pytest.mark.parametrize(("method", "request_type"), OPERATORS, ids=[name for name, _ in OPERATORS])
def test_every_method_stands_in_the_table(method: str, request_type: type[Message]) -> None:
    """And an empty request of it takes something: to have signed in at least, but for signing in itself."""
    demand = demand_of(method, request_type(), Nowhere())
    assert demand is not None, "put it into controller/demands.py"
    assert not demand.open or method.endswith("/SignIn")
    assert not demand.change or demand.permission is not Permission.SEE


def test_no_row_is_left_over() -> None:
    """Each is of a method that there is; gRPC's own services are looked up where they are installed."""
    foreign = {name for name in TABLE if name.startswith("grpc.")}
    assert TABLE.keys() - foreign == {name for name, _ in OPERATORS}
    assert {name.partition("/")[0] for name, _ in services()} >= AGENT_SERVICES


def test_what_is_not_in_the_table_nobody_may() -> None:
    """Default: deny."""
    assert demand_of("parkfleet.v1.Fleet/DropEverything", None, Nowhere()) is None


class Fleet:
    """Parks p1 and p2 are in the north; label lte is said in p1 and p3."""

    def region_of(self, park: str) -> str | None:
        return "north" if park in ("p1", "p2") else None

    def parks_of_region(self, region: str) -> set[str]:
        return {"p1", "p2"} if region == "north" else set()

    def parks_of_label(self, label: str) -> set[str]:
        return {"p1", "p3"} if label == "lte" else set()


def allowed(method: str, request: Message, *grants: str) -> bool:
    """Whether somebody with these grants may."""
    demand = demand_of(f"parkfleet.v1.{method}", request, Fleet())
    assert demand is not None and demand.permission is not None
    somebody = Principal("alice", Via.SESSION, tuple(map(Grant.parse, grants)))
    return somebody.may(demand.permission, demand.reach, Fleet().region_of)


@pytest.mark.parametrize(
    ("layer", "may_change", "may_not", "may_read", "may_not_read"),
    [
        ("park/p1", "operator@park/p1", "operator@park/p2", "viewer@region/north", "viewer@park/p2"),
        ("gateway/p1/gw", "operator@region/north", "viewer@park/p1", "viewer@park/p1", "admin@park/p3"),
        ("region/north", "operator@region/north", "operator@park/p1", "viewer@park/p1", "viewer@park/p3"),
        ("label/lte", "operator@fleet", "operator@region/north", "viewer@park/p3", "viewer@park/p2"),
        ("label/unused", "operator@fleet", "operator@region/north", "viewer@fleet", "admin@region/north"),
        ("nonsense", "operator@fleet", "admin@region/north", "viewer@fleet", "admin@park/p1"),
        ("", "operator@fleet", "admin@region/north", "viewer@fleet", "admin@park/p1"),
    ],
)
def test_layers(layer: str, may_change: str, may_not: str, may_read: str, may_not_read: str) -> None:
    """A change takes rights over all that the layer says something to; reading, over one gateway of it."""
    change = config_pb2.ChangeLayerRequest(layer=layer)
    read = config_pb2.GetLayerRequest(layer=layer)
    assert allowed("FleetConfiguration/ChangeLayer", change, may_change)
    assert not allowed("FleetConfiguration/ChangeLayer", change, may_not)
    assert allowed("FleetConfiguration/GetLayer", read, may_read)
    assert not allowed("FleetConfiguration/GetLayer", read, may_not_read)


def test_a_label_is_changed_by_those_who_together_hold_all_of_its_parks() -> None:
    """One person may hold them in several grants."""
    change = config_pb2.ChangeLayerRequest(layer="label/lte")
    assert allowed("FleetConfiguration/ChangeLayer", change, "operator@park/p1", "operator@park/p3")
    assert not allowed("FleetConfiguration/ChangeLayer", change, "operator@park/p1", "viewer@park/p3")


def test_a_dry_run_is_for_viewers_too_but_not_for_those_of_another_park() -> None:
    """It shows what would become of each gateway."""
    dry = config_pb2.ChangeLayerRequest(layer="region/north", dry_run=True)
    assert allowed("FleetConfiguration/ChangeLayer", dry, "viewer@region/north")
    assert not allowed("FleetConfiguration/ChangeLayer", dry, "viewer@park/p1")


def test_grants_are_given_by_admins_of_the_scope() -> None:
    """What is no grant takes an admin of the whole fleet, who is told so by the service."""
    for grant, may, may_not in (
        ("viewer@park/p1", "admin@region/north", "operator@fleet"),
        ("admin@fleet", "admin@fleet", "admin@region/north"),
        ("nonsense", "admin@fleet", "admin@region/north"),
    ):
        request = operators_pb2.ChangeGrantRequest(user="bob", grant=grant)
        assert allowed("Operators/ChangeGrant", request, may)
        assert not allowed("Operators/ChangeGrant", request, may_not)
    empty = operators_pb2.AddUserRequest(user="bob")
    assert not allowed("Operators/AddUser", empty, "admin@region/north")


def test_everybody_at_an_open_controller_may_all() -> None:
    """As before there were people."""
    for permission in Permission:
        assert EVERYBODY.may(permission, Reach.every([FLEET]), lambda _: None)


def test_a_secret_token_never_stands_in_a_target() -> None:
    """Who revokes a token may give all of it."""
    request = operators_pb2.RevokeApiTokenRequest(token="pfa_0123456789ab_" + "c" * 64)
    demand = demand_of("parkfleet.v1.Operators/RevokeApiToken", request, Nowhere())
    assert demand is not None and demand.target == "token pfa_0123456789ab"


def test_demand_defaults_deny() -> None:
    """A row that says nothing takes rights over the whole fleet, and to have signed in."""
    demand = Demand(Permission.SEE)
    assert not demand.open
    assert not Principal("a", Via.SESSION, (Grant(Role.VIEWER, Scope.park("p1")),)).may(
        Permission.SEE, demand.reach, lambda _: None
    )
    assert demand.reach != SOMEWHERE
