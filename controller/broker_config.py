"""Broker configuration: what mosquitto needs to know gateways by their certificates, and to hold each to its topics.

A gateway's certificate says PARK/GATEWAY, which mosquitto takes for its user name (and client id: nobody can push
another one out): `%u` in a topic is then two levels of it. Consumers have names without a slash, and passwords.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from parkfleet.controller.authority import CA_FILE, Authority, AuthorityError, certificate_of
from parkfleet.controller.gatehouse import CRL_FILE
from parkfleet.protocols.address import split_address
from parkfleet.protocols.certificate import CertificateError, Validity, validity
from parkfleet.protocols.files import write_durably
from parkfleet.protocols.payload.topics import ROOT

#: The broker's own certificate; each call of the command in the last two thirds of its life makes a new one. Days.
BROKER_DAYS: Final = 825
#: A fresh one is kept so far into its life.
KEEP_UNTIL: Final = 1 / 3

CONFIG: Final = "parkfleet.conf"
ACL: Final = "acl"
PAIR: Final = "broker.pem"
PASSWORDS: Final = "passwords"

_CONSUMER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class BrokerSetup:
    """What was asked for. Addresses are host:port."""

    folder: Path
    names: Sequence[str]  # by which gateways and consumers reach the broker
    gateways: str = "0.0.0.0:8883"
    consumers: Sequence[str] = ()
    consumers_at: str = "0.0.0.0:8884"


def is_consumer(name: str) -> bool:
    """Whether a consumer may be called so: it must not pass for a gateway."""
    return _CONSUMER.fullmatch(name) is not None


def mosquitto_config(setup: BrokerSetup) -> str:
    """mosquitto.conf(5), to be included in the main file."""
    host, port = split_address(setup.gateways)
    lines = [
        "# Gateways show their certificates here. Written by `parkfleet controller broker-config mosquitto`.",
        f"listener {port} {host.strip('[]')}",
        *_tls(setup.folder),
        f"crlfile {setup.folder / CRL_FILE}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "",
        "# For all listeners:",
        "allow_anonymous false",
        f"acl_file {setup.folder / ACL}",
    ]
    if setup.consumers:
        host, port = split_address(setup.consumers_at)
        lines += [
            f"password_file {setup.folder / PASSWORDS}",
            "",
            "# Consumers sign in here.",
            f"listener {port} {host.strip('[]')}",
            *_tls(setup.folder),
        ]
    return "\n".join(lines) + "\n"


def mosquitto_acl(consumers: Sequence[str]) -> str:
    """The access list: a gateway writes its own topics, reads its own requests; consumers read all and may request."""
    lines = [f"user {name}\ntopic read {ROOT}/#\ntopic write {ROOT}/+/+/request\n" for name in consumers]
    lines.append("# For each gateway; %u is the PARK/GATEWAY of its certificate.")
    lines += [f"pattern write {ROOT}/%u/{channel}" for channel in ("batch", "event", "status", "schema/+")]
    lines.append(f"pattern read {ROOT}/%u/request")
    return "\n".join(lines) + "\n"


def write_setup(setup: BrokerSetup, data: Path, now: float) -> Validity:
    """Writes it all into the setup's folder; how long the broker's certificate holds. Raises AuthorityError, OSError.

    data: the controller's folder. As root, the files are given to the owner of the setup's folder.
    """
    authority = Authority.existing(data)
    folder = setup.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    dates = _keep_pair(folder / PAIR, authority, setup.names, now)
    try:
        crl = (data / CRL_FILE).read_bytes()
    except FileNotFoundError:
        raise AuthorityError(f"no {CRL_FILE} in {data}: start the controller once") from None
    files = {CA_FILE: authority.pem, CRL_FILE: crl, ACL: mosquitto_acl(setup.consumers).encode()}
    files[CONFIG] = mosquitto_config(setup).encode()
    if setup.consumers and not (folder / PASSWORDS).exists():
        files[PASSWORDS] = b""
    for name, content in files.items():
        write_durably(folder / name, content)
    if os.geteuid() == 0:
        owner = folder.stat()
        for name in (*files, PAIR):
            os.chown(folder / name, owner.st_uid, owner.st_gid)
    return dates


def _keep_pair(path: Path, authority: Authority, names: Sequence[str], now: float) -> Validity:
    """The broker's key and certificate: those that are there, or new ones when it is time or the names are others."""
    try:
        pem = path.read_bytes()
        certificate, dates = certificate_of(pem), validity(pem)
        if authority.signed(certificate) and _names(certificate) == set(names) and now < dates.at(KEEP_UNTIL):
            return dates
    except (FileNotFoundError, ValueError, CertificateError):
        pass
    key, chain = authority.server(names, now, BROKER_DAYS * 86400.0)
    write_durably(path, key + chain)
    return validity(chain)


def _names(certificate: x509.Certificate) -> set[str]:
    """By which a server may be called."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in found}


def _tls(folder: Path) -> list[str]:
    return [f"cafile {folder / CA_FILE}", f"certfile {folder / PAIR}", f"keyfile {folder / PAIR}"]
