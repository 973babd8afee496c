"""TLS faults: why this box and its controller do not trust each other, in a sentence that says what to do."""

import asyncio
import ssl
import time
from typing import Final

from parkfleet.agent.identity import Credentials
from parkfleet.proto.errors import TlsFault
from parkfleet.protocols.address import split_address
from parkfleet.protocols.certificate import CertificateError, Validity, fingerprint, moment, validity

#: For the server's certificate to come, once more, so that its dates can be told. Seconds.
LOOK_S: Final = 10.0


async def told_fault(fault: TlsFault, address: str, ca: bytes) -> str:
    """What a fault means, and what to do. address: host:port of the server; ca: PEM of the authority we trust."""
    match fault:
        case TlsFault.DATES:
            return told_dates(await server_validity(address), time.time())
        case TlsFault.AUTHORITY:
            return (
                f"what answers at {address} is of another authority than the one this box trusts "
                f"({fingerprint(ca).hex()[:16]}…): correct the address, or enrol with a join token of that controller"
            )
        case TlsFault.PURPOSE:
            return f"what answers at {address} has a certificate, but not a controller's: do not trust it"
        case TlsFault.NAME:
            return (
                f"the controller's certificate does not name {split_address(address)[0]}: start it with --name "
                f"{split_address(address)[0].strip('[]')}, or use a name that it has"
            )
        case TlsFault.CLOSED:
            return f"{address} hung up during the TLS handshake: it may speak no TLS, or not accept our certificate"


def told_dates(server: Validity | None, now: float) -> str:
    """When the server's certificate does not hold by our clock."""
    clock = f"by this box's clock it is {moment(now)}"
    if server is None:
        return f"{clock}, and the controller's certificate does not hold then: set the clock (timedatectl, NTP)"
    return (
        f"{clock}, but the controller's certificate holds {server}: one of the two clocks is wrong, most likely "
        "this one. Set it (timedatectl, NTP); the session comes back by itself"
    )


def told_own_dates(own: Credentials, now: float) -> str:
    """When our certificate does not hold by our clock; "" when it does."""
    if own.validity.holds(now):
        return ""
    return f"by this box's clock it is {moment(now)}, its certificate holds {own.validity}"


async def server_validity(address: str) -> Validity | None:
    """The dates of the certificate that a server shows, which proves nothing; None when there is none to see."""
    host, port = split_address(address)

    def look() -> Validity:
        return validity(ssl.get_server_certificate((host.strip("[]"), port), timeout=LOOK_S).encode())

    try:
        return await asyncio.to_thread(look)
    except (OSError, CertificateError):
        return None
