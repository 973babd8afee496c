"""Held: readings that wait for the clock to be set, on the disk: a power cut costs no more of them than of others.

One small SQLite file beside the buffer. A scan is in it or in the buffer, and after a kill at any moment in just one of
them: before scans go into the buffer the file says behind which seq, and a buffer that has got further has them.
Synchronous: call it in a thread. No method raises for what the disk or the file does: it is told, and memory has to do.
"""

import json
import logging
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgpack

from parkfleet.protocols.payload.series import Scan

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The file's name, beside the buffer.
STORE_NAME: Final = "held.db"

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scans (n INTEGER PRIMARY KEY, since_boot INTEGER NOT NULL, packed BLOB NOT NULL);
"""


@dataclass(frozen=True)
class HeldScan:
    """A scan, and when it was taken on the clock that nobody sets."""

    since_boot: int  # ms
    scan: Scan  # with the time that was believed


class HeldStore:
    """One file, of one plan and one start of the box."""

    def __init__(self, path: Path, schema_id: int, boot: str) -> None:
        """schema_id: of the plan without a primer: what the scans' entries mean."""
        self._path = path
        self._schema_id = schema_id
        self._boot = boot
        self._told = False

    def load(self, last_seqs: Mapping[int, int]) -> tuple[list[HeldScan], bool]:
        """What an earlier life left, and whether it was since the same start of the box. last_seqs: the buffer's."""
        if not self._path.exists():
            return [], True
        nothing: tuple[dict[str, str], list[tuple[int, bytes]]] = ({}, [])
        facts, rows = self._do(_read, nothing)
        released = {int(epoch): seq for epoch, seq in json.loads(facts.get("released", "{}")).items()}
        in_the_buffer = any(last_seqs.get(epoch, 0) > seq for epoch, seq in released.items())
        if rows and not in_the_buffer and facts.get("schema") != str(self._schema_id):
            log.error("%d scans waited for the clock, and are of meters that are configured otherwise now", len(rows))
        if in_the_buffer or facts.get("schema") != str(self._schema_id):
            self.clear()
            return [], True
        return [HeldScan(since_boot, _unpacked(packed)) for since_boot, packed in rows], facts["boot"] == self._boot

    def add(self, scans: Iterable[HeldScan]) -> None:
        """Keeps some more."""
        rows = [(held.since_boot, _packed(held.scan)) for held in scans]

        def add(db: sqlite3.Connection) -> None:
            facts = {"boot": self._boot, "schema": str(self._schema_id)}
            db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            db.executemany("INSERT INTO scans (since_boot, packed) VALUES (?, ?)", rows)

        self._do(add, None)

    def releasing(self, last_seqs: Mapping[int, int]) -> None:
        """The next batch in the buffer has them all."""
        said = json.dumps(dict(last_seqs))
        self._do(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES ('released', ?)", (said,)), None)

    def clear(self) -> None:
        """They are in the buffer."""
        self._path.unlink(missing_ok=True)
        self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        for _ in range(2):
            try:
                with closing(sqlite3.connect(self._path, timeout=5.0)) as db, db:
                    db.executescript(_TABLES)
                    done = work(db)
                self._told = False
                return done
            except sqlite3.OperationalError as error:
                if not self._told:
                    log.warning("%s cannot be used (%s): readings wait in memory only", self._path, error)
                self._told = True
                return otherwise
            except sqlite3.DatabaseError as error:
                log.error("%s is damaged (%s): what waited in it is lost", self._path, error)
                self.clear()
        return otherwise


def _read(db: sqlite3.Connection) -> tuple[dict[str, str], list[tuple[int, bytes]]]:
    facts = dict(db.execute("SELECT name, value FROM facts"))
    return facts, db.execute("SELECT since_boot, packed FROM scans ORDER BY n").fetchall()


def _packed(scan: Scan) -> bytes:
    return bytes(msgpack.packb([scan.entry, scan.ts, scan.slots.tolist(), scan.quality, list(scan.texts)]))


def _unpacked(packed: bytes) -> Scan:
    entry, ts, slots, quality, texts = msgpack.unpackb(packed)
    return Scan(entry, ts, array("q", slots), quality, tuple(texts))
