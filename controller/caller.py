"""Caller: who the call that runs is from; what services ask before they answer.

The gate sets it for the time of a call, whatever the call came by: gRPC, the console, a command on the machine.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from parkfleet.controller.access import LEAST, Permission, Principal, Reach, Scope
from parkfleet.controller.registry import GatewayKey


class DeniedError(Exception):
    """Somebody may not do what they asked for; the message is for them and for the audit log."""


class Proof(NamedTuple):
    """What a caller shows of who they are; nothing: neither."""

    token: str = ""  # of a session, or an API token
    certificate: bytes = b""  # PEM, that TLS has let through


class Belonging(Protocol):
    """What lies where, by the fleet's configuration."""

    def region_of(self, park: str) -> str | None:
        """The region of a park; None: it is in none."""

    def parks_of_region(self, region: str) -> set[str]:
        """The parks that say they are in a region."""

    def parks_of_label(self, label: str) -> set[str]:
        """The parks in which a label is said, by the park's own layer or a gateway's."""


class Nowhere:
    """The belonging of a fleet without configuration."""

    def region_of(self, park: str) -> str | None:
        return None

    def parks_of_region(self, region: str) -> set[str]:
        return set()

    def parks_of_label(self, label: str) -> set[str]:
        return set()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls, from where, and what their scopes mean at this moment."""

    principal: Principal
    peer: str  # address, without the port
    belonging: Belonging

    def may(self, permission: Permission, reach: Reach) -> bool:
        """Whether they may do that there."""
        return self.principal.may(permission, reach, self.belonging.region_of)

    def sees(self, park: str) -> bool:
        """Whether they may see a park."""
        return self.may(Permission.SEE, Reach.every((Scope.park(park),)))

    def need(self, permission: Permission, reach: Reach) -> None:
        """Raises DeniedError when they may not."""
        if not self.may(permission, reach):
            raise DeniedError(denied(self.principal, permission, reach))


def denied(principal: Principal, permission: Permission, reach: Reach) -> str:
    """Why somebody may not, and what would help."""
    where = " and ".join(str(scope) for scope in reach.scopes[:3]) or "any part of the fleet"
    more = f" and {len(reach.scopes) - 3} more" if len(reach.scopes) > 3 else ""
    held = ", ".join(map(str, principal.grants if principal.cap is None else principal.cap)) or "nothing"
    return (
        f"{principal.signature} may not {permission.value} in {where}{more}: it takes "
        f"{LEAST[permission].word} there, granted is {held}"
    )


_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Who the call that runs is from. Raises LookupError where no gate was passed: nothing is answered then."""
    return _CALLER.get()


def enter(who: Caller) -> None:
    """Sets it for the rest of the task that serves the call."""
    _CALLER.set(who)


def visible_gateways(keys: list[GatewayKey]) -> list[GatewayKey]:
    """Those of them that the caller may see."""
    who = caller()
    seen = {park: who.sees(park) for park in {key.park for key in keys}}
    return [key for key in keys if seen[key.park]]
