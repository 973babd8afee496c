"""First admin: who signs in first at a controller that has nobody yet, and how they get their password: once."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from parkfleet.controller.authority import Authority
from parkfleet.controller.config_access import ConfigBelonging
from parkfleet.controller.operators import FIRST_ADMIN, Operators
from parkfleet.controller.storage import Storage
from parkfleet.protocols.files import write_durably


async def open_operators(storage: Storage, authority: Authority, folder: Path, say: Callable[[str], None]) -> Operators:
    """The people of a controller; the first admin where there is nobody yet, whose password is said once.

    Raises OSError, one of UNAVAILABLE.
    """
    operators = Operators(storage.database, ConfigBelonging(storage.config), authority=authority)
    password = await operators.make_first_admin()
    if password is None:
        return operators
    if _is_journal(sys.stdout.fileno()):
        file = folder / "first-password"
        write_durably(file, f"{password}\n".encode())
        say(f"the first user is {FIRST_ADMIN}, with the password in {file}: change it, and remove the file")
    else:
        say(f"the first user is {FIRST_ADMIN}, password (shown this once): {password}")
    return operators


def _is_journal(descriptor: int) -> bool:
    """Whether what is written there is kept by journald: a password does not belong there (systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    found = os.fstat(descriptor)
    return stream == f"{found.st_dev}:{found.st_ino}"
