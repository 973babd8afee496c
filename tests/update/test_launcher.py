"""The launcher: whatever a new version does, and whenever power fails, a version that works runs in the end."""

import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent import launcher
from parkfleet.agent.launcher import LauncherError, Ledger, Store, committed, gone_back, started, switched
from parkfleet.simulators.processes import Child
from tests.eventually import eventually

FAKE = Path(__file__).with_name("fake_agent.py").read_text()


class Box:
    """A box with a version in each slot: `old` in a, `new` in b."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for slot, version in (("a", "old"), ("b", "new")):
            package = root / "slots" / slot / "site" / "parkfleet"
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(FAKE.replace("VERSION_OF_SLOT", version))
            (root / "slots" / slot / "manifest.json").write_text("{}")
        shutil.copy(launcher.__file__, root / "launcher.py")

    def wants(self, version: str, *lines: str) -> None:
        (self.root / f"wanted-{version}").write_text("\n".join(lines))

    def said(self) -> list[str]:
        path = self.root / "said"
        return path.read_text().splitlines() if path.exists() else []

    def ledger(self) -> dict[str, object]:
        ledger: dict[str, object] = json.loads((self.root / "slots.json").read_text())
        return ledger

    @asynccontextmanager
    async def power(self) -> AsyncIterator[Child]:
        """The launcher as a process, until the block ends."""
        command = [sys.executable, str(self.root / "launcher.py"), str(self.root), "--", str(self.root)]
        async with Child("launcher", command, self.root / "log", grace_s=20) as child:
            yield child


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_new_version_that_commits_stays(box: Box) -> None:
    """The old agent ends politely before the new one starts; a restart of the box starts the new one."""
    box.wants("old", "switch b r1 60")
    box.wants("new", "commit r1")
    async with box.power():
        await eventually(lambda: "new ok" in box.said())
    assert box.said() == ["old started", "old ok", "old ended", "new started", "new ok", "new ended"]
    async with box.power():
        await eventually(lambda: box.said().count("new started") == 2)
    assert box.ledger()["confirmed"] == "b"


async def test_new_version_that_crashes_is_given_up(box: Box) -> None:
    """Three starts, then the old version runs again, and knows why."""
    box.wants("old", "switch b r1 60")
    box.wants("new", "crash")
    async with box.power():
        await eventually(lambda: box.said().count("new started") == 1)
        box.wants("old", "stay")
        await eventually(lambda: box.said().count("old started") == 2)
    assert box.said().count("new started") == 3
    assert box.ledger()["failed_attempt"] == "r1"
    assert "3 times within its trial" in str(box.ledger()["failure"])


async def test_new_version_that_hangs_is_given_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not commit, and does not leave when asked: it is killed, and the old version runs."""
    box.wants("old", "switch b r1 0.5")
    box.wants("new", "hang")
    text = (box.root / "launcher.py").read_text()
    (box.root / "launcher.py").write_text(text.replace("STOP_S: Final = 15.0", "STOP_S: Final = 0.5"))
    async with box.power():
        await eventually(lambda: "new started" in box.said())
        box.wants("old", "stay")
        await eventually(lambda: box.said().count("old started") == 2)
    assert "not committed within its trial" in str(box.ledger()["failure"])


async def test_new_version_that_gives_itself_up(box: Box) -> None:
    """It runs, sees that it reads fewer meters, and says so."""
    box.wants("old", "switch b r1 60")
    box.wants("new", "give up m07 is not read")
    async with box.power():
        await eventually(lambda: "new ok" in box.said())
        box.wants("old", "stay")
        await eventually(lambda: box.said().count("old started") == 2)
    assert box.ledger()["failure"] == "m07 is not read"
    assert box.said()[-1] == "old ended"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("switch a r1 60", "not the idle one"),
        ("switch c r1 60", "not the idle one"),
        ("switch b r1 -1", "a trial takes"),
        ("switch b r1 nan", "a trial takes"),
        ("commit r1", "not the one under way"),
    ],
)
async def test_refused_with_a_sentence(box: Box, wanted: str, told: str) -> None:
    """What makes no sense changes nothing."""
    box.wants("old", wanted)
    async with box.power():
        await eventually(lambda: any(told in line for line in box.said()))
    assert not (box.root / "slots.json").exists()


