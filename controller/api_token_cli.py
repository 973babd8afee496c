"""Command group `parkfleet fleet api-token`: tokens with which scripts sign in as their owner."""

from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.operators_call import (
    EXIT_CODES,
    Grants,
    Json,
    Reason,
    echo_json,
    print_table,
    state,
    with_operators,
)

if TYPE_CHECKING:
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto import operators_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="API tokens, with which scripts sign in as you, and may do no more than you.",
    epilog="Example: parkfleet fleet api-token create nightly --grant viewer@fleet --ttl 90d",
)

_EXAMPLE_CREATE = f"""Examples:

    parkfleet fleet api-token create nightly-report --grant viewer@fleet --ttl 90d > token.txt

    PARKFLEET_TOKEN_FILE=token.txt parkfleet fleet list --json

Prints the token alone, once: the controller keeps only its hash. It may do what its grants and yours of that moment
both allow; without --grant, all that you may. It cannot make further tokens, nor change a password. This is not the
join token for boxes, which is `parkfleet fleet token`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_CREATE)
def create(
    name: Annotated[str, typer.Argument(help="What it is for.", metavar="NAME")],
    ttl: Annotated[str, typer.Option(help="So long it holds: 1h, 90d; at most 366d.")] = "90d",
    grants: Grants = None,
    reason: Reason = "",
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make an API token of yours; it is shown once."""
    from parkfleet.proto import operators_pb2 as pb
    from parkfleet.protocols.quantity import Duration

    try:
        life_ms = int(Duration.parse(ttl) * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ttl") from None
    request = pb.CreateApiTokenRequest(name=name, life_ms=life_ms, grants=grants or (), reason=reason)

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("CreateApiToken", request)
        if as_json:
            echo_json({**token_json(answer.info), "token": answer.token})
            return
        typer.echo(answer.token)
        typer.echo(f"{' '.join(_row(answer.info))}. It is shown this once.", err=True)

    with_operators(controller, work)


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet api-token list --all --json\n\n{EXIT_CODES}")
def list_tokens(
    every: Annotated[bool, typer.Option("--all", help="Also those of the users whom you may manage.")] = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """List API tokens, without their secrets; revoked and expired ones too."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("ListApiTokens", pb.ListApiTokensRequest(all=every))
        if as_json:
            echo_json([token_json(token) for token in answer.tokens])
            return
        print_table(("TOKEN", "NAME", "USER", "STATE", "GRANTS"), map(_row, answer.tokens))

    with_operators(controller, work)


_EXAMPLE_REVOKE = f"""Examples:

    parkfleet fleet api-token revoke nightly-report

    parkfleet fleet api-token revoke pfa_0123456789ab --reason "found in a log"

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_REVOKE)
def revoke(
    token: Annotated[str, typer.Argument(help="Name of one of yours, or how it begins.", metavar="TOKEN")],
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """End an API token, from the next call on."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        typer.echo(" ".join(_row(await client.call("RevokeApiToken", request))))

    # Somebody may paste all of it, which must not travel nor be told: its public part is enough.
    parts = token.split("_")
    public = "_".join(parts[:2]) if token.startswith("pfa_") and len(parts) == 3 else token
    request = pb.RevokeApiTokenRequest(token=public, reason=reason)
    with_operators(controller, work)


def token_json(token: "operators_pb2.ApiToken") -> dict[str, object]:
    """A token, as it stands in --json."""
    return {
        "prefix": token.prefix,
        "name": token.name,
        "user": token.user,
        "grants": list(token.grants),
        "created_at": token.created_ms,
        "expires_at": token.expires_ms,
        "revoked_at": token.revoked_ms or None,
    }


def _row(token: "operators_pb2.ApiToken") -> tuple[str, str, str, str, str]:
    holds = state(token.expires_ms, token.revoked_ms)
    return token.prefix, token.name, token.user, holds, ", ".join(token.grants)
