"""Server certificate: the controller's own, which it makes anew by itself, also while connections come and go."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, cast

import grpc

from parkfleet.controller.authority import SERVER_DAYS, Authority
from parkfleet.protocols.certificate import Validity, validity

log = logging.getLogger(__name__)

#: A new one is made when so much of its life is over.
RENEW_AT: Final = 2 / 3


class ServerCertificate:
    """In memory only: whoever trusts the authority trusts the next one too.

    gRPC asks for it at every handshake, in threads of its own. clock: seconds since 1970. Raises ValueError for what is
    no name of a server.
    """

    def __init__(
        self,
        authority: Authority,
        names: Sequence[str],
        clock: Callable[[], float],
        life_s: float = SERVER_DAYS * 86400.0,
    ) -> None:
        self._authority = authority
        self._names = names
        self._clock = clock
        self._life_s = life_s
        self._lock = threading.Lock()
        self._pair, self._validity = self._made()

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """For a listener. mutual: only who has a certificate of the authority gets through the handshake."""
        given = [self._pair]
        roots = self._authority.pem if mutual else None

        def configuration(pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([pair], roots)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            pair = self._current()
            if pair is given[0]:
                return None
            given[0] = pair
            return configuration(pair)

        # None is how "the same" is said; the stub does not know.
        fetcher = cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
        return grpc.dynamic_ssl_server_credentials(configuration(given[0]), fetcher, mutual)

    def _current(self) -> tuple[bytes, bytes]:
        with self._lock:
            now = self._clock()
            if not self._validity.begin <= now < self._validity.at(RENEW_AT):
                self._pair, self._validity = self._made()
                log.info("the controller has a new certificate for itself, good %s", self._validity)
            return self._pair

    def _made(self) -> tuple[tuple[bytes, bytes], Validity]:
        key, chain = self._authority.server(self._names, self._clock(), self._life_s)
        return (key, chain), validity(chain)