async def test_half_a_version_is_not_switched_to(box: Box) -> None:
    """The manifest is written last: without it a slot is not whole."""
    (box.root / "slots/b/manifest.json").unlink()
    box.wants("old", "switch b r1 60")
    async with box.power():
        await eventually(lambda: any("no whole version" in line for line in box.said()))


async def test_garbage_on_the_socket_is_answered(box: Box) -> None:
    """What is no request is refused, and the agent runs on."""
    box.wants("old", "garbage", "commit nothing")
    async with box.power():
        await eventually(lambda: len(box.said()) == 5)
    assert all("refused" in line for line in box.said()[1:5])


async def test_agent_that_ends_is_started_again(box: Box) -> None:
    """Without a trial there is nothing to go back to: it is started for ever."""
    box.wants("old", "crash")
    async with box.power():
        await eventually(lambda: box.said().count("old started") >= 3)


async def test_sigterm_ends_the_agent_first(box: Box) -> None:
    """The launcher leaves when its agent has, with its exit code."""
    async with box.power() as child:
        await eventually(lambda: "old started" in box.said())
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0
    assert box.said()[-1] == "old ended"


async def test_damaged_ledger_is_kept_aside(box: Box) -> None:
    """Whatever stands in it, a whole version is started."""
    (box.root / "slots.json").write_bytes(b'{"active": "z"')
    async with box.power():
        await eventually(lambda: "old started" in box.said())
    assert (box.root / "slots.json.damaged").exists()


async def test_nothing_to_start_is_told(tmp_path: Path) -> None:
    """An empty box says what to do."""
    shutil.copy(launcher.__file__, tmp_path / "launcher.py")
    command = [sys.executable, str(tmp_path / "launcher.py"), str(tmp_path), "--", "run"]
    async with Child("launcher", command, tmp_path / "log") as child:
        assert await child.wait() == 3
    assert "install one first" in child.output()


LEDGERS = st.builds(
    Ledger,
    active=st.sampled_from("ab"),
    confirmed=st.sampled_from("ab"),
    attempt=st.just("r1"),
    starts=st.integers(0, 4),
)


@given(LEDGERS, st.lists(st.sampled_from(["start", "commit", "give up"]), max_size=12))
def test_ledger_walk(ledger: Ledger, deeds: list[str]) -> None:
    """A version on trial is started at most three times; the confirmed slot changes by a commit alone."""
    starts = ledger.starts
    for deed in deeds:
        before = ledger
        if deed == "start":
            ledger = started(ledger)
            starts += ledger.on_trial
        elif deed == "commit":
            ledger = committed(ledger, "r1")
        else:
            ledger = gone_back(ledger, "because")
        assert ledger.confirmed == before.confirmed or deed == "commit"
        assert not ledger.on_trial or starts <= max(launcher.MAX_STARTS, before.starts)
        if not ledger.on_trial:
            with pytest.raises(LauncherError):
                switched(ledger, ledger.active, "r2", 60)


def test_store_killed_at_every_step(tmp_path: Path) -> None:
    """Whatever step the power fails at, the ledger is the old one or the new one."""
    old, new = Ledger(), switched(Ledger(), "b", "r1", 60)

    class CutError(Exception):
        pass

    steps: list[str] = []
    Store(tmp_path, steps.append).write(old, "switch")
    for cut in list(steps):
        Store(tmp_path).write(old, "switch")

        def step(name: str, cut: str = cut) -> None:
            if name == cut:
                raise CutError

        with pytest.raises(CutError):
            Store(tmp_path, step).write(new, "switch")
        assert Store(tmp_path).read() == (new if cut.endswith("after the ledger") else old)
