"""The controller's memory: revisions that never change, any past moment, secrets that nobody reads off the disk."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from parkfleet.controller.config_layers import LayerName, effective
from parkfleet.controller.config_secrets import SecretBox, SecretError
from parkfleet.controller.config_store import ConfigStore, ConflictError, Moment, Report, open_database
from parkfleet.controller.registry import GatewayKey
from tests.config.fleet import LAYERS, revision

PARK = LayerName.parse("park/p1")
GW = GatewayKey("p1", "gw-01")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database of its own."""
    connection = open_database(str(tmp_path / "fleet.db"))
    yield connection
    connection.close()


@pytest.fixture
def store(db: sqlite3.Connection, tmp_path: Path) -> ConfigStore:
    """An empty store."""
    return ConfigStore(db, SecretBox.at(tmp_path / "secrets.key"))


def test_revisions_stay_as_they_were(store: ConfigStore) -> None:
    """The newest holds; each can be looked up for ever; the newest comes first in the history."""
    first = store.append(PARK, {"buffer": {"flush": "5s"}}, "alice", "begin", 1000, 0)
    second = store.append(PARK, {"buffer": {"flush": "1s"}}, "bob", "faster", 2000, first.number)
    assert store.head(PARK) == second
    assert store.revision(first.number) == first
    assert store.history(PARK, 10) == [second, first]
    assert list(store.heads()) == [second]
    assert store.head(LayerName.parse("park/p2")) is None


def test_who_changes_what_somebody_else_has_changed_is_told(store: ConfigStore) -> None:
    """By whom and why; nothing is stored."""
    store.append(PARK, {}, "alice", "begin", 1000, 0)
    with pytest.raises(ConflictError, match="revision 1 by alice \\(begin\\), yours is made from 0"):
        store.append(PARK, {"a": 1}, "bob", "mine", 2000, 0)
    assert len(store.history(PARK, 10)) == 1


def test_any_past_moment(store: ConfigStore) -> None:
    """By number and by time; before the first revision there was nothing."""
    for number, (layer, text) in enumerate(LAYERS.items(), 1):
        draft = revision(number, layer, text)
        store.append(draft.layer, draft.tree, "alice", "begin", 1000 * number, 0)
    heat = LayerName.parse("label/heat")
    store.append(heat, {"buffer": {"flush": "9s"}}, "bob", "more", 9000, 3)

    def flush(moment: Moment) -> object:
        found = effective(GW, lambda layer: store.head(layer, moment))
        return found and found.document["buffer"]["flush"]

    assert flush(Moment()) == flush(Moment(number=5)) == flush(Moment(at_ms=9000)) == "9s"
    assert flush(Moment(number=4)) == flush(Moment(at_ms=8999)) == "60s"
    assert flush(Moment(at_ms=3999)) is None


def test_a_clock_that_is_set_back_does_not_change_the_past(store: ConfigStore) -> None:
    """Times never fall."""
    store.append(PARK, {}, "alice", "begin", 5000, 0)
    assert store.append(PARK, {"a": 1}, "alice", "later", 1000, 1).at_ms == 5000


def test_secrets_are_not_on_the_disk(store: ConfigStore, tmp_path: Path) -> None:
    """Neither the present value nor an old one; they share the numbers of the revisions."""
    store.set_secret("mqtt", b"tiger-in-the-tank", "alice", "first", 1000)
    change = store.set_secret("mqtt", b"lion-in-the-tank", "bob", "second", 2000)
    assert store.append(PARK, {}, "alice", "begin", 3000, 0).number == change.number + 1 == 3
    assert store.secret("mqtt") == b"lion-in-the-tank"
    assert store.secrets() == {"mqtt": change}
    assert store.secrets(Moment(number=1))["mqtt"].number == 1
    disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"in-the-tank" not in disk
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    store.set_secret("mqtt", None, "alice", "gone", 4000)
    assert (store.secret("mqtt"), store.secrets()) == (None, {})
    assert list(store.heads()) == store.history(PARK, 9)


def test_another_key_is_told(store: ConfigStore, db: sqlite3.Connection, tmp_path: Path) -> None:
    """And a box under another name is not opened."""
    store.set_secret("mqtt", b"x", "alice", "first", 1000)
    with pytest.raises(SecretError, match="of another key"):
        ConfigStore(db, SecretBox(b"k" * 32)).secret("mqtt")
    box = SecretBox(b"k" * 32)
    with pytest.raises(SecretError):
        box.open("b", box.seal("a", b"x"))
    (tmp_path / "short.key").write_bytes(b"k")
    with pytest.raises(SecretError, match="no key of ours"):
        SecretBox.at(tmp_path / "short.key")


def test_reports_of_a_past_moment(store: ConfigStore) -> None:
    """The last one up to it; only so many are kept."""
    for number in range(300):
        store.add_reports([(GW, Report(1000 * number, number, "h", "running"))])
    assert store.report(GW) == Report(299_000, 299, "h", "running")
    assert store.report(GW, 150_500) == Report(150_000, 150, "h", "running")
    assert store.report(GW, 50_000) is None
    assert store.report(GatewayKey("p1", "other")) is None


def test_everything_is_there_after_opening_again(store: ConfigStore, tmp_path: Path) -> None:
    """Also the key."""
    store.append(PARK, {"a": 1}, "alice", "begin", 1000, 0)
    store.set_secret("mqtt", b"x", "alice", "first", 1000)
    again = open_database(str(tmp_path / "fleet.db"))
    other = ConfigStore(again, SecretBox.at(tmp_path / "secrets.key"))
    assert (other.head(PARK), other.secret("mqtt")) == (store.head(PARK), b"x")
    again.close()
