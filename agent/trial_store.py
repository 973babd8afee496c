"""TrialStore: configurations from the controller, and the ledger of them, on the gateway's disk.

In the folder `managed` beside gateway.yaml: ledger.json, REVISION-HASH.yaml of each configuration that is still needed,
and secrets/NAME-HASH of each secret (0600). Every file is written whole to a temporary one, synced, renamed, and its
folder synced: after a power cut a file is the old one or the new one.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from parkfleet.agent.configuration import Configuration, check_configuration
from parkfleet.agent.status import ConfigurationName
from parkfleet.agent.trial import Baseline, Ledger, Phase
from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.secret import is_secret_name, references, with_files

FOLDER: Final = "managed"
LEDGER: Final = "ledger.json"


class _Name(msgspec.Struct):
    revision: int
    hash: str


class _Baseline(msgspec.Struct):
    controller: bool = False
    broker: bool = False
    meters: list[str] = []


class _Ledger(msgspec.Struct):
    """The ledger as it stands on the disk."""

    confirmed: _Name
    phase: str
    candidate: _Name | None = None
    starts: int = 0
    before: _Baseline = msgspec.field(default_factory=_Baseline)
    received: _Name | None = None
    failed: _Name | None = None
    failure: str = ""


class TrialStore:
    """One gateway's. step is told before and after each write, by name: for tests that end the process there."""

    def __init__(self, configured: Path, step: Callable[[str], None] = lambda _: None) -> None:
        """configured: the installer's gateway.yaml."""
        self._base = configured.resolve().parent
        self.folder = self._base / FOLDER
        self._step = step

    def read_ledger(self) -> Ledger:
        """The ledger; a new one when there is none. One that is damaged counts as none: it runs the installer's file.

        Raises OSError.
        """
        try:
            raw = msgspec.json.decode((self.folder / LEDGER).read_bytes(), type=_Ledger)
            return Ledger(
                confirmed=_name(raw.confirmed) or ConfigurationName(),
                phase=Phase(raw.phase),
                candidate=_name(raw.candidate),
                starts=raw.starts,
                before=Baseline(raw.before.controller, raw.before.broker, frozenset(raw.before.meters)),
                received=_name(raw.received),
                failed=_name(raw.failed),
                failure=raw.failure,
            )
        except FileNotFoundError:
            return Ledger()
        except (msgspec.DecodeError, ValueError):
            return Ledger()

    def write_ledger(self, ledger: Ledger) -> None:
        """Returns when it is on the disk. Raises OSError."""
        data = {**asdict(ledger), "phase": ledger.phase.value}
        self._write(self.folder / LEDGER, msgspec.json.encode(data), f"ledger {ledger.phase.value}")

    def stage(self, name: ConfigurationName, document: bytes, secrets: Mapping[str, bytes]) -> None:
        """Puts a configuration and its secrets on the disk. Raises DocumentError, OSError."""
        for secret, value in secrets.items():
            if not is_secret_name(secret):
                raise DocumentError([Problem(str(name.revision), 0, 0, "", f"a secret is called {secret[:80]!r}")])
            self._write(self._secret(name, secret), value, "secret")
        self._write(self._document(name), document, "document")

    def load(self, name: ConfigurationName) -> Configuration:
        """A staged configuration, checked as gateway.yaml is; paths in it start where gateway.yaml's do.

        Raises DocumentError with every mistake.
        """
        document = Document.read(self._document(name))
        missing = [
            document.problem(found.where, found.told or f"secret {found.name!r} was not sent")
            for found in references(document.data)
            if found.told or not self._secret(name, found.name).is_file()
        ]
        if missing:
            raise DocumentError(missing)
        document.data = with_files(document.data, lambda secret: str(self._secret(name, secret)))
        checked = check_configuration(document, self._base)
        return Configuration(checked.gateway, checked.profiles, checked.folder, name.hash)

    def tidy(self, ledger: Ledger) -> None:
        """Removes what no name in the ledger needs any more. What cannot be removed stays: it does no harm."""
        names = [name for name in (ledger.confirmed, ledger.candidate) if name is not None and name.revision]
        keys = {_key(name) for name in names}
        for path in [*self.folder.glob("*.yaml"), *self.folder.glob("secrets/*"), *self.folder.rglob("*.new")]:
            if not any(path.stem == key or path.name.endswith(f"-{key}") for key in keys):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _document(self, name: ConfigurationName) -> Path:
        return self.folder / f"{_key(name)}.yaml"

    def _secret(self, name: ConfigurationName, secret: str) -> Path:
        return self.folder / "secrets" / f"{secret}-{_key(name)}"

    def _write(self, path: Path, data: bytes, what: str) -> None:
        """Atomically and durably; 0600."""
        self._step(f"before {what}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.new")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._step(f"written {what}")
        partial.rename(path)
        self._step(f"renamed {what}")
        for folder in (path.parent, self._base):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._step(f"after {what}")


def _key(name: ConfigurationName) -> str:
    """Of a configuration's files. The hash is the controller's word: it does not go into a path as it is."""
    return f"{name.revision}-{hashlib.sha256(name.hash.encode()).hexdigest()[:16]}"


def _name(raw: _Name | None) -> ConfigurationName | None:
    return None if raw is None else ConfigurationName(raw.revision, raw.hash)
