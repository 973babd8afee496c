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
    # AUTOINCREMENT, which sqlite-utils does not write: a seq must not come back when the newest rows are deleted.
    _run(
        db,
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT)",
        f"INSERT INTO facts (name, value) VALUES ('epoch', '{new_epoch()}')",
        "CREATE TABLE schemas (id INTEGER PRIMARY KEY, packed BLOB)",
        "CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " schema_id INTEGER NOT NULL REFERENCES schemas(id), codec INTEGER NOT NULL, body BLOB NOT NULL,"
        " readings INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, acked_ms INTEGER)",
    )


@buffer()
def m2_joined_batches(db: Database) -> None:
    """A row may stand for several batches, seq to seq + count - 1; what is looked at stands before the body."""
    common = "schema_id, codec, readings, first_ts, last_ts"
    _run(
        db,
        "ALTER TABLE batches RENAME TO batches_1",
        "DROP INDEX IF EXISTS idx_batches_acked_ms_seq",
        "CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " count INTEGER NOT NULL, acked_ms INTEGER NOT NULL,"
        " schema_id INTEGER NOT NULL REFERENCES schemas(id), codec INTEGER NOT NULL, readings INTEGER NOT NULL,"
        " first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, thinned INTEGER NOT NULL, parts BLOB NOT NULL,"
        " body BLOB NOT NULL)",
        f"INSERT INTO batches SELECT seq, 1, coalesce(acked_ms, {WAITING}), {common}, 0, x'', body FROM batches_1",
        "DELETE FROM sqlite_sequence WHERE name = 'batches'",
        "UPDATE sqlite_sequence SET name = 'batches' WHERE name = 'batches_1'",
        "DROP TABLE batches_1",
        "CREATE INDEX batches_by_acknowledgement ON batches (acked_ms, seq)",
    )


@buffer()
def m3_bodies_apart(db: Database) -> None:
    """What is looked at apart from the bytes: an acknowledgement and a count touch few pages."""
    columns = "count, acked_ms, schema_id, codec, readings, first_ts, last_ts, thinned"
    _run(
        db,
        "ALTER TABLE batches RENAME TO batches_2",
        "DROP INDEX IF EXISTS idx_batches_acked_ms_seq",
        "DROP INDEX IF EXISTS batches_by_acknowledgement",
        "CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " count INTEGER NOT NULL, acked_ms INTEGER NOT NULL,"
        " schema_id INTEGER NOT NULL REFERENCES schemas(id), codec INTEGER NOT NULL, readings INTEGER NOT NULL,"
        " first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, thinned INTEGER NOT NULL, size INTEGER NOT NULL)",
        "CREATE TABLE bodies (seq INTEGER PRIMARY KEY, parts BLOB NOT NULL, body BLOB NOT NULL)",
        f"INSERT INTO batches SELECT seq, {columns}, length(body) + length(parts) FROM batches_2",
        "INSERT INTO bodies SELECT seq, parts, body FROM batches_2",
        "DELETE FROM sqlite_sequence WHERE name = 'batches'",
        "UPDATE sqlite_sequence SET name = 'batches' WHERE name = 'batches_2'",
        "DROP TABLE batches_2",
        "CREATE INDEX batches_by_acknowledgement ON batches (acked_ms, seq)",
        "CREATE TRIGGER body_goes_too AFTER DELETE ON batches BEGIN DELETE FROM bodies WHERE seq = old.seq; END",
    )


def _run(db: Database, *statements: str) -> None:
    """sqlite-utils has a transaction open, which notes the migration too: killed, it leaves the file as it was."""
    for statement in statements:
        db.execute(statement)


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
