"""Passwords: argon2id hashes of them, made and compared at a bounded rate beside the event loop.

Costs are those of RFC 9106, second recommended option (64 MiB, three passes): that is argon2-cffi's default. A hash
says its own costs, so raising them later needs no migration. A name that nobody has is compared too, against a hash of
nothing: time tells no one which names there are.
"""

import asyncio
import secrets
import unicodedata
from base64 import b64encode
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

#: NIST SP 800-63B asks for 8, or for 15 where there is no second factor; tries.py bounds guessing. Characters.
LEAST_CHARACTERS: Final = 12
#: Longer ones are hashed all the same, so a bound keeps a hostile one from costing. Bytes.
MOST_BYTES: Final = 1024
#: Comparisons at once; each takes 64 MiB and some 100 ms of a core, and the fleet needs the other one.
AT_ONCE: Final = 2
#: Comparisons that wait for their turn; beyond, the caller is asked to come back. They wait a second at most.
WAITING: Final = 16

#: Without what is easily taken for another: 0 O, 1 l I.
_ALPHABET: Final = "23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"


class BusyError(Exception):
    """Too many passwords are being compared; the message says to come back."""


class Passwords:
    """Hashes and compares."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._nobodys = _nobodys(self._hasher)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is kept of a password. Raises ValueError with a sentence for the user, BusyError."""
        check(password)
        return str(await self._run(self._hasher.hash, _normal(password)))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether it is the password; kept None: of nobody, which takes as long. Raises BusyError."""
        if len(password.encode("utf-8", "replace")) > MOST_BYTES:  # nobody's
            kept, password = None, ""
        return bool(await self._run(self._compare, kept, password)) and kept is not None

    async def _run(self, work: object, *arguments: object) -> object:
        if self._waiting >= WAITING:
            raise BusyError("too many people are signing in at this moment: try again in a few seconds")
        self._waiting += 1
        try:
            async with self._turn:
                assert callable(work)
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._waiting -= 1

    def _compare(self, kept: str | None, password: str) -> bool:
        try:
            return self._hasher.verify(kept or self._nobodys, _normal(password))
        except (VerificationError, InvalidHashError):
            return False


def check(password: str) -> None:
    """Raises ValueError with a sentence for the user when it cannot be taken."""
    if len(password) < LEAST_CHARACTERS:
        raise ValueError(f"a password has at least {LEAST_CHARACTERS} characters: a few words will do")
    if len(password.encode()) > MOST_BYTES:
        raise ValueError(f"a password has at most {MOST_BYTES} bytes")
    if len(set(password)) < 4:
        raise ValueError("that is the same few characters again and again: choose another")


def new_password() -> str:
    """A random one that can be typed: 20 characters of 56, 116 bits."""
    word = "".join(secrets.choice(_ALPHABET) for _ in range(20))
    return "-".join(word[at : at + 5] for at in range(0, 20, 5))


def _normal(password: str) -> str:
    """The same bytes however a keyboard composes its characters."""
    return unicodedata.normalize("NFKC", password)


def _nobodys(hasher: PasswordHasher) -> str:
    """A hash that no password has, at the costs of all others."""
    salt, digest = (b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"
