"""Truth store: what makes readings trustworthy over restarts, in one small SQLite file beside the buffer.

Events that the broker does not have yet, the baselines of the counters, what alarms know, the meters' identities. A
damaged file is moved aside and begun anew; a disk that refuses is told once. Synchronous: call it in a thread.

A write-ahead log in a connection that stays open: one sync of the disk for each write.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import msgspec

from parkfleet.agent.alarm import AlarmKey, AlarmState
from parkfleet.agent.counter_guard import Baseline
from parkfleet.agent.store import new_epoch

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The file's name, beside the buffer.
STORE_NAME: Final = "truth.db"
#: Events that are kept for a broker that is away; then the oldest go.
MOST_EVENTS: Final = 10_000

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (n INTEGER PRIMARY KEY AUTOINCREMENT, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counters (meter TEXT, point TEXT, value REAL NOT NULL, ts INTEGER NOT NULL,
  PRIMARY KEY (meter, point));
CREATE TABLE IF NOT EXISTS identities (meter TEXT PRIMARY KEY, identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alarms (rule TEXT, meter TEXT, point TEXT, state BLOB NOT NULL,
  PRIMARY KEY (rule, meter, point));
"""


class TruthStore:
    """One file, one user at a time. No method raises for what the disk or the file does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        self._told = False

    def close(self) -> None:
        """Closes the file; whoever goes on using the store opens it again."""
        with self._lock:
            self._close()

    def prefix(self) -> str:
        """What the ids of this file's events begin with: another for every file, so that an id is never used twice."""

        def read(db: sqlite3.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO facts VALUES ('prefix', ?)", (f"{new_epoch():08x}",))
            return str(db.execute("SELECT value FROM facts WHERE name = 'prefix'").fetchone()[0])

        return self._do(read, "")

    def add_events(self, events: Iterable[bytes], alarms: Mapping[AlarmKey, AlarmState]) -> bool:
        """Keeps events and the states that they tell of, all or (False: the disk refused) none."""

        def add(db: sqlite3.Connection) -> bool:
            db.executemany("INSERT INTO events (packed) VALUES (?)", [(packed,) for packed in events])
            db.execute("DELETE FROM events WHERE n <= (SELECT max(n) FROM events) - ?", (MOST_EVENTS,))
            _write_alarms(db, alarms)
            return True

        return self._do(add, False)

    def events(self, most: int = 100) -> list[tuple[int, bytes]]:
        """The oldest events, with their numbers."""
        return self._do(
            lambda db: db.execute("SELECT n, packed FROM events ORDER BY n LIMIT ?", (most,)).fetchall(), []
        )

    def drop_events(self, numbers: Iterable[int]) -> None:
        """The broker has them."""
        rows = [(number,) for number in numbers]
        self._do(lambda db: db.executemany("DELETE FROM events WHERE n = ?", rows), None)

    def baselines(self) -> dict[tuple[str, str], Baseline]:
        """The counters' last believed readings, by (meter, point)."""

        def read(db: sqlite3.Connection) -> dict[tuple[str, str], Baseline]:
            rows = db.execute("SELECT meter, point, value, ts FROM counters")
            return {(meter, point): Baseline(value, ts) for meter, point, value, ts in rows}

        return self._do(read, {})

    def save(self, baselines: Mapping[tuple[str, str], Baseline], alarms: Mapping[AlarmKey, AlarmState]) -> None:
        """Keeps both, in one transaction; those that are not named are forgotten."""

        def save(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM counters")
            rows = [(*key, baseline.value, baseline.ts) for key, baseline in baselines.items()]
            db.executemany("INSERT INTO counters VALUES (?, ?, ?, ?)", rows)
            db.execute("DELETE FROM alarms")
            _write_alarms(db, alarms)

        self._do(save, None)

    def alarms(self) -> dict[AlarmKey, AlarmState]:
        """What the alarms knew."""

        def read(db: sqlite3.Connection) -> dict[AlarmKey, AlarmState]:
            rows = db.execute("SELECT rule, meter, point, state FROM alarms")
            return {(rule, meter, point): _unpacked(state) for rule, meter, point, state in rows}

        return self._do(read, {})

    def identities(self) -> dict[str, str]:
        """What the meters called themselves, by meter."""
        return dict(self._do(lambda db: db.execute("SELECT meter, identity FROM identities").fetchall(), []))

    def save_identity(self, meter: str, identity: str, event: bytes = b"") -> bool:
        """Keeps what a meter calls itself, and the event that tells of it, both or neither. False: neither."""

        def save(db: sqlite3.Connection) -> bool:
            db.execute("INSERT OR REPLACE INTO identities VALUES (?, ?)", (meter, identity))
            if event:
                db.execute("INSERT INTO events (packed) VALUES (?)", (event,))
            return True

        return self._do(save, False)

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            for _ in range(2):
                try:
                    self._db = self._db or _opened(self._path)
                    with self._db:
                        done = work(self._db)
                    self._told = False
                    return done
                except sqlite3.OperationalError as error:
                    self._close()
                    self._tell(f"{self._path} cannot be used: {error}")
                    return otherwise
                except sqlite3.DatabaseError as error:
                    self._close()
                    self._move_aside(error)
        return otherwise

    def _move_aside(self, error: sqlite3.Error) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        log.warning("%s is damaged (%s): moved to %s, a new one is begun", self._path, error, aside.name)
        try:
            for suffix in ("-wal", "-shm"):  # of no use without it
                self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
            self._path.replace(aside)
        except OSError as failure:
            self._tell(f"{self._path} cannot be moved: {failure}")

    def _tell(self, told: str) -> None:
        if not self._told:
            log.warning("%s; events and baselines are kept in memory only", told)
        self._told = True


def _opened(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 100")  # pages, 400 KB
        db.executescript(_TABLES)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _write_alarms(db: sqlite3.Connection, alarms: Mapping[AlarmKey, AlarmState]) -> None:
    rows = [(*key, msgspec.json.encode(state)) for key, state in alarms.items()]
    db.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?)", rows)


def _unpacked(packed: bytes) -> AlarmState:
    """What cannot be read is as good as forgotten."""
    try:
        return msgspec.json.decode(packed, type=AlarmState)
    except msgspec.MsgspecError:
        return AlarmState()
