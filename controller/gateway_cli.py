"""Command group `parkfleet fleet gateway`: which boxes are enrolled, and which get in no more."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import GatewayName, Json, Reason, author, echo_json, split_gateway
from parkfleet.controller.identity_call import ANSWER_S, identity_call, span_ms
from parkfleet.controller.operators_call import EXIT_CODES

if TYPE_CHECKING:
    from parkfleet.proto import identity_pb2
    from parkfleet.proto.identity_pb2_grpc import FleetIdentityAsyncStub

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Which boxes are enrolled, wait to be, are revoked or replaced.",
    epilog='Example: parkfleet fleet gateway revoke p1/gw-01 --reason "stolen"',
)

Park = Annotated[str, typer.Option(help="Only this park's.")]
Number = Annotated[int, typer.Argument(help="Of the request, as `pending` shows it.", metavar="NUMBER")]
OfPark = Annotated[str, typer.Option("--park", help="Only if it is of this park.")]


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet gateway list --park p1 --json\n\n{EXIT_CODES}")
def list_gateways(park: Park = "", controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """List the enrolled gateways and until when their certificates hold."""
    from parkfleet.proto import identity_pb2 as pb

    async def ask(stub: "FleetIdentityAsyncStub") -> list[pb.Identity]:
        found: list[pb.Identity] = []
        request = pb.ListIdentitiesRequest(park=park)
        while True:
            page = await stub.ListIdentities(request, timeout=ANSWER_S)
            found.extend(page.identities)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    found = identity_call(controller, ask)
    if as_json:
        echo_json([_facts(identity) for identity in found])
        return
    for identity in found:
        typer.echo(_line(identity))
    if not found:
        typer.echo("no gateway has enrolled yet: parkfleet fleet token create --park PARK", err=True)


@app.command(epilog=f"Example:\n\n    parkfleet fleet gateway show p1/gw-01\n\n{EXIT_CODES}")
def show(gateway: GatewayName, controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """Show a gateway's certificates, the newest first."""
    from parkfleet.controller.config_report import moment_text
    from parkfleet.proto import identity_pb2 as pb

    park, name = split_gateway(gateway)
    request = pb.GetIdentityRequest(park=park, gateway=name)
    answer = identity_call(controller, lambda stub: stub.GetIdentity(request, timeout=ANSWER_S))
    if as_json:
        echo_json({**_facts(answer.identity), "certificates": [_certificate(one) for one in answer.certificates]})
        return
    typer.echo(_line(answer.identity))
    for one in answer.certificates:
        revoked = f", revoked {moment_text(one.revoked_ms)}: {one.revoked_reason}" if one.HasField("revoked_ms") else ""
        span = f"{moment_text(one.issued_ms)} to {moment_text(one.ends_ms)}"
        typer.echo(f"  {one.cause:9} {span}  key {one.key_hash[:16]}  serial {one.serial}{revoked}")


@app.command(epilog=f"Example:\n\n    parkfleet fleet gateway pending\n\n{EXIT_CODES}")
def pending(park: Park = "", controller: Controller = DEFAULT, as_json: Json = False) -> None:
    """List the boxes that wait for approval. Their installers see the same key."""
    from parkfleet.controller.config_report import moment_text
    from parkfleet.proto import identity_pb2 as pb

    request = pb.ListPendingRequest(park=park)
    answer = identity_call(controller, lambda stub: stub.ListPending(request, timeout=ANSWER_S))
    if as_json:
        keys = ("number", "park", "gateway", "token", "key_hash", "peer")
        echo_json([{k: getattr(one, k) for k in keys} | {"requested": one.requested_ms} for one in answer.pending])
        return
    for one in answer.pending:
        typer.echo(
            f"{one.number}  {one.park}/{one.gateway}  key {one.key_hash[:16]}  {moment_text(one.requested_ms)}  "
            f"from {one.peer}, token {one.token}"
        )
    if not answer.pending:
        typer.echo("no box is waiting", err=True)


@app.command(epilog=f"Example:\n\n    parkfleet fleet gateway approve 7\n\n{EXIT_CODES}")
def approve(number: Number, park: OfPark = "", controller: Controller = DEFAULT) -> None:
    """Say yes to a box that waits: compare its key with the installer first."""
    _decide(controller, number, True, "", park)


