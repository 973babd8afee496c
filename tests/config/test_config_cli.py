"""`parkfleet fleet config` against a real controller, as people and scripts use it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from parkfleet.controller.config_secrets import SecretBox
from parkfleet.controller.config_store import ConfigStore
from parkfleet.controller.database import Database
from tests.config.fleet import LAYERS, revision
from tests.controller.test_fleet_cli import parkfleet
from tests.identity.guarded import guarded

Fleet = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """`parkfleet fleet …` with a controller that has the little fleet's layers."""
    data = tmp_path / "data"
    data.mkdir()
    database = await Database.open(f"sqlite:///{data}/controller.db")
    store = ConfigStore(database, SecretBox.at(data / "secrets.key"))
    for number, (layer, text) in enumerate(LAYERS.items(), 1):
        draft = revision(number, layer, text)
        await store.append(draft.layer, draft.tree, "alice", "begin", draft.at_ms, 0)
    await database.close()
    async with guarded(tmp_path) as controller:
        for name, value in controller.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield lambda *arguments: parkfleet("fleet", *arguments)


async def test_a_change_from_dry_run_to_rollback(fleet: Fleet) -> None:
    """What it would do, what it did, who did it and why, and back again."""
    change = ("config", "set", "park/p1", "meters[m02].interval=1s", "--reason", "closer look")
    code, out, _ = await fleet(*change, "--dry-run")
    assert code == 0
    assert "  meters: changes 1 meter (m02)" in out and "dry run: nothing was stored" in out
    assert '+ meters[m02].interval: "1s"' in out.split("p1/gw-01:")[1]
    code, out, _ = await fleet(*change, "--json")
    done = json.loads(out)
    assert (code, done["stored"]["revision"], done["stored"]["reason"]) == (0, 5, "closer look")
    assert done["gateways"][0]["meters"] == {"gained": [], "lost": [], "changed": ["m02"]}
    _, out, _ = await fleet("config", "why", "p1/gw-01", "meters[m02].interval")
    assert 'p1/gw-01 meters[m02].interval = "1s"\n  by park/p1, revision 5' in out and "closer look" in out
    code, out, _ = await fleet("config", "rollback", "park/p1", "2", "--reason", "enough")
    assert code == 0 and '- meters[m02].interval: "1s"' in out
    _, out, _ = await fleet("config", "history", "park/p1", "--json")
    assert [(one["revision"], one["reason"]) for one in json.loads(out)] == [
        (6, "enough"),
        (5, "closer look"),
        (2, "begin"),
    ]
    _, out, _ = await fleet("config", "diff", "park/p1", "2", "5")
    assert '+ meters[m02].interval: "1s"' in out
    _, out, _ = await fleet("config", "effective", "p1/gw-01", "--at", "5", "--json")
    past = json.loads(out)
    assert (past["desired"]["revision"], past["document"]["meters"][0]["interval"]) == (5, "1s")
    _, out, _ = await fleet("config", "effective", "p1/gw-01")
    assert "interval" not in out and "# park/p1, revision 6" in out


async def test_mistakes_are_told_with_file_line_and_remedy(fleet: Fleet) -> None:
    """And nothing is stored."""
    Path("bad.yaml").write_text("region: north\nbuffer: {flsh: 1s}\n")
    code, _, err = await fleet("config", "edit", "park/p1", "--file", "bad.yaml", "--reason", "oops")
    assert code == 3
    assert "bad.yaml:2:10: buffer.flsh: unknown key: did you mean 'flush'? (effective for p1/gw-01)" in err
    assert "nothing was stored" in err
    code, out, _ = await fleet("config", "validate", "park/p1", "--file", "bad.yaml", "--json")
    assert (code, json.loads(out)["problems"][0]["line"]) == (3, 2)
    code, out, _ = await fleet("config", "validate")
    assert (code, out) == (0, "1 gateways checked: good\n")
    Path("alone.yaml").write_text("buffer: {flush: 5 parsecs}\n")
    code, _, err = await fleet("config", "edit", "label/none", "--file", "alone.yaml", "--reason", "oops")
    assert code == 3 and "alone.yaml:1:10: buffer.flush: expected a duration" in err
    _, out, _ = await fleet("config", "list", "--json")
    assert [one["layer"] for one in json.loads(out)] == ["gateway/p1/gw-01", "label/heat", "park/p1", "region/north"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("set", "park/p1", "buffer.flush=1s"), 3, "a change has an author and a reason: add --reason WHY"),
        (("set", "park", "a=1"), 3, "expected region/NAME, park/NAME"),
        (("set", "park/p1"), 2, "nothing to change"),
        (("set", "park/p1", "buffer"), 2, "expected KEY=VALUE"),
        (("set", "park/p1", "buffer..x=1", "-m", "x"), 3, "expected a key such as buffer.flush"),
        (("set", "park/p1", "buffer.flush=[", "-m", "x"), 3, "not YAML"),
        (("set", "park/p1", "--unset", "buffer.flush", "-m", "x"), 3, "the layer says nothing of buffer.flush"),
        (("rollback", "park/p1", "1", "-m", "x"), 3, "park/p1 has no revision 1"),
        (("diff", "park/none"), 3, "has no revision yet"),
        (("why", "p1/none", "buffer.flush"), 3, "is not managed"),
        (("why", "p1/gw-01", "bufer.flush"), 3, "the agent knows no key 'bufer' there"),
        (("effective", "gw-01"), 2, "expected PARK/NAME"),
        (("effective", "p1/gw-01", "--at", "yesterday"), 2, "expected a time such as"),
        (("edit", "park/p1", "--file", "none.yaml"), 2, "cannot read none.yaml"),
    ],
)
async def test_other_mistakes_are_told(fleet: Fleet, arguments: tuple[str, ...], code: int, told: str) -> None:
    """With what to do."""
    found, _, err = await fleet("config", *arguments)
    assert (found, told in err) == (code, True), err


