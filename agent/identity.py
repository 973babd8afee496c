"""Identity: a gateway's key and certificate, as files beside gateway.yaml.

identity/ca.pem        whom the gateway trusts: the controller's authority
identity/gateway.pem   its key and its certificate, in one file so that they never disagree; 0600
identity/enrolled.json where it enrolled, and as whom
identity/new-key.pem   the key while it enrols; 0600

Nothing here is loaded that reads certificates as a whole: that is for short-lived commands.
"""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from parkfleet.protocols.certificate import CertificateError, Validity, certificates, private_key, validity
from parkfleet.protocols.files import write_durably

CA: Final = "ca.pem"
PAIR: Final = "gateway.pem"
ENROLLED: Final = "enrolled.json"
NEW_KEY: Final = "new-key.pem"


class IdentityError(Exception):
    """The identity cannot be used; the message says what to do."""


class Credentials(NamedTuple):
    """What a connection to the controller is made with; PEM."""

    ca: bytes
    key: bytes
    chain: bytes
    validity: Validity


class Enrolled(msgspec.Struct, frozen=True):
    """Where and as whom a gateway enrolled. Addresses are host:port."""

    park: str
    gateway: str
    controller: str
    enrolment: str


class IdentityFolder:
    """One gateway's identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def credentials(self) -> Credentials | None:
        """As they are now; None before the gateway has enrolled. Raises IdentityError."""
        try:
            pair = (self.folder / PAIR).read_bytes()
            ca = (self.folder / CA).read_bytes()
            chain = b"".join(certificates(pair))
            certificates(ca)
            return Credentials(ca, private_key(pair), chain, validity(chain))
        except FileNotFoundError:
            return None
        except CertificateError as error:
            raise IdentityError(f"{self.folder} is damaged ({error}): enrol anew with a join token") from None
        except OSError as error:
            raise IdentityError(f"cannot read {self.folder}: {error.strerror}. Is it the agent's user's?") from None

    def enrolled(self) -> Enrolled | None:
        """Where and as whom; None before the gateway has enrolled. Raises IdentityError."""
        try:
            return msgspec.json.decode((self.folder / ENROLLED).read_bytes(), type=Enrolled)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            raise IdentityError(f"{self.folder / ENROLLED} is damaged: enrol anew with a join token") from None
        except OSError as error:
            raise IdentityError(f"cannot read {self.folder / ENROLLED}: {error.strerror}") from None

    def new_key(self, make: Callable[[], bytes]) -> bytes:
        """The key this box enrols with: one it began with before, or a new one; it is on the disk. Raises OSError."""
        path = self.folder / NEW_KEY
        try:
            return private_key(path.read_bytes())
        except (FileNotFoundError, CertificateError):
            key = make()
            write_durably(path, key)
            return key

    def keep(self, key: bytes, certificate: bytes, ca: bytes, enrolled: Enrolled) -> Credentials:
        """A new identity, on the disk when it returns; it counts once the pair is. Raises IdentityError, OSError."""
        _check_pair(key, certificate, self.folder)
        write_durably(self.folder / CA, ca, 0o644)
        write_durably(self.folder / ENROLLED, msgspec.json.encode(enrolled), 0o644)
        write_durably(self.folder / PAIR, key + certificate)
        (self.folder / NEW_KEY).unlink(missing_ok=True)
        found = self.credentials()
        assert found is not None
        return found

    def renewed(self, certificate: bytes, key: bytes | None = None) -> Credentials:
        """A further certificate, of the same key or a new one, on the disk when it returns.

        Raises IdentityError, OSError.
        """
        before = self.credentials()
        if before is None:
            raise IdentityError("this gateway has not enrolled")
        key = key or before.key
        _check_pair(key, certificate, self.folder)
        write_durably(self.folder / PAIR, key + certificate)
        found = self.credentials()
        assert found is not None
        return found


def _check_pair(key: bytes, certificate: bytes, folder: Path) -> None:
    """Raises IdentityError when a certificate is not of a key: what we were given would lock us out."""
    probe = folder / f"{PAIR}.{os.getpid()}.probe"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key + certificate)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(probe)
        validity(certificate)
    except (ssl.SSLError, CertificateError) as error:
        raise IdentityError(f"the controller gave a certificate that is not of this gateway's key ({error})") from None
    finally:
        probe.unlink(missing_ok=True)
