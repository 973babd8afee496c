"""The controller's memory: revisions that never change, any past moment, secrets that nobody reads off the disk."""

from pathlib import Path

import pytest

from parkfleet.controller.config_fleet import ConfigFleet
from parkfleet.controller.config_layers import LayerName
from parkfleet.controller.config_secrets import SecretBox, SecretError
from parkfleet.controller.config_store import ConfigStore, ConflictError, Moment, Report
from parkfleet.controller.database import Database
from parkfleet.controller.registry import GatewayKey
from parkfleet.controller.storage import Storage
from tests.config.fleet import LAYERS, revision
from tests.conftest import DatabaseAt

PARK = LayerName.parse("park/p1")
GW = GatewayKey("p1", "gw-01")


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ConfigStore:
    """An empty store, in a database of each kind."""
    return ConfigStore(database, SecretBox.at(tmp_path / "secrets.key"))


async def add(store: ConfigStore, database: Database, key: GatewayKey, report: Report) -> None:
    """Stores a report by itself."""
    async with database.write() as connection:
        await store.add_reports(connection, {key: report})


async def test_revisions_stay_as_they_were(store: ConfigStore) -> None:
    """The newest holds; each can be looked up for ever; the newest comes first in the history."""
    first = await store.append(PARK, {"buffer": {"flush": "5s"}}, "alice", "begin", 1000, 0)
    second = await store.append(PARK, {"buffer": {"flush": "1s"}}, "bob", "faster", 2000, first.number)
    assert await store.head(PARK) == second
    assert await store.revision(first.number) == first
    assert await store.history(PARK, 10) == [second, first]
    assert await store.heads() == [second]
    assert await store.head(LayerName.parse("park/p2")) is None


async def test_who_changes_what_somebody_else_has_changed_is_told(store: ConfigStore) -> None:
    """By whom and why; nothing is stored."""
    await store.append(PARK, {}, "alice", "begin", 1000, 0)
    with pytest.raises(ConflictError, match="revision 1 by alice \\(begin\\), yours is made from 0"):
        await store.append(PARK, {"a": 1}, "bob", "mine", 2000, 0)
    assert len(await store.history(PARK, 10)) == 1


async def test_any_past_moment(store: ConfigStore) -> None:
    """By number and by time; before the first revision there was nothing."""
    for number, (layer, text) in enumerate(LAYERS.items(), 1):
        draft = revision(number, layer, text)
        await store.append(draft.layer, draft.tree, "alice", "begin", 1000 * number, 0)
    heat = LayerName.parse("label/heat")
    await store.append(heat, {"buffer": {"flush": "9s"}}, "bob", "more", 9000, 3)

    fleet = await ConfigFleet.load(store)

    async def flush(moment: Moment | None) -> object:
        found = await fleet.desired_at(GW, moment)
        return found and found.document["buffer"]["flush"]

    assert [await flush(moment) for moment in (None, Moment(), Moment(number=5), Moment(at_ms=9000))] == ["9s"] * 4
    assert await flush(Moment(number=4)) == await flush(Moment(at_ms=8999)) == "60s"
    assert await flush(Moment(at_ms=3999)) is None


async def test_a_clock_that_is_set_back_does_not_change_the_past(store: ConfigStore) -> None:
    """Times never fall."""
    await store.append(PARK, {}, "alice", "begin", 5000, 0)
    assert (await store.append(PARK, {"a": 1}, "alice", "later", 1000, 1)).at_ms == 5000


async def test_secrets_are_not_on_the_disk(store: ConfigStore, tmp_path: Path) -> None:
    """Neither the present value nor an old one; they share the numbers of the revisions."""
    await store.set_secret("mqtt", b"tiger-in-the-tank", "alice", "first", 1000)
    change = await store.set_secret("mqtt", b"lion-in-the-tank", "bob", "second", 2000)
    assert (await store.append(PARK, {}, "alice", "begin", 3000, 0)).number == change.number + 1 == 3
    assert await store.secret("mqtt") == b"lion-in-the-tank"
    assert await store.secrets() == {"mqtt": change}
    assert (await store.secrets(Moment(number=1)))["mqtt"].number == 1
    disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"in-the-tank" not in disk
    assert b"in-the-tank" not in (await store.sealed("mqtt") or b"")
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    await store.set_secret("mqtt", None, "alice", "gone", 4000)
    assert (await store.secret("mqtt"), await store.secrets()) == (None, {})
    assert await store.heads() == await store.history(PARK, 9)


async def test_another_key_is_told(store: ConfigStore, database: Database, tmp_path: Path) -> None:
    """And a box under another name is not opened."""
    await store.set_secret("mqtt", b"x", "alice", "first", 1000)
    with pytest.raises(SecretError, match="of another key"):
        await ConfigStore(database, SecretBox(b"k" * 32)).secret("mqtt")
    with pytest.raises(SecretError, match="of another key"):  # a controller with it does not start
        await Storage.load(database, SecretBox(b"k" * 32))
    await store.check_key()
    box = SecretBox(b"k" * 32)
    with pytest.raises(SecretError):
        box.open("b", box.seal("a", b"x"))
    (tmp_path / "short.key").write_bytes(b"k")
    with pytest.raises(SecretError, match="no key of ours"):
        SecretBox.at(tmp_path / "short.key")


async def test_reports_of_a_past_moment(store: ConfigStore, database: Database) -> None:
    """The last one up to it; only so many are kept."""
    for number in range(300):
        await add(store, database, GW, Report(1000 * number, number, "h", "running"))
    assert await store.report(GW) == Report(299_000, 299, "h", "running")
    assert await store.report(GW, 150_500) == Report(150_000, 150, "h", "running")
    assert await store.report(GW, 50_000) is None
    assert await store.report(GatewayKey("p1", "other")) is None


async def test_everything_is_there_after_opening_again(
    store: ConfigStore, database_at: DatabaseAt, tmp_path: Path
) -> None:
    """Also the key."""
    await store.append(PARK, {"a": 1}, "alice", "begin", 1000, 0)
    await store.set_secret("mqtt", b"x", "alice", "first", 1000)
    again = await database_at.open()
    other = ConfigStore(again, SecretBox.at(tmp_path / "secrets.key"))
    assert (await other.head(PARK), await other.secret("mqtt")) == (await store.head(PARK), b"x")
    await again.close()
