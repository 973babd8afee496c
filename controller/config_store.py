"""ConfigStore: the controller's memory of its configuration: revisions, secrets, what gateways reported. SQLite.

Invariants: a row of config_change is never changed nor removed; numbers grow and none comes twice; a secret's value is
on the disk only encrypted, and only its last one; every write is one transaction, on the disk when it returns.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from parkfleet.controller.config_layers import LayerName, Revision
from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.registry import GatewayKey

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS config_change (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,          -- region/…, park/…, label/…, gateway/…, or secret/NAME
    tree TEXT NOT NULL,             -- JSON; of a secret: whether it is there
    author TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS config_change_subject ON config_change (subject, number);
CREATE TABLE IF NOT EXISTS config_secret (
    name TEXT PRIMARY KEY,
    box BLOB NOT NULL               -- encrypted
);
CREATE TABLE IF NOT EXISTS config_report (
    park TEXT NOT NULL,
    gateway TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    report TEXT NOT NULL            -- JSON
);
CREATE INDEX IF NOT EXISTS config_report_gateway ON config_report (park, gateway, at_ms);
"""

#: Reports of one gateway that are kept, the newest; they come with changes, not with heartbeats.
KEPT_REPORTS: Final = 200


class ConflictError(Exception):
    """Somebody else has changed the layer meanwhile; the message is for the author."""


