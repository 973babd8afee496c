"""Access: who may do what, where. Pure.

A role holds everything that the roles below it hold, a scope everything that lies in it. Invariants:
- nothing is allowed that no grant says;
- an API token may do what both its own grants and its owner's grants of that moment allow, never more;
- nobody hands out what they do not hold.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple, TypeAlias

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")

#: The region that a park is in, by the park's layer; None: in none.
RegionOf: TypeAlias = Callable[[str], str | None]


class Role(IntEnum):
    """What a person is for; a higher one may do all that a lower one may."""

    VIEWER = 1  # sees
    OPERATOR = 2  # runs gateways: their configuration, their enrolment, remote hands
    ADMIN = 3  # decides on people and secrets, reads the audit log

    @property
    def word(self) -> str:
        """As people write it."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Role":
        """Raises ValueError with a sentence for the user."""
        found = {role.word: role for role in cls}.get(word)
        if found is None:
            raise ValueError(f"expected viewer, operator or admin, got {word!r}")
        return found


class Permission(Enum):
    """A kind of deed; the value completes "may not …"."""

    SEE = "see gateways and their configuration"
    CONFIGURE = "change the configuration"
    ACT = "work on gateways"  # remote hands
    ENROL = "enrol or revoke gateways"  # join tokens, too
    SECRETS = "change secrets"
    PEOPLE = "manage people"  # users, their grants and passwords
    AUDIT = "read the audit log"


#: The lowest role that may do it.
LEAST: Final = {
    Permission.SEE: Role.VIEWER,
    Permission.CONFIGURE: Role.OPERATOR,
    Permission.ACT: Role.OPERATOR,
    Permission.ENROL: Role.OPERATOR,
    Permission.SECRETS: Role.ADMIN,
    Permission.PEOPLE: Role.ADMIN,
    Permission.AUDIT: Role.ADMIN,
}


class Scope(NamedTuple):
    """A part of the fleet: fleet (all of it), region/NAME, park/NAME."""

    kind: str  # fleet | region | park
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Raises ValueError with a sentence for the user."""
        kind, slash, name = text.partition("/")
        if text == "fleet" or (slash and kind in ("region", "park") and _ID.fullmatch(name)):
            return cls(kind, name)
        raise ValueError(f"expected fleet, region/NAME or park/NAME, got {text!r}")

    @classmethod
    def park(cls, name: str) -> "Scope":
        """One park."""
        return cls("park", name)

    @classmethod
    def region(cls, name: str) -> "Scope":
        """The parks of a region, also those that are not there yet."""
        return cls("region", name)

    def covers(self, other: "Scope", region_of: RegionOf) -> bool:
        """Whether all of the other lies in this one."""
        if self.kind == "fleet" or self == other:
            return True
        return self.kind == "region" and other.kind == "park" and region_of(other.name) == self.name


FLEET: Final = Scope("fleet")


class Grant(NamedTuple):
    """A role in a scope."""

    role: Role
    scope: Scope

    def __str__(self) -> str:
        return f"{self.role.word}@{self.scope}"

    @classmethod
    def parse(cls, text: str) -> "Grant":
        """ROLE@SCOPE. Raises ValueError with a sentence for the user."""
        role, at, scope = text.partition("@")
        if not at:
            raise ValueError(f"expected ROLE@SCOPE such as operator@park/p1 or viewer@fleet, got {text!r}")
        return cls(Role.parse(role), Scope.parse(scope))

    def allows(self, permission: Permission, scope: Scope, region_of: RegionOf) -> bool:
        """Whether this alone allows a deed in all of a scope."""
        return self.role >= LEAST[permission] and self.scope.covers(scope, region_of)


class Mode(Enum):
    """How much of its reach a deed needs rights over."""

    EVERY = "every"  # all of it: changes
    ANY = "any"  # one scope of it: what several share, and each of them sees
    SOMEWHERE = "somewhere"  # anything at all: what it answers is filtered


class Reach(NamedTuple):
    """Where a deed takes effect. An empty EVERY or ANY means the whole fleet: forgetting something opens nothing."""

    mode: Mode
    scopes: tuple[Scope, ...] = ()

    @classmethod
    def every(cls, scopes: Iterable[Scope]) -> "Reach":
        """All of these."""
        return cls(Mode.EVERY, tuple(scopes))

    @classmethod
    def any(cls, scopes: Iterable[Scope]) -> "Reach":
        """One of these at least."""
        return cls(Mode.ANY, tuple(scopes))


WHOLE_FLEET: Final = Reach(Mode.EVERY, (FLEET,))
SOMEWHERE: Final = Reach(Mode.SOMEWHERE)


class Via(Enum):
    """How somebody showed who they are."""

    SESSION = "session"  # signed in with a password
    API_TOKEN = "api token"
    CERTIFICATE = "certificate"
    MACHINE = "machine"  # a command on the controller's own machine
    OPEN = "open"  # the controller asks nobody who they are


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was recognised, with what they may do at that moment."""

    user: str
    via: Via
    grants: tuple[Grant, ...]
    cap: tuple[Grant, ...] | None = None  # of an API token: its own grants; None: no cap
    credential: str = ""  # public id of the session, token or certificate
    label: str = ""  # name of the API token

    @property
    def signature(self) -> str:
        """How the history names them."""
        return f"{self.user} ({self.via.value} {self.label})" if self.via is Via.API_TOKEN else self.user

    def may(self, permission: Permission, reach: Reach, region_of: RegionOf) -> bool:
        """Whether they may do that there."""
        if reach.mode is Mode.SOMEWHERE:
            return all(any(grant.role >= LEAST[permission] for grant in held) for held in self._held())
        choose = all if reach.mode is Mode.EVERY else any
        return choose(self._allowed(permission, scope, region_of) for scope in reach.scopes or (FLEET,))

    def holds(self, grant: Grant, region_of: RegionOf) -> bool:
        """Whether they have all that a grant would give."""
        return all(
            any(own.role >= grant.role and own.scope.covers(grant.scope, region_of) for own in held)
            for held in self._held()
        )

    def _allowed(self, permission: Permission, scope: Scope, region_of: RegionOf) -> bool:
        return all(any(grant.allows(permission, scope, region_of) for grant in held) for held in self._held())

    def _held(self) -> tuple[tuple[Grant, ...], ...]:
        """The lists of grants each of which must allow a deed."""
        return (self.grants,) if self.cap is None else (self.grants, self.cap)


#: Everybody, at a controller that asks nobody who they are.
EVERYBODY: Final = Principal("", Via.OPEN, (Grant(Role.ADMIN, FLEET),))
