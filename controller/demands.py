"""Demands: what each call of an operator takes: one table for all services. Default: nobody may.

A row says of a request which permission it takes and where, whether it changes something (and is then told in the
audit log), and what of. tests/operators/test_demands.py holds that every method of every service stands here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from parkfleet.controller.access import FLEET, SOMEWHERE, WHOLE_FLEET, Grant, Permission, Reach, Scope
from parkfleet.controller.audit_chain import AuditResult
from parkfleet.controller.caller import Belonging

#: Result and detail of a deed, by its (last) answer.
Outcome: TypeAlias = Callable[[Any], tuple[AuditResult, str]]


def done(_: Any) -> tuple[AuditResult, str]:
    """Most answers say nothing that the request did not."""
    return AuditResult.DONE, ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one call takes."""

    permission: Permission | None = None  # None: none, but to have signed in
    reach: Reach = WHOLE_FLEET
    change: bool = False
    target: str = ""
    scope: Scope | None = None  # for the audit log; None: of the reach, where that is one
    outcome: Outcome = done
    personal: bool = False  # not with an API token: what a person decides about themselves
    open: bool = False  # also who has not signed in


#: What a request takes; of a call whose requests are a stream, None is given.
Row: TypeAlias = Callable[[Any, Belonging], Demand]


def _fixed(demand: Demand) -> Row:
    return lambda request, belonging: demand


def _see_park(request: Any, _: Belonging) -> Demand:
    """One park, or all that one may see."""
    return Demand(Permission.SEE, Reach.every([Scope.park(request.park)]) if request.park else SOMEWHERE)


def _see_gateway(request: Any, _: Belonging) -> Demand:
    return Demand(Permission.SEE, Reach.every([Scope.park(request.park)]))


def _see_enrolling(request: Any, _: Belonging) -> Demand:
    """One park's, or all that one has to do with."""
    return Demand(Permission.ENROL, Reach.every([Scope.park(request.park)]) if request.park else SOMEWHERE)


def _enrolling(target: Callable[[Any], str], outcome: Outcome = done) -> Row:
    """A change of who becomes a gateway of a park; where the request names no park, it takes the whole fleet."""

    def row(request: Any, _: Belonging) -> Demand:
        reach = Reach.every([Scope.park(request.park)]) if request.park else WHOLE_FLEET
        return Demand(Permission.ENROL, reach, change=True, target=target(request), outcome=outcome)

    return row


def _gateway(request: Any) -> str:
    return f"gateway {request.park}/{request.gateway}"


def _see_layer(request: Any, belonging: Belonging) -> Demand:
    return Demand(Permission.SEE, layer_readers(request.layer, belonging))


def _change_layer(request: Any, belonging: Belonging) -> Demand:
    """ConfigService asks once more, when it knows which gateways are touched (config_access.py)."""
    permission = Permission.SEE if request.dry_run else Permission.CONFIGURE
    return Demand(
        permission,
        layer_reach(request.layer, belonging),
        change=not request.dry_run,
        target=f"layer {request.layer}",
        outcome=_layer_outcome,
    )


def _layer_outcome(event: Any) -> tuple[AuditResult, str]:
    result = event.result
    if result.HasField("stored"):
        return AuditResult.DONE, f"revision {result.stored.revision}, {result.gateways} gateways touched"
    if result.problems:
        return AuditResult.FAILED, f"nothing was stored: {result.problems} mistakes"
    return AuditResult.DONE, "nothing was stored: the layer says that already"


def _set_secret(request: Any, _: Belonging) -> Demand:
    verb = "remove " if request.remove else ""
    return Demand(
        Permission.SECRETS,
        change=True,
        target=f"{verb}secret {request.name}",
        outcome=lambda info: (AuditResult.DONE, f"revision {info.revision}"),
    )


def _add_user(request: Any, _: Belonging) -> Demand:
    what = " ".join(request.grants)
    return Demand(Permission.PEOPLE, grants_reach(request.grants), True, f"user {request.user} {what}".strip())


def _change_grant(request: Any, _: Belonging) -> Demand:
    verb = "revoke" if request.revoke else "grant"
    return Demand(Permission.PEOPLE, grants_reach([request.grant]), True, f"{verb} user {request.user} {request.grant}")


