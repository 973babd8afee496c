"""Run options: what `controller run` was asked for, checked before anything is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parkfleet.proto import limits
from parkfleet.protocols.address import is_everywhere, is_loopback, split_address
from parkfleet.protocols.quantity import Duration

#: The ports for enrolment and for operators follow that of the sessions.
ENROLMENT_OFFSET: Final = 1
OPERATORS_OFFSET: Final = 2
#: Below, gateways would do little else than renew; above, browsers' and brokers' libraries begin to object.
CERTIFICATE_LIFE: Final = (Duration(10), Duration(825 * 86400))


class OptionError(ValueError):
    """An option that cannot be."""

    def __init__(self, option: str, told: str) -> None:
        super().__init__(told)
        self.option = option


@dataclass(frozen=True)
class ControllerOptions:
    """Addresses are host:port."""

    listen: str
    heartbeat: Duration
    data: Path | None = None  # folder of what outlives the process; without it there is nobody to enrol
    enrolment: str = ""
    operators: str = ""
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
    if is_everywhere(host) and not names:
        raise OptionError("--name", _NAME_NEEDED)
    return ControllerOptions(
        listen,
        _duration("--heartbeat", heartbeat, *map(Duration, limits.HEARTBEAT_S)),
        data,
        beside["--enrolment"],
        beside["--operators"],
        names,
        _duration("--certificate-life", certificate_life, *CERTIFICATE_LIFE),
    )


_NAME_NEEDED: Final = "say by which name gateways reach this controller, such as --name fleet.example.org"


def _beside(host: str, port: int, offset: int) -> str:
    if port + offset > 65535:
        raise OptionError("--listen", f"port {port} leaves no room for the two ports after it: name them all")
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
