"""Run options: what `controller run` was asked for, checked before anything is opened."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from parkfleet.proto import limits
from parkfleet.protocols.address import is_everywhere, is_loopback, split_address
from parkfleet.protocols.quantity import Duration

#: The ports for enrolment, for operators, for metrics and health follow that of the sessions.
ENROLMENT_OFFSET: Final = 1
OPERATORS_OFFSET: Final = 2
WEB_OFFSET: Final = 3
#: Below, gateways would do little else than renew; above, browsers' and brokers' libraries begin to object.
CERTIFICATE_LIFE: Final = (Duration(10), Duration(825 * 86400))


class OptionError(ValueError):
    """An option that cannot be."""

    def __init__(self, option: str, told: str) -> None:
        super().__init__(told)
        self.option = option


@dataclass(frozen=True)
class DatabaseOptions:
    """Where the database is, when it is not a file in the data's folder."""

    url: str = ""  # postgresql://USER@HOST/NAME
    password_file: Path | None = None

    def password(self) -> str | None:
        """What stands in the file; None: PGPASSWORD, PGPASSFILE or ~/.pgpass say it. Raises OSError."""
        return None if self.password_file is None else self.password_file.read_text("utf-8").rstrip("\r\n")


@dataclass(frozen=True)
class WebOptions:
    """Where metrics and health are shown; files make it HTTPS."""

    address: str = ""  # host:port; empty: nowhere
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class ControllerOptions:
    """Addresses are host:port."""

    listen: str
    heartbeat: Duration
    data: Path | None = None  # folder of what outlives the process; without it there is nobody to enrol
    database: DatabaseOptions = DatabaseOptions()
    web: WebOptions = WebOptions()
    enrolment: str = ""
    operators: str = ""
    mutual: str = ""  # for operators with a certificate; empty: nowhere
    names: Sequence[str] = ()
    certificate_life: float = 90 * 86400.0  # of a gateway's, in seconds


def parse_options(
    listen: str,
    heartbeat: str,
    data: Path | None,
    names: Sequence[str],
    enrolment: str,
    operators: str,
    certificate_life: str,
    database: DatabaseOptions = DatabaseOptions(),
    web: WebOptions = WebOptions(),
    mutual: str = "",
) -> ControllerOptions:
    """Raises OptionError."""
    host, port = _address("--listen", listen)
    if data is None and not is_loopback(host):
        told = f"{host} can be reached from the network: add --data DIR, so that gateways have certificates"
        raise OptionError("--listen", f"{told} and nobody else gets in")
    beside = {
        "--enrolment": enrolment or _beside(host, port, ENROLMENT_OFFSET),
        "--operators": operators or _beside(host, port, OPERATORS_OFFSET),
    }
    for option, address in beside.items():
        if is_everywhere(_address(option, address)[0]) and not names:
            raise OptionError("--name", _NAME_NEEDED)
    if mutual and data is None:
        raise OptionError("--operators-mutual", "add --data DIR: without it there is no authority, and nobody signs in")
    hosts = [host, *([_address("--operators-mutual", mutual)[0]] if mutual else [])]
    if any(map(is_everywhere, hosts)) and not names:
        raise OptionError("--name", _NAME_NEEDED)
    return ControllerOptions(
        listen,
        _duration("--heartbeat", heartbeat, *map(Duration, limits.HEARTBEAT_S)),
        data,
        _database(database, data),
        _web(web, port),
        beside["--enrolment"],
        beside["--operators"],
        mutual,
        names,
        _duration("--certificate-life", certificate_life, *CERTIFICATE_LIFE),
    )


def _database(asked: DatabaseOptions, data: Path | None) -> DatabaseOptions:
    if asked.url and data is None:
        raise OptionError("--database", "add --data DIR: the keys of the authority and of the secrets stay in files")
    if asked.url and not asked.url.startswith(("postgresql://", "postgres://")):
        raise OptionError("--database", "expected postgresql://USER@HOST/NAME (a file is the default, in --data DIR)")
    if asked.password_file and not asked.url:
        raise OptionError("--database-password-file", "goes with --database postgresql://…")
    return asked


def _web(asked: WebOptions, port: int) -> WebOptions:
    if (asked.certificate is None) is not (asked.key is None):
        raise OptionError("--web-certificate", "a certificate and its key go together: name both")
    if asked.address == "off":
        return replace(asked, address="")
    address = asked.address or _beside("127.0.0.1", port, WEB_OFFSET)
    _address("--web", address)
    return replace(asked, address=address)


_NAME_NEEDED: Final = "say by which name gateways reach this controller, such as --name fleet.example.org"


def _beside(host: str, port: int, offset: int) -> str:
    if port + offset > 65535:
        raise OptionError("--listen", f"port {port} leaves no room for the ports after it: name them all")
    return f"{host}:{port + offset if port else 0}"


def _address(option: str, text: str) -> tuple[str, int]:
    try:
        return split_address(text)
    except ValueError as error:
        raise OptionError(option, str(error)) from None


def _duration(option: str, text: str, low: Duration, high: Duration) -> Duration:
    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise OptionError(option, str(error)) from None
    if not low <= found <= high:
        raise OptionError(option, f"must be from {low} to {high}, got {found}")
    return found
