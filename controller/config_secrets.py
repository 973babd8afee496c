"""SecretBox: secrets encrypted at rest, with a key that stands in a file beside the database.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits; the secret's name is authenticated with it, so that rows
cannot be swapped. Whoever has only the database, or a backup of it, has no secret.
"""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class SecretError(Exception):
    """A secret, or the key, cannot be used; the message says what to do."""


class SecretBox:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def at(cls, path: Path) -> "SecretBox":
        """With the key in a file, which is made (0600) if it is not there. Raises SecretError."""
        try:
            return cls(_read(path))
        except FileNotFoundError:
            _write_new(path, secrets.token_bytes(KEY_BYTES))
            return cls(_read(path))

    def seal(self, name: str, value: bytes) -> bytes:
        """A secret encrypted. Raises SecretError."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, value, name.encode())

    def open(self, name: str, box: bytes) -> bytes:
        """What was sealed under that name. Raises SecretError."""
        cipher = self._cipher()
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            raise SecretError(
                f"secret {name!r} cannot be opened: the database is of another key. Bring back the key file that "
                f"belongs to it, or set the secret anew"
            ) from None

    def _cipher(self) -> "AESGCM":
        """Imported where a secret is used: a controller without secrets needs no cryptography."""
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError:
            raise SecretError(
                "secrets need the controller's own packages: pip install 'parkfleet[controller]'"
            ) from None
        return AESGCM(self._key)


def _read(path: Path) -> bytes:
    """Raises FileNotFoundError, SecretError."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SecretError(f"cannot read the key of the secrets, {path}: {error.strerror}") from None
    if len(key) != KEY_BYTES:
        raise SecretError(
            f"{path} is no key of ours: {KEY_BYTES} bytes expected, {len(key)} found. Bring back the right one"
        )
    return key


def _write_new(path: Path, key: bytes) -> None:
    """Atomically, and never over another one: a key that is lost takes its secrets along."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return  # another process was faster: its key holds
    finally:
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
