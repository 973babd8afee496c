"""Migrations: the buffer database's schema, step by step forward.

Run as `python -m parkfleet.agent.migrations FILE` in a process of its own, when the file's version says so.
"""

import sqlite3
import sys
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from parkfleet.agent.store import APPLICATION_ID, SCHEMA_VERSION, WAITING, new_epoch

buffer = Migrations("parkfleet-buffer")


@buffer()
def m1_batches(db: Database) -> None:
    """Facts about the file, schemas by id, and batches: one BLOB each."""
    db.table("facts").create({"name": str, "value": str}, pk="name")
    db.table("facts").insert({"name": "epoch", "value": str(new_epoch())})
    db.table("schemas").create({"id": int, "packed": bytes}, pk="id")
    # AUTOINCREMENT, which sqlite-utils does not write: a seq must not come back when the newest rows are deleted.
    db.execute(
        "CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " schema_id INTEGER NOT NULL REFERENCES schemas(id), codec INTEGER NOT NULL, body BLOB NOT NULL,"
        " readings INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, acked_ms INTEGER)"
    )
    db.table("batches").create_index(["acked_ms", "seq"])


@buffer()
def m2_joined_batches(db: Database) -> None:
    """A row may stand for several batches, seq to seq + count - 1; an acknowledgement is written in place."""
    db.execute("ALTER TABLE batches ADD COLUMN count INTEGER NOT NULL DEFAULT 1")
    db.execute("ALTER TABLE batches ADD COLUMN parts BLOB NOT NULL DEFAULT x''")
    db.execute("ALTER TABLE batches ADD COLUMN thinned INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE batches SET acked_ms = ? WHERE acked_ms IS NULL", [WAITING])


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a database to SCHEMA_VERSION."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # first: killed half-way, the file is still ours
    buffer.apply(Database(connection))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def main(path: str) -> int:
    """Migrates the file; the reason of a failure is the last line on stderr."""
    connection = sqlite3.connect(Path(path), isolation_level=None)
    try:
        migrate(connection)
    except sqlite3.Error as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
