"""The batcher: what is added comes out once, in order, and no batch grows without bound."""

from array import array

import pytest

from parkfleet.agent import batcher
from parkfleet.agent.batcher import Batcher
from parkfleet.protocols.payload.series import Scan


def scan(entry: int, ts: int, quality: bytes = b"\0\1") -> Scan:
    return Scan(entry, ts, array("q", [ts, entry]), quality, (f"text {ts}",))


def test_close_gives_what_was_added() -> None:
    """Scans become rows by entry, in the order in which they came."""
    open_batch = Batcher()
    for entry, ts in ((1, 10), (0, 11), (1, 20)):
        open_batch.add(scan(entry, ts))
    (closed,) = open_batch.close()
    assert [rows.entry for rows in closed.rows] == [0, 1]
    assert closed.rows[1].ts.tolist() == [10, 20]
    assert closed.rows[1].slots.tolist() == [10, 1, 20, 1]
    assert closed.rows[1].texts == ["text 10", "text 20"]
    assert (closed.readings, closed.first_ts, closed.last_ts) == (3, 10, 20)
    assert open_batch.close() == []


def test_full_batch_is_closed_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour's flush on a fast gateway becomes several batches, not one that no body holds."""
    monkeypatch.setattr(batcher, "MAX_READINGS", 10)
    open_batch = Batcher()
    for ts in range(12):
        open_batch.add(scan(0, ts))
    closed = open_batch.close()
    assert [batch.rows[0].ts.tolist() for batch in closed] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