def _enable_user(request: Any, _: Belonging) -> Demand:
    """OperatorsService asks once more, over all that the user holds."""
    target = f"{'enable' if request.enabled else 'disable'} user {request.user}"
    return Demand(Permission.PEOPLE, SOMEWHERE, True, target)


def _set_password(request: Any, _: Belonging) -> Demand:
    """OperatorsService asks once more when it is somebody else's."""
    return Demand(None, SOMEWHERE, True, f"user {request.user}".strip(), personal=True)


def _own(target: Callable[[Any], str], outcome: Outcome, personal: bool = False) -> Row:
    """A change of what is somebody's own; OperatorsService asks once more when it is another's."""
    return lambda request, _: Demand(
        None, SOMEWHERE, change=True, target=target(request).strip(), outcome=outcome, personal=personal
    )


def _deed(request: Any, _: Belonging) -> Demand:
    """Remote hands: looking is told as well as doing."""
    gateway = f"{request.park}/{request.gateway}"
    what = getattr(request, request.WhichOneof("deed") or "", None)
    parts = [f"{field.name}={value}" for field, value in what.ListFields()] if what is not None else []
    target = " ".join([f"gateway {gateway}", *parts, f"within {request.within_s} s"])
    return Demand(Permission.ACT, Reach.every([Scope.park(request.park)]), change=True, target=target)


def layer_reach(name: str, belonging: Belonging) -> Reach:
    """All that a layer says something to. A name that is none takes the whole fleet."""
    kind, _, rest = name.partition("/")
    match kind:
        case "region":
            return Reach.every([Scope.region(rest)])
        case "park" | "gateway":
            return Reach.every([Scope.park(rest.partition("/")[0])])
        case "label":
            return Reach.every(map(Scope.park, sorted(belonging.parks_of_label(rest))))
    return WHOLE_FLEET


def layer_readers(name: str, belonging: Belonging) -> Reach:
    """Whoever sees one gateway that a layer is part of sees what it says there anyway."""
    reach = layer_reach(name, belonging)
    kind, _, rest = name.partition("/")
    parks = belonging.parks_of_region(rest) if kind == "region" else ()
    return Reach.any([*reach.scopes, *map(Scope.park, sorted(parks))])


def grants_reach(grants: Iterable[str]) -> Reach:
    """Where grants would hold; one that is none takes the whole fleet."""
    scopes = []
    for text in grants:
        try:
            scopes.append(Grant.parse(text).scope)
        except ValueError:
            scopes.append(FLEET)
    return Reach.every(scopes)


_SIGNED_IN: Final = _fixed(Demand(None, SOMEWHERE))
_OPEN: Final = _fixed(Demand(None, SOMEWHERE, open=True))

#: Services whose callers are gateways, with an identity of their own: the gate is not asked.
AGENT_SERVICES: Final = frozenset(
    {"parkfleet.v1.AgentSession", "parkfleet.v1.CertificateRenewal", "parkfleet.v1.Enrolment"}
)

