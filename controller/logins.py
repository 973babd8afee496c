"""Logins: where the command line keeps the sessions it has signed in to, so that it asks for a password once a day.

One file of the user's own (0600), ~/.config/parkfleet/logins.json, or in XDG_CONFIG_HOME: of each controller its
address, the certificate of its authority as it was at the first login, and the session's token. A script brings an API
token in PARKFLEET_TOKEN, or in the file that PARKFLEET_TOKEN_FILE names, instead.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from parkfleet.protocols.files import write_durably

TOKEN_VARIABLE: Final = "PARKFLEET_TOKEN"
TOKEN_FILE_VARIABLE: Final = "PARKFLEET_TOKEN_FILE"


class LoginError(Exception):
    """A login cannot be read or kept; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Login:
    """One controller that was signed in to."""

    address: str  # host:port
    user: str
    token: str = ""  # empty: signed out
    expires_ms: int = 0
    ca: str = ""  # PEM; empty: the controller is on this machine, and nothing is encrypted


class Logins:
    """The file of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def mine(cls) -> "Logins":
        """Those of the user who runs this process."""
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return cls(Path(home) / "parkfleet" / "logins.json")

    def find(self, address: str) -> Login | None:
        """What is kept of a controller. Raises LoginError."""
        return self._read()[1].get(address)

    def current(self) -> Login | None:
        """The controller that was signed in to last. Raises LoginError."""
        current, logins = self._read()
        return logins.get(current)

    def keep(self, login: Login) -> None:
        """Keeps a login, as the current one. Raises LoginError."""
        self._write(login.address, {**self._read()[1], login.address: login})

    def _read(self) -> tuple[str, dict[str, Login]]:
        try:
            if self._path.stat().st_mode & 0o077:
                raise LoginError(f"{self._path} can be read by others: chmod 600 {self._path}")
            data = json.loads(self._path.read_text("utf-8"))
            logins = {one["address"]: _login(one) for one in data["logins"]}
            return str(data["current"]), logins
        except FileNotFoundError:
            return "", {}
        except OSError as error:
            raise LoginError(f"cannot read {self._path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise LoginError(f"{self._path} is damaged: remove it, and sign in again") from None

    def _write(self, current: str, logins: dict[str, Login]) -> None:
        text = json.dumps({"current": current, "logins": [asdict(login) for login in logins.values()]}, indent=1)
        try:
            write_durably(self._path, text.encode())
        except OSError as error:
            raise LoginError(f"cannot write {self._path}: {error.strerror}") from None


def token_from_environment() -> str:
    """The API token that a script brings; "" for none. Raises LoginError."""
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    path = os.environ.get(TOKEN_FILE_VARIABLE)
    if not path:
        return ""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LoginError(f"cannot read {path}, which {TOKEN_FILE_VARIABLE} names: {error}") from None


def _login(data: dict[str, object]) -> Login:
    """Raises TypeError, KeyError for what is none."""
    login = Login(**{field.name: data[field.name] for field in fields(Login)})  # type: ignore[arg-type]
    if not all(type(getattr(login, field.name)) is field.type for field in fields(Login)):
        raise TypeError("another type")
    return login
