"""What is known of a line, as the installer asks for it: beside a running agent, and from what it left behind."""

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from parkfleet.agent.activity import MeterActivity
from parkfleet.agent.profile_text import with_learned_facts
from parkfleet.agent.shares import Shares
from parkfleet.protocols.document import Document
from parkfleet.protocols.learned import Evidence, Learned, LearnedHole, Limit, Pause
from parkfleet.protocols.library import BUILT_IN, profile_names
from parkfleet.protocols.profile import Profile
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from tests.eventually import eventually
from tests.installer.conftest import bus, configure, running
from tests.installer.test_installer_cli import parkfleet

POINTS = [{"id": f"p{index}", "type": "uint16", "address": index, "table": "input"} for index in range(40)]
MODEL = {"profile": "model", "title": {"en": "Model"}, "medium": "power", "source": "tests", "points": POINTS}


@pytest.fixture
def meter(tmp_path: Path) -> SimulatedMeter:
    """A meter that takes 16 registers at once, and whose profile does not say so."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    path = folder / "model.yaml"
    path.write_text("# what the manual says\n" + yaml.safe_dump(MODEL, sort_keys=False))
    real = msgspec.structs.replace(Document.read(path).convert(Profile), max_registers=16)
    meter = SimulatedMeter(real, 1, load_of("power", 1), 1)
    meter.turnaround = 0.001
    return meter


async def test_line_is_shown_exported_and_forgotten(tmp_path: Path, meter: SimulatedMeter) -> None:
    """Through the agent while it runs, from its file when it does not."""
    store = tmp_path / "learned.db"
    async with bus(tmp_path, [meter]) as line:
        path = configure(tmp_path, line, profiles=["profiles"])
        option = ("--config", str(path))
        async with running(path):
            await eventually(store.exists)
            shown = await parkfleet("line", "show", *option)
            as_json = await parkfleet("line", "show", "bus", "--json", *option)
            unknown = await parkfleet("line", "show", "nobody", *option)
        alone = await parkfleet("line", "show", *option)
        exported = await parkfleet("line", "export", "m1", *option)
        forgotten = await parkfleet("line", "forget", "m1", *option)
        nothing = await parkfleet("line", "export", "m1", *option)
        async with running(path):
            await eventually(lambda: b"max_registers" in store.read_bytes())
            meter.profile = msgspec.structs.replace(meter.profile, max_registers=125)
            again = await parkfleet("line", "forget", "m1", *option)
            after = await parkfleet("line", "show", "--json", *option)
    assert shown.code == 0, shown.err
    assert "m1 takes at most 16 registers at once (" in shown.out
    assert "1 min" in shown.out
    (facts,) = json.loads(as_json.out)
    (own,) = facts["meters"]
    assert own["learned"]["max_registers"]["count"] == 16
    assert own["learned"]["max_registers"]["evidence"]["asked"] >= 5
    assert own["requests"] > own["answers"] - 1 > 0
    assert 0 < own["share"]["planned"] < 1
    assert 0 < own["share"]["last_minute"] < 1
    assert (unknown.code, unknown.err) == (
        1,
        "there is no line 'nobody': lines are bus. A device is serial:///dev/ttyUSB0\n",
    )
    assert "no agent runs here" in alone.out
    assert "m1 takes at most 16 registers at once (" in alone.out
    profile = Document("m", exported.out).convert(Profile)
    assert profile.max_registers == 16
    assert "# what the manual says" in exported.out
    assert (forgotten.code, forgotten.out) == (0, "m1: forgotten\n")
    assert nothing.code == 4
    assert again.code == 0, again.err
    assert "max_registers" not in json.loads(after.out)[0]["meters"][0]["learned"]


@pytest.mark.parametrize("name", profile_names())
def test_profile_keeps_its_words(name: str) -> None:
    """What was learned is filled into every profile of the library; its comments and all else stay."""
    text = (BUILT_IN / f"{name}.yaml").read_text("utf-8")
    before = Document(name, text).convert(Profile)
    evidence = Evidence(1, 2, 1)
    learned = Learned(
        max_registers=Limit(max(before.max_registers - 1, 1), evidence),
        gap=Pause(before.min_gap + 10, evidence),
        holes=(LearnedHole("input", 60_000, 5, evidence),),
    )
    after = Document(name, with_learned_facts(text, learned)).convert(Profile)
    assert after.max_registers == max(before.max_registers - 1, 1)
    assert after.min_gap == before.min_gap + 10
    assert len(after.holes) == len(before.holes) + 1
    plain = {"max_registers": 125, "min_gap": 0, "holes": []}
    assert msgspec.structs.replace(after, **plain) == msgspec.structs.replace(before, **plain)
    for line in text.splitlines():
        if line.startswith("#"):
            assert line in with_learned_facts(text, learned)


def test_shares_are_of_their_windows() -> None:
    """A meter that was busy long ago, and one that is now."""
    shares = Shares(["a", "b"])
    busy = {"a": 0.0, "b": 0.0}
    for step in range(0, 1201, 15):
        busy["a"] += 7.5 if step <= 600 else 0.0
        busy["b"] += 1.5 if step > 1140 else 0.0
        shares.note(step, {meter: MeterActivity(busy_s=seconds) for meter, seconds in busy.items()})
    told = shares.shares(1200.0, {meter: MeterActivity(busy_s=seconds) for meter, seconds in busy.items()})
    assert told["a"] == pytest.approx((0.0, 0.5 * 300 / 900))
    assert told["b"] == pytest.approx((0.1, 6.0 / 900))
    assert Shares(["a"]).shares(5.0, {}) == {"a": (0.0, 0.0)}
