"""Command group `parkfleet fleet user certificate`: certificates that stand for a session."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parkfleet.controller.call import DEFAULT, Controller
from parkfleet.controller.operators_call import EXIT_CODES, Json, Reason, echo_json, print_table, state, with_operators

if TYPE_CHECKING:
    from parkfleet.controller.operators_client import OperatorsClient
    from parkfleet.proto import operators_pb2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Certificates of yours, which stand for a session on the port for them.",
    epilog="Example: parkfleet fleet user certificate create alice.pem --ttl 90d",
)

_EXAMPLE_CREATE = f"""Examples:

    parkfleet fleet user certificate create alice.pem --ttl 90d

    PARKFLEET_CERTIFICATE=alice.pem parkfleet fleet --ca ca.pem list --controller fleet.example.org:7447

The key is made here, and never leaves this machine; the file, with key and certificate, is readable for you alone. It
may do what you may, but not make further certificates or tokens, nor change a password. The controller needs a port for
those who show one: `controller run --operators-mutual HOST:PORT`.

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_CREATE)
def create(
    file: Annotated[Path, typer.Argument(help="A new file.", metavar="FILE")],
    ttl: Annotated[str, typer.Option(help="So long it holds: 12h, 90d; at most 366d.")] = "90d",
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """Make a key and a certificate of yours."""
    from parkfleet.proto import operators_pb2 as pb
    from parkfleet.protocols.files import write_durably
    from parkfleet.protocols.quantity import Duration

    if file.exists():
        raise typer.BadParameter(f"{file} is there already: choose another name", param_hint="FILE")
    try:
        life_ms = int(Duration.parse(ttl) * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ttl") from None
    key, request = _new_key()

    async def work(client: "OperatorsClient") -> None:
        wish = pb.IssueCertificateRequest(request=request, life_ms=life_ms, reason=reason)
        answer = await client.call("IssueCertificate", wish)
        write_durably(file, key + answer.certificate)
        typer.echo(f"{file}: certificate {' '.join(_row(answer.info))}")

    with_operators(controller, work)


@app.command("list", epilog=f"Example:\n\n    parkfleet fleet user certificate list --all\n\n{EXIT_CODES}")
def list_certificates(
    every: Annotated[bool, typer.Option("--all", help="Also those of the users whom you may manage.")] = False,
    controller: Controller = DEFAULT,
    as_json: Json = False,
) -> None:
    """List certificates of operators; revoked and expired ones too."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        answer = await client.call("ListCertificates", pb.ListCertificatesRequest(all=every))
        if as_json:
            echo_json([certificate_json(one) for one in answer.certificates])
            return
        print_table(("SERIAL", "USER", "STATE"), map(_row, answer.certificates))

    with_operators(controller, work)


_EXAMPLE_REVOKE = f"""Example:

    parkfleet fleet user certificate revoke 1c7d0a --reason "laptop stolen"

{EXIT_CODES}"""


@app.command(epilog=_EXAMPLE_REVOKE)
def revoke(
    serial: Annotated[str, typer.Argument(help="Its number, as `list` shows it.", metavar="SERIAL")],
    reason: Reason = "",
    controller: Controller = DEFAULT,
) -> None:
    """End a certificate, from the next call on."""
    from parkfleet.proto import operators_pb2 as pb

    async def work(client: "OperatorsClient") -> None:
        request = pb.RevokeCertificateRequest(serial=serial, reason=reason)
        typer.echo(" ".join(_row(await client.call("RevokeCertificate", request))))

    with_operators(controller, work)


def certificate_json(one: "operators_pb2.OperatorCertificate") -> dict[str, object]:
    """A certificate, as it stands in --json."""
    times = {"created_at": one.issued_ms, "expires_at": one.expires_ms, "revoked_at": one.revoked_ms or None}
    return {"serial": one.serial, "user": one.user, **times}


def _row(one: "operators_pb2.OperatorCertificate") -> tuple[str, str, str]:
    return one.serial, one.user, state(one.expires_ms, one.revoked_ms)


def _new_key() -> tuple[bytes, bytes]:
    """(key as PEM, a request for its certificate as DER)."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        typer.echo("a key is made with the controller's own packages: pip install 'parkfleet[controller]'", err=True)
        raise typer.Exit(3) from None
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    encoding, form = serialization.Encoding, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding.PEM, form, serialization.NoEncryption())
    return pem, request.public_bytes(encoding.DER)
