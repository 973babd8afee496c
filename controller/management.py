"""Management: what people do with people: users, grants, passwords, API tokens; for gRPC and console alike.

Who may call at all, the gate has asked (demands.py); what only the database knows is asked here. The rules:
- nobody gives what they do not hold, nor takes away from somebody who holds more;
- somebody without a grant is managed by admins of the whole fleet;
- an API token is made by its owner alone, and ends with the owner's rights.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from parkfleet.controller.access import FLEET, Grant, Permission, Reach
from parkfleet.controller.caller import Caller, DeniedError
from parkfleet.controller.credentials import API_TOKEN, MAX_TOKEN_S, ApiToken, Credentials, Issued
from parkfleet.controller.operator_certificates import OperatorCertificate, OperatorCertificates
from parkfleet.controller.passwords import Passwords, new_password
from parkfleet.controller.people import MAX_GRANTS, People, PeopleError, User
from parkfleet.controller.tries import Tries, account

#: Characters of an API token's name.
MAX_LABEL: Final = 64


class Added(NamedTuple):
    """A new user; the password where the controller made it."""

    user: User
    password: str


class Management:
    """The people of one controller, as those who manage them see them."""

    def __init__(
        self,
        people: People,
        credentials: Credentials,
        certificates: OperatorCertificates,
        passwords: Passwords,
        tries: Tries,
    ) -> None:
        self._people = people
        self._credentials = credentials
        self._certificates = certificates
        self._passwords = passwords
        self._tries = tries

    async def users(self, who: Caller) -> list[User]:
        """Those whom the caller may manage, in part at least."""
        return [user for user in await self._people.users() if _manages_some(who, user)]

    async def add_user(self, who: Caller, name: str, password: str, grants: Sequence[Grant]) -> Added:
        """A new user; an empty password has one made. Raises DeniedError, PeopleError, ValueError, BusyError."""
        if len(grants) > MAX_GRANTS:
            raise PeopleError(f"a user has at most {MAX_GRANTS} grants: grant a region instead of its parks")
        _need_held(who, grants)
        made = "" if password else new_password()
        return Added(await self._people.add(name, await self._passwords.hash(password or made), grants), made)

    async def change_grant(self, who: Caller, name: str, grant: Grant, revoke: bool) -> User:
        """Gives a grant, or takes it away. Raises DeniedError, PeopleError."""
        _need_held(who, [grant])
        if revoke:
            await self._people.revoke(name, grant)
        else:
            await self._people.grant(name, grant)
        return await self._user(name)

    async def enable(self, who: Caller, name: str, enabled: bool) -> User:
        """Lets a user sign in, or no longer, and ends their sessions then. Raises DeniedError, PeopleError."""
        await self._managed(who, name)
        await self._people.enable(name, enabled)
        if not enabled:
            await self._credentials.close_sessions(name)
        return await self._user(name)

    async def set_password(self, who: Caller, name: str, password: str, current: str) -> str:
        """Another password; the one that was made when none is given. All sessions but the caller's own end.

        Raises DeniedError, PeopleError, ValueError, BusyError, TooManyTriesError.
        """
        mine = name in ("", who.principal.user)
        name = who.principal.user if mine else name
        if mine:
            await self._prove(name, current)
        else:
            await self._managed(who, name)
        made = "" if password else new_password()
        await self._people.set_password(name, await self._passwords.hash(password or made))
        await self._credentials.close_sessions(name, who.principal.credential if mine else "")
        return made

    async def create_token(self, who: Caller, label: str, grants: Sequence[Grant], life_s: float) -> Issued:
        """An API token of the caller's; without grants, with the caller's own. Raises DeniedError, PeopleError."""
        if not label or len(label) > MAX_LABEL or not label.isprintable():
            raise PeopleError(f"a token's name is 1 to {MAX_LABEL} characters: say what it is for")
        if not 0 < life_s <= MAX_TOKEN_S:
            raise PeopleError(f"a token lives for {MAX_TOKEN_S // 86400} days at most: --ttl 90d")
        if len(grants) > MAX_GRANTS:
            raise PeopleError(f"a token has at most {MAX_GRANTS} grants")
        _need_held(who, grants)
        return await self._credentials.create_token(who.principal.user, label, grants or who.principal.grants, life_s)

    async def tokens(self, who: Caller, every: bool) -> list[ApiToken]:
        """The caller's own tokens; every: also those of all whom the caller may manage."""
        owners = await self._owners(who, every)
        return [token for token in await self._credentials.tokens() if token.user in owners]

    async def revoke_token(self, who: Caller, named: str) -> ApiToken:
        """Ends a token: by its id, its prefix, or the name of one's own. Raises PeopleError."""
        identity = named.removeprefix(f"{API_TOKEN}_").partition("_")[0]
        found = [token for token in await self.tokens(who, True) if token.id == identity]
        mine = [token for token in await self.tokens(who, False) if token.name == named and token.revoked_ms is None]
        if not found and not mine:  # one that is not theirs to revoke is not told from one that is not there
            raise PeopleError("there is no such token: see `parkfleet fleet api-token list --all`")
        token = (found or mine)[0]
        await self._credentials.revoke_token(token.id)
        return await self._credentials.token(token.id) or token

    async def issue_certificate(self, who: Caller, request: bytes, life_s: float) -> tuple[bytes, OperatorCertificate]:
        """A certificate (PEM) of the caller's, for the key of a request. Raises PeopleError, RequestError."""
        return await self._certificates.issue(who.principal.user, request, life_s)

    async def certificates(self, who: Caller, every: bool) -> list[OperatorCertificate]:
        """The caller's own certificates; every: also those of all whom the caller may manage."""
        owners = await self._owners(who, every)
        return [one for one in await self._certificates.all() if one.user in owners]

    async def revoke_certificate(self, who: Caller, serial: str) -> OperatorCertificate:
        """Ends a certificate. Raises PeopleError."""
        found = [one for one in await self.certificates(who, True) if one.serial == serial]
        if not found:
            raise PeopleError("there is no such certificate: see `parkfleet fleet user certificate list --all`")
        await self._certificates.revoke(serial)
        return await self._certificates.find(serial) or found[0]

    async def _owners(self, who: Caller, every: bool) -> set[str]:
        """The caller; every: also all whom the caller may manage."""
        others = {user.name for user in await self._people.users() if _manages(who, user)} if every else set()
        return {who.principal.user} | others

    async def _prove(self, name: str, current: str) -> None:
        """Raises PeopleError unless it is the user's password: a session left open is no leave to take it over."""
        subject = account(name)
        await self._tries.begin(subject)
        kept, _ = await self._people.password_of(name) or (None, False)
        if not await self._passwords.matches(kept, current):
            raise PeopleError("that is not the password that holds")
        await self._tries.succeeded(subject)

    async def _managed(self, who: Caller, name: str) -> User:
        """A user all of whose grants the caller holds. Raises DeniedError, PeopleError."""
        user = await self._people.user(name)
        if user is None or not _manages(who, user):
            if who.may(Permission.PEOPLE, Reach.every([FLEET])):
                raise PeopleError(f"there is no user {name!r}: see `parkfleet fleet user list`")
            raise DeniedError(f"{who.principal.signature} may not manage {name!r}: it takes admin over all they may do")
        return user

    async def _user(self, name: str) -> User:
        user = await self._people.user(name)
        if user is None:
            raise PeopleError(f"there is no user {name!r}")
        return user


def _manages(who: Caller, user: User) -> bool:
    """Whether the caller is admin over all that a user may do."""
    scopes = Reach.every(grant.scope for grant in user.grants)  # of none: the whole fleet
    return who.may(Permission.PEOPLE, scopes) and all(
        who.principal.holds(grant, who.belonging.region_of) for grant in user.grants
    )


def _manages_some(who: Caller, user: User) -> bool:
    scopes = [grant.scope for grant in user.grants] or [FLEET]
    return any(who.may(Permission.PEOPLE, Reach.every([scope])) for scope in scopes)


def _need_held(who: Caller, grants: Iterable[Grant]) -> None:
    """Raises DeniedError unless the caller has all that these grants would give."""
    for grant in grants:
        if not who.principal.holds(grant, who.belonging.region_of):
            held = " ".join(map(str, who.principal.cap or who.principal.grants)) or "nothing"
            raise DeniedError(f"{who.principal.signature} cannot give {grant}, which goes beyond their own: {held}")