class Moment(NamedTuple):
    """A state of the fleet's configuration: up to a number, or up to a time (ms UTC)."""

    number: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SecretChange:
    """A change of a secret, without its value."""

    number: int
    name: str
    present: bool
    author: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a gateway said it runs, and since when."""

    at_ms: int
    revision: int  # 0: its local file
    hash: str
    state: str  # of its last word about a configuration: running, trial, failed
    reason: str = ""


class ConfigStore:
    """The tables of one database. The connection is the caller's, for one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, box: SecretBox) -> None:
        self._db = connection
        self._box = box
        self._db.executescript(SCHEMA)

    def append(
        self, layer: LayerName, tree: dict[str, object], author: str, reason: str, at_ms: int, base: int
    ) -> Revision:
        """A new revision of a layer that was at revision base (0: it had none). Raises ConflictError."""
        with self._transaction():
            head = self.head(layer)
            if (head.number if head else 0) != base:
                assert head is not None
                raise ConflictError(
                    f"{layer} was changed meanwhile: revision {head.number} by {head.author} ({head.reason}), yours "
                    f"is made from {base}. See `parkfleet fleet config diff {layer}`, and change the new one"
                )
            number, at_ms = self._insert(str(layer), json.dumps(tree, ensure_ascii=False), author, reason, at_ms)
        return Revision(number, layer, tree, author, reason, at_ms)

    def head(self, layer: LayerName, moment: Moment | None = None) -> Revision | None:
        """The revision that holds, or held at a moment; None when there was none."""
        row = self._newest(str(layer), moment or Moment())
        return _revision(row) if row else None

    def revision(self, number: int) -> Revision | None:
        """The revision with a number; None when there is none, or it is of a secret."""
        row = self._db.execute("SELECT * FROM config_change WHERE number = ?", (number,)).fetchone()
        return _revision(row) if row and not row[1].startswith("secret/") else None

    def heads(self) -> Iterator[Revision]:
        """The newest revision of every layer."""
        newest = "SELECT max(number) FROM config_change GROUP BY subject"
        for row in self._db.execute(f"SELECT * FROM config_change WHERE number IN ({newest}) ORDER BY number"):
            if not row[1].startswith("secret/"):
                yield _revision(row)

    def history(self, layer: LayerName, limit: int) -> list[Revision]:
        """The revisions of a layer, the newest first."""
        found = "SELECT * FROM config_change WHERE subject = ? ORDER BY number DESC LIMIT ?"
        return [_revision(row) for row in self._db.execute(found, (str(layer), limit))]

    def set_secret(self, name: str, value: bytes | None, author: str, reason: str, at_ms: int) -> SecretChange:
        """Keeps a secret, or forgets it (None)."""
        with self._transaction():
            number, at_ms = self._insert(f"secret/{name}", json.dumps(value is not None), author, reason, at_ms)
            if value is None:
                self._db.execute("DELETE FROM config_secret WHERE name = ?", (name,))
            else:
                box = self._box.seal(name, value)
                self._db.execute("INSERT OR REPLACE INTO config_secret VALUES (?, ?)", (name, box))
        return SecretChange(number, name, value is not None, author, reason, at_ms)

    def secret(self, name: str) -> bytes | None:
        """A secret's value. Raises SecretError when it cannot be opened with this key."""
        row = self._db.execute("SELECT box FROM config_secret WHERE name = ?", (name,)).fetchone()
        return self._box.open(name, row[0]) if row else None

    def secrets(self, moment: Moment | None = None) -> dict[str, SecretChange]:
        """The last change of every secret that is there, or was at a moment, by name."""
        where, values = _until(moment or Moment())
        newest = f"SELECT max(number) FROM config_change WHERE subject LIKE 'secret/%' {where} GROUP BY subject"
        rows = self._db.execute(f"SELECT * FROM config_change WHERE number IN ({newest}) ORDER BY subject", values)
        changes = [_secret_change(row) for row in rows]
        return {change.name: change for change in changes if change.present}

    def add_reports(self, reports: Iterable[tuple[GatewayKey, Report]]) -> None:
        """Keeps what gateways reported, many in one transaction."""
        with self._transaction():
            for key, report in reports:
                words = {"revision": report.revision, "hash": report.hash, "state": report.state}
                text = json.dumps({**words, "reason": report.reason}, ensure_ascii=False)
                self._db.execute("INSERT INTO config_report VALUES (?, ?, ?, ?)", (*key, report.at_ms, text))
                ours = "SELECT rowid FROM config_report WHERE park = ? AND gateway = ?"
                old = f"{ours} ORDER BY rowid DESC LIMIT -1 OFFSET ?"
                self._db.execute(f"DELETE FROM config_report WHERE rowid IN ({old})", (*key, KEPT_REPORTS))

    def report(self, key: GatewayKey, at_ms: int | None = None) -> Report | None:
        """What a gateway reported last, up to a time (ms UTC)."""
        found = (
            "SELECT at_ms, report FROM config_report WHERE park = ? AND gateway = ? AND at_ms <= ?"
            " ORDER BY at_ms DESC, rowid DESC LIMIT 1"
        )
        row = self._db.execute(found, (*key, 2**63 - 1 if at_ms is None else at_ms)).fetchone()
        return Report(row[0], **json.loads(row[1])) if row else None

    def at_of(self, number: int) -> int | None:
        """When a change was made, ms UTC; None when there is none of that number."""
        row = self._db.execute("SELECT at_ms FROM config_change WHERE number = ?", (number,)).fetchone()
        return int(row[0]) if row else None

    def _newest(self, subject: str, moment: Moment) -> tuple[object, ...] | None:
        where, values = _until(moment)
        found = f"SELECT * FROM config_change WHERE subject = ? {where} ORDER BY number DESC LIMIT 1"
        row: tuple[object, ...] | None = self._db.execute(found, (subject, *values)).fetchone()
        return row

    def _insert(self, subject: str, tree: str, author: str, reason: str, at_ms: int) -> tuple[int, int]:
        """The new change's number and time: never before the one before it, though the clock may be set back."""
        (last,) = self._db.execute("SELECT coalesce(max(at_ms), 0) FROM config_change").fetchone()
        at_ms = max(at_ms, last)
        row = (subject, tree, author, reason, at_ms)
        insert = "INSERT INTO config_change (subject, tree, author, reason, at_ms) VALUES (?, ?, ?, ?, ?)"
        number = self._db.execute(insert, row).lastrowid
        assert number is not None
        return number, at_ms

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def open_database(path: str) -> sqlite3.Connection:
    """A database whose commits are on the disk when they return."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _until(moment: Moment) -> tuple[str, tuple[int, ...]]:
    if moment.number is not None:
        return "AND number <= ?", (moment.number,)
    if moment.at_ms is not None:
        return "AND at_ms <= ?", (moment.at_ms,)
    return "", ()


def _revision(row: tuple[object, ...]) -> Revision:
    number, subject, tree, author, reason, at_ms = row
    assert isinstance(number, int) and isinstance(at_ms, int)
    return Revision(number, LayerName.parse(str(subject)), json.loads(str(tree)), str(author), str(reason), at_ms)


def _secret_change(row: tuple[object, ...]) -> SecretChange:
    number, subject, present, author, reason, at_ms = row
    assert isinstance(number, int) and isinstance(at_ms, int)
    name = str(subject).removeprefix("secret/")
    return SecretChange(number, name, bool(json.loads(str(present))), str(author), str(reason), at_ms)