@app.command(epilog=f'Example:\n\n    parkfleet fleet gateway deny 7 --reason "not ours"\n\n{EXIT_CODES}')
def deny(number: Number, reason: Reason = "", park: OfPark = "", controller: Controller = DEFAULT) -> None:
    """Say no to a box that waits. The installer reads the reason."""
    _decide(controller, number, False, reason, park)


_EXAMPLE_REVOKE = f"""Example:

    parkfleet fleet gateway revoke p1/gw-01 --reason "stolen from hall 3"

Its sessions end within 2 s, at every controller, and it gets in no more. The broker refuses it after its list of
revoked certificates (crl.pem of the controller's data folder) is loaded. To let a box have the name again:
`parkfleet fleet gateway replace`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_REVOKE)
def revoke(gateway: GatewayName, reason: Reason = "", controller: Controller = DEFAULT) -> None:
    """Let a gateway's box in no more."""
    from parkfleet.proto import identity_pb2 as pb

    park, name = split_gateway(gateway)
    request = pb.RevokeGatewayRequest(park=park, gateway=name, author=author(), reason=reason)
    typer.echo(_line(identity_call(controller, lambda stub: stub.RevokeGateway(request, timeout=ANSWER_S))))


_EXAMPLE_REPLACE = f"""Example:

    parkfleet fleet gateway replace p1/gw-01 --reason "box broken"

    parkfleet fleet token create --park p1

Then, on the new box: `parkfleet agent enroll TOKEN --gateway gw-01`. It takes over name, configuration and history;
the old box gets in no more from then on.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_REPLACE)
def replace(
    gateway: GatewayName,
    ttl: Annotated[str, typer.Option(help="So long the name is open for another box.")] = "7d",
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """Open a gateway's name for another box."""
    from parkfleet.proto import identity_pb2 as pb

    park, name = split_gateway(gateway)
    request = pb.ReplaceGatewayRequest(
        park=park, gateway=name, ttl_ms=span_ms(ttl, "--ttl"), author=author(), reason=reason
    )
    typer.echo(_line(identity_call(controller, lambda stub: stub.ReplaceGateway(request, timeout=ANSWER_S))))


def _decide(controller: str, number: int, yes: bool, reason: str, park: str) -> None:
    from parkfleet.proto import identity_pb2 as pb

    request = pb.DecideRequest(number=number, approve=yes, author=author(), reason=reason, park=park)
    answer = identity_call(controller, lambda stub: stub.Decide(request, timeout=ANSWER_S))
    typer.echo(f"{answer.park}/{answer.gateway} is {'enrolled' if yes else 'denied its enrolment'}")


def _facts(identity: "identity_pb2.Identity") -> dict[str, Any]:
    """As it stands in --json; times in ms UTC."""

    def optional(field: Any) -> int | None:
        return getattr(identity, field) if identity.HasField(field) else None

    return {
        "park": identity.park,
        "gateway": identity.gateway,
        "enrolled": identity.enrolled_ms,
        "certificate_ends": optional("certificate_ends_ms"),
        "replace_until": optional("replace_until_ms"),
        "revoked": optional("revoked_ms"),
        "revoked_by": identity.revoked_by,
        "revoked_reason": identity.revoked_reason,
    }


def _certificate(one: "identity_pb2.Certificate") -> dict[str, Any]:
    revoked = one.revoked_ms if one.HasField("revoked_ms") else None
    keys = ("serial", "key_hash", "cause", "revoked_reason")
    return {k: getattr(one, k) for k in keys} | {"issued": one.issued_ms, "ends": one.ends_ms, "revoked": revoked}


def _line(identity: "identity_pb2.Identity") -> str:
    from parkfleet.controller.config_report import moment_text

    words = [f"{identity.park}/{identity.gateway}", f"enrolled {moment_text(identity.enrolled_ms)}"]
    if identity.HasField("certificate_ends_ms"):
        words.append(f"certificate until {moment_text(identity.certificate_ends_ms)}")
    if identity.HasField("revoked_ms"):
        why = f" by {identity.revoked_by}: {identity.revoked_reason}"
        words.append(f"revoked {moment_text(identity.revoked_ms)}{why}")
    if identity.HasField("replace_until_ms"):
        words.append(f"open for another box until {moment_text(identity.replace_until_ms)}")
    return "  ".join(words)
