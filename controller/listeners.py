"""Listeners: the controller's ports, each a server of its own, so that none serves what belongs to another.

Guarded, there are three: sessions, for gateways with a certificate (mutual TLS); enrolment, for boxes that have none
(TLS); operators (TLS, behind the gate), whose server has another port for those who show a certificate (mutual TLS),
where that is asked for. Without an authority all stands on one plain port, for one machine.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from grpc import aio

from parkfleet.controller.fleet import MAX_WATCHERS
from parkfleet.controller.guard import Careful
from parkfleet.controller.registry import MAX_GATEWAYS
from parkfleet.proto import limits
from parkfleet.protocols.address import is_everywhere, split_address

if TYPE_CHECKING:
    from parkfleet.controller.gatehouse import Gatehouse

#: Calls at once: strangers get a small part of the machine; operators have their watches and some calls beside.
MAX_STRANGERS: Final = 200
MAX_OPERATORS: Final = MAX_WATCHERS + 200
#: A session, and a renewal now and then.
MAX_SESSIONS: Final = MAX_GATEWAYS + 1000

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    # A second controller on the same port is a mistake to be told, not a way to share the load.
    ("grpc.so_reuseport", 0),
    # A box that lost its power leaves a half-open connection behind: found within 80 s, also before its hello.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Agents ping every 120 s; at the default (300 s) they would be thrown out for pinging too much.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    # No ping after each message to measure the link: on a session's few bytes it would double a 4G link's data.
    ("grpc.http2.bdp_probe", 0),
)
#: A gateway has one session on its connection, and renews its certificate beside it now and then.
_SESSION_OPTIONS: Final = (*_OPTIONS, ("grpc.max_concurrent_streams", 8))
_ENROLMENT_OPTIONS: Final = (("grpc.max_receive_message_length", limits.MAX_ENROLMENT_BYTES), *_OPTIONS[1:])


class BindError(Exception):
    """The address cannot be listened on; the message says why and what to do."""


@dataclass(frozen=True)
class Gates:
    """Who guards the ports, and which there are beside that of the sessions."""

    house: "Gatehouse"
    enrolment: str = "127.0.0.1:0"
    operators: str = "127.0.0.1:0"
    mutual: str = ""  # for operators with a certificate; empty: nowhere
    names: Sequence[str] = ()  # by which gateways reach the controller; the first stands in join tokens


@dataclass(frozen=True)
class PublicAddresses:
    """Where gateways reach this controller: host:port."""

    sessions: str
    enrolment: str


@dataclass(frozen=True)
class Port:
    """One listener. address is host:port with the real port."""

    server: aio.Server
    address: str


@dataclass(frozen=True)
class Listeners:
    """All of them; bound, and not started yet. sessions and operators may be one."""

    sessions: Port
    operators: Port
    enrolment: Port | None = None
    public: PublicAddresses | None = None
    mutual: str = ""  # host:port of operators with a certificate; their server is the operators' own

    @property
    def servers(self) -> list[aio.Server]:
        """Each once."""
        ports = (self.sessions, self.operators, self.enrolment)
        return list(dict.fromkeys(port.server for port in ports if port is not None))

    async def start(self) -> None:
        """Takes calls from now on."""
        for server in self.servers:
            await server.start()

    async def stop(self, grace_s: float | None) -> None:
        """Takes no more calls, and ends those that are still there after so long."""
        await asyncio.gather(*(server.stop(grace_s) for server in self.servers))


def plain_listeners(address: str, interceptors: Sequence[aio.ServerInterceptor]) -> Listeners:
    """One port for everything, for whoever reaches it. Raises BindError."""
    port = _listen(address, None, MAX_SESSIONS + MAX_OPERATORS, interceptors=interceptors)
    return Listeners(port, port)


def guarded_listeners(
    address: str, gates: Gates, interceptors: Sequence[aio.ServerInterceptor], clock: Callable[[], float]
) -> Listeners:
    """A port for each kind of guest; interceptors stand before operators. clock: seconds since 1970.

    Raises BindError.
    """
    from parkfleet.controller.server_certificate import ServerCertificate

    asked = (address, gates.enrolment, gates.operators, *([gates.mutual] if gates.mutual else []))
    names = [*gates.names, *(host for host, _ in map(split_address, asked) if not is_everywhere(host))]
    certificate = ServerCertificate(gates.house.authority, [*names, "localhost", "127.0.0.1", "::1"], clock)
    sessions = _listen(address, certificate.credentials(mutual=True), MAX_SESSIONS, _SESSION_OPTIONS)
    tls = certificate.credentials(mutual=False)  # gRPC takes them for one port
    enrolment = _listen(gates.enrolment, tls, MAX_STRANGERS, _ENROLMENT_OPTIONS, [Careful()])
    tls = certificate.credentials(mutual=False)
    operators = _listen(gates.operators, tls, MAX_OPERATORS, interceptors=interceptors)
    mutual = ""
    if gates.mutual:
        mutual = _bind(operators.server, gates.mutual, certificate.credentials(mutual=True))
    public = PublicAddresses(_public(names, sessions.address), _public(names, enrolment.address))
    return Listeners(sessions, operators, enrolment, public, mutual)


def _listen(
    address: str,
    credentials: grpc.ServerCredentials | None,
    calls: int,
    options: Sequence[tuple[str, int]] = _OPTIONS,
    interceptors: Sequence[aio.ServerInterceptor] = (),
) -> Port:
    """A server with a port, which it has from now on. Raises BindError."""
    server = aio.server(options=options, maximum_concurrent_rpcs=calls, interceptors=interceptors)
    return Port(server, _bind(server, address, credentials))


def _bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Gives a server a port; host:port with the real one. Raises BindError."""
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise BindError(
            f"cannot listen on {address}: another process has the port, or the address is not of this machine"
        ) from None
    return f"{split_address(address)[0]}:{port}"


def _public(names: Sequence[str], address: str) -> str:
    """An address as gateways are to call it."""
    host, port = split_address(address)
    name = names[0] if names else host
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"