async def test_an_editor_is_opened(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer left as it was is no change; one that was changed is shown and stored."""
    monkeypatch.setenv("EDITOR", "true")
    assert (await fleet("config", "edit", "park/p1"))[1] == "not changed\n"
    monkeypatch.setenv("EDITOR", "sed -i s/3d/4d/")
    code, out, _ = await fleet("config", "edit", "park/p1", "--reason", "longer")
    assert code == 0 and '~ buffer.retain: "3d" -> "4d"' in out
    monkeypatch.setenv("EDITOR", "sed -i s/4d/4/;x")
    monkeypatch.setenv("EDITOR", "sed -i s/4d/4parsecs/")
    code, _, err = await fleet("config", "edit", "park/p1", "--reason", "wrong")
    assert code == 3
    file = Path(err.split(".yaml:")[0] + ".yaml")
    assert "4parsecs" in file.read_text()  # the author goes on with it
    file.unlink()


async def test_defaults_and_settings_that_say_nothing_new(fleet: Fleet) -> None:
    """The agent's own default is named as such; a setting that is there already is no revision."""
    _, out, _ = await fleet("config", "why", "p1/gw-01", "buffer.max_bytes")
    assert 'buffer.max_bytes = "512MiB": the agent\'s own default' in out
    _, out, _ = await fleet("config", "set", "park/p1", "buffer.retain=3d", "--reason", "again")
    assert "says that already" in out
    code, out, _ = await fleet("config", "set", "park/p1", "buffer.flush=2s", "--reason", "x")
    assert code == 0 and "nothing changes for it: another layer says otherwise" in out


async def test_secrets_are_never_shown(fleet: Fleet, tmp_path: Path) -> None:
    """Only their names are: in documents, diffs, lists, and in the log."""
    setting = "broker.password_file=${secret:mqtt}"
    code, _, err = await fleet("config", "set", "region/north", setting, "--reason", "login")
    assert code == 3 and "there is no secret 'mqtt'" in err
    Path("password").write_text("tiger-in-the-tank\n")
    code, out, _ = await fleet("secret", "set", "mqtt", "--file", "password", "--reason", "new broker")
    assert code == 0 and "tiger" not in out
    Path("password").unlink()
    told = []
    told.append(await fleet("config", "set", "region/north", setting, "--reason", "login"))
    told.append(await fleet("config", "effective", "p1/gw-01", "--json"))
    told.append(await fleet("secret", "list", "--json"))
    assert all(code == 0 for code, _, _ in told)
    assert "${secret:mqtt}" in told[1][1]
    assert "tiger" not in str(told) + (tmp_path / "controller.log").read_text()
    code, _, _ = await fleet("secret", "remove", "mqtt", "--reason", "gone")
    assert (await fleet("config", "validate"))[0] == 3


async def test_a_gateway_that_never_came_is_pending(fleet: Fleet) -> None:
    """In the list, though nobody has seen it."""
    _, out, _ = await fleet("list", "--json")
    (gateway,) = json.loads(out)
    assert (gateway["gateway"], gateway["state"], gateway["configuration"]["state"]) == ("gw-01", "offline", "pending")
    assert gateway["configuration"]["desired"]["revision"] == 4
    _, out, _ = await fleet("list")
    assert "local, 4 pending" in out
