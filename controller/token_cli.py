"""Command group `parkfleet fleet token`: join tokens, with which boxes become gateways."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.config_call import Json, Reason, author, echo_json
from parkfleet.controller.identity_call import ANSWER_S, identity_call, span_ms
from parkfleet.controller.operators_call import EXIT_CODES

if TYPE_CHECKING:
    from parkfleet.proto import identity_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Join tokens, with which boxes become gateways of a park.",
    epilog='Example: parkfleet fleet token create --park p1 --uses 20 --ttl 7d --reason "hall 3"',
)

_EXAMPLE_CREATE = f"""Examples:

    parkfleet fleet token create --park p1 --uses 20 --ttl 7d --reason "hall 3"

    parkfleet fleet token create --park p1 --approve > token.txt

Prints one string for the installer, once: the controller keeps only its hash. On the box:
`parkfleet agent enroll TOKEN`. With --approve each box waits until `parkfleet fleet gateway approve`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_CREATE)
def create(
    park: Annotated[str, typer.Option(help="The park of the gateways that enrol with it.")],
    uses: Annotated[int, typer.Option(help="So many boxes may enrol with it.")] = 1,
    ttl: Annotated[str, typer.Option(help="So long it opens the door: 1h, 7d; at most a year.")] = "1d",
    approve: Annotated[bool, typer.Option("--approve", help="An operator says yes to each box.")] = False,
    reason: Reason = "",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a join token; it is shown once."""
    from parkfleet.proto import identity_pb2 as pb

    if uses < 1:
        raise typer.BadParameter("a token has at least one use", param_hint="--uses")
    request = pb.CreateTokenRequest(
        park=park, uses=uses, ttl_ms=span_ms(ttl, "--ttl"), approve=approve, author=author(), reason=reason
    )
    answer = identity_call(controller, lambda stub: stub.CreateToken(request, timeout=ANSWER_S))
    if as_json:
        echo_json({"text": answer.text, **_facts(answer.token)})
        return
    typer.echo(answer.text)
    typer.echo(_line(answer.token), err=True)


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet token list --park p1 --json\n\n{EXIT_CODES}")
def list_tokens(
    park: Annotated[str, typer.Option(help="Only this park's.")] = "",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """List the join tokens, also those that ended, without their secrets."""
    from parkfleet.proto import identity_pb2 as pb

    request = pb.ListTokensRequest(park=park)
    answer = identity_call(controller, lambda stub: stub.ListTokens(request, timeout=ANSWER_S))
    if as_json:
        echo_json([_facts(token) for token in answer.tokens])
        return
    for token in answer.tokens:
        typer.echo(_line(token))
    if not answer.tokens:
        typer.echo("no join token yet: parkfleet fleet token create --park PARK", err=True)


@app.command(epilog=f"Example:\n\n    parkfleet fleet token revoke k3m7x2qd\n\n{EXIT_CODES}")
def revoke(
    token: Annotated[str, typer.Argument(help="Its id, as `list` shows it.", metavar="ID")],
    park: Annotated[str, typer.Option(help="Only if it is of this park.")] = "",
    controller: Controller = DEFAULT,
) -> None:
    """Have a join token open no door any more. Gateways that enrolled with it stay."""
    from parkfleet.proto import identity_pb2 as pb

    request = pb.RevokeTokenRequest(id=token, author=author(), park=park)
    typer.echo(_line(identity_call(controller, lambda stub: stub.RevokeToken(request, timeout=ANSWER_S))))


def _facts(token: "identity_pb2.JoinToken") -> dict[str, Any]:
    """As it stands in --json; times in ms UTC."""
    keys = ("id", "park", "state", "uses", "used", "approve", "author", "reason", "revoked_by")
    return {key: getattr(token, key) for key in keys} | {"created": token.created_ms, "expires": token.expires_ms}


def _line(token: "identity_pb2.JoinToken") -> str:
    from parkfleet.controller.config_report import moment_text

    approval = ", with approval" if token.approve else ""
    return (
        f"{token.id}  park {token.park}  {token.state}: used {token.used} of {token.uses}{approval}, "
        f"until {moment_text(token.expires_ms)}  {token.author}: {token.reason or '-'}"
    )
