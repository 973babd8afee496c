"""Learned store: what was learned of the meters, in one small SQLite file beside the buffer.

A row belongs to (line, unit, profile) and to the profile's contents: when they change, it is forgotten. All of it can
be learned again, so a damaged file is moved aside and a disk that refuses costs nothing but that.
Synchronous; called seldom.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from parkfleet.protocols.learned import Learned
from parkfleet.protocols.profile import Profile

log = logging.getLogger(__name__)

#: The file's name, beside the buffer.
STORE_NAME: Final = "learned.db"

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS learned (line TEXT NOT NULL, unit INTEGER NOT NULL, profile TEXT NOT NULL,"
    " fingerprint TEXT NOT NULL, facts TEXT NOT NULL, changed_ms INTEGER NOT NULL, PRIMARY KEY (line, unit, profile))"
)


class MeterKey(NamedTuple):
    """Whose facts they are."""

    line: str
    unit: int
    profile: str
    fingerprint: str  # of the profile's contents


def fingerprint(profile: Profile) -> str:
    """Changes with everything in a profile that learning depends on, not with its words or worked examples."""
    plain = msgspec.structs.replace(profile, title={}, source="", notes="", expected=[])
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()[:16]


class LearnedStore:
    """One file. No method raises for what the disk or the file does: it is told in the log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, keys: Iterable[MeterKey]) -> dict[MeterKey, Learned]:
        """What is known of meters whose profiles are as they were."""
        if not self._path.exists():
            return {}
        try:
            with closing(self._open()) as db:
                rows = db.execute("SELECT line, unit, profile, fingerprint, facts FROM learned").fetchall()
        except sqlite3.OperationalError as error:
            log.warning("what was learned of the meters cannot be read from %s: %s", self._path, error)
            return {}
        except sqlite3.DatabaseError as error:
            self._move_aside(error)
            return {}
        known = {MeterKey(*row[:4]): row[4] for row in rows}
        facts = {key: self._decoded(known[key]) for key in keys if key in known}
        return {key: learned for key, learned in facts.items() if learned is not None}

    def save(self, key: MeterKey, learned: Learned) -> bool:
        """Keeps a meter's facts in place of those before; nothing learned: forgets it. False: the disk refused."""
        now = round(time.time() * 1000)
        facts = msgspec.json.encode(learned).decode()
        try:
            with closing(self._open()) as db, db:
                db.execute("DELETE FROM learned WHERE line = ? AND unit = ? AND profile = ?", key[:3])
                if not learned.is_empty:
                    db.execute("INSERT INTO learned VALUES (?, ?, ?, ?, ?, ?)", (*key, facts, now))
        except sqlite3.OperationalError as error:
            log.warning("what was learned of unit %d on line %s is not kept: %s", key.unit, key.line, error)
            return False
        except sqlite3.DatabaseError as error:
            self._move_aside(error)
            return False
        return True

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=5.0)
        try:
            db.execute(_TABLE)
        except BaseException:
            db.close()
            raise
        return db

    def _decoded(self, facts: str) -> Learned | None:
        try:
            return msgspec.json.decode(facts, type=Learned)
        except msgspec.MsgspecError:
            return None  # of another version, or damaged: learned again

    def _move_aside(self, error: sqlite3.Error) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        log.warning("%s is damaged (%s): moved to %s, the meters are learned anew", self._path, error, aside.name)
        try:
            self._path.replace(aside)
        except OSError as failure:
            log.warning("%s cannot be moved: %s", self._path, failure)