TABLE: Final[dict[str, Row]] = {
    "parkfleet.v1.Fleet/ListGateways": _see_park,
    "parkfleet.v1.Fleet/WatchGateways": _see_park,
    "parkfleet.v1.FleetConfiguration/ListLayers": _fixed(Demand(Permission.SEE, SOMEWHERE)),
    "parkfleet.v1.FleetConfiguration/GetLayer": _see_layer,
    "parkfleet.v1.FleetConfiguration/ChangeLayer": _change_layer,
    "parkfleet.v1.FleetConfiguration/GetHistory": _see_layer,
    "parkfleet.v1.FleetConfiguration/DiffLayer": _see_layer,
    "parkfleet.v1.FleetConfiguration/GetEffective": _see_gateway,
    "parkfleet.v1.FleetConfiguration/Explain": _see_gateway,
    "parkfleet.v1.FleetConfiguration/Validate": _see_park,
    "parkfleet.v1.FleetConfiguration/SetSecret": _set_secret,
    "parkfleet.v1.FleetConfiguration/ListSecrets": _fixed(Demand(Permission.CONFIGURE, SOMEWHERE)),
    "parkfleet.v1.FleetIdentity/CreateToken": _enrolling(
        lambda request: f"join token for {request.park}, {request.uses} uses",
        lambda answer: (AuditResult.DONE, f"join token {answer.token.id}"),
    ),
    "parkfleet.v1.FleetIdentity/ListTokens": _see_enrolling,
    "parkfleet.v1.FleetIdentity/RevokeToken": _enrolling(lambda request: f"join token {request.id}"),
    "parkfleet.v1.FleetIdentity/ListPending": _see_enrolling,
    "parkfleet.v1.FleetIdentity/Decide": _enrolling(
        lambda request: f"{'approve' if request.approve else 'deny'} request {request.number}",
        lambda answer: (AuditResult.DONE, f"gateway {answer.park}/{answer.gateway}"),
    ),
    "parkfleet.v1.FleetIdentity/ListIdentities": _see_park,
    "parkfleet.v1.FleetIdentity/GetIdentity": _see_gateway,
    "parkfleet.v1.FleetIdentity/RevokeGateway": _enrolling(_gateway),
    "parkfleet.v1.FleetIdentity/ReplaceGateway": _enrolling(
        lambda request: f"gateway {request.park}/{request.gateway}"
    ),
    "parkfleet.v1.Operators/SignIn": _OPEN,  # told in the audit log by SignIn itself: it knows who it was
    "parkfleet.v1.Operators/SignOut": _fixed(Demand(None, SOMEWHERE, change=True)),
    "parkfleet.v1.Operators/WhoAmI": _SIGNED_IN,
    "parkfleet.v1.Operators/ListUsers": _fixed(Demand(Permission.PEOPLE, SOMEWHERE)),
    "parkfleet.v1.Operators/AddUser": _add_user,
    "parkfleet.v1.Operators/ChangeGrant": _change_grant,
    "parkfleet.v1.Operators/EnableUser": _enable_user,
    "parkfleet.v1.Operators/SetPassword": _set_password,
    "parkfleet.v1.Operators/CreateApiToken": _own(
        lambda request: f"token {request.name} {' '.join(request.grants)}",
        lambda answer: (AuditResult.DONE, answer.info.prefix),
        personal=True,
    ),
    "parkfleet.v1.Operators/ListApiTokens": _SIGNED_IN,
    "parkfleet.v1.Operators/RevokeApiToken": _own(  # a whole token is cut to its public part
        lambda request: f"token {'_'.join(request.token.split('_')[:2])}",
        lambda info: (AuditResult.DONE, f"{info.prefix} of {info.user}"),
    ),
    "parkfleet.v1.Operators/IssueCertificate": _own(
        lambda request: "a certificate",
        lambda answer: (AuditResult.DONE, f"certificate {answer.info.serial}"),
        personal=True,
    ),
    "parkfleet.v1.Operators/ListCertificates": _SIGNED_IN,
    "parkfleet.v1.Operators/RevokeCertificate": _own(
        lambda request: f"certificate {request.serial}",
        lambda info: (AuditResult.DONE, f"of {info.user}"),
    ),
    "parkfleet.v1.Audit/ListEntries": _fixed(Demand(Permission.AUDIT, SOMEWHERE)),
    "parkfleet.v1.Audit/Export": _fixed(Demand(Permission.AUDIT)),
    "parkfleet.v1.Audit/GetHead": _fixed(Demand(Permission.AUDIT)),
    "parkfleet.v1.RemoteHands/Logs": _deed,
    "parkfleet.v1.RemoteHands/Scan": _deed,
    "parkfleet.v1.RemoteHands/Read": _deed,
    "parkfleet.v1.RemoteHands/Replay": _deed,
    "parkfleet.v1.RemoteHands/Restart": _deed,
    "parkfleet.v1.RemoteHands/Capture": _deed,
    # What probes and tools ask: whether the controller serves; which services it has. A watch holds a place for long:
    # strangers could take all of them.
    "grpc.health.v1.Health/Check": _OPEN,
    "grpc.health.v1.Health/Watch": _SIGNED_IN,
    "grpc.health.v1.Health/List": _SIGNED_IN,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _SIGNED_IN,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _SIGNED_IN,
}


def demand_of(method: str, request: Any, belonging: Belonging) -> Demand | None:
    """What a call takes; None: nobody may, for it does not stand in the table."""
    row = TABLE.get(method)
    return None if row is None else row(request, belonging)
