"""Confirmed commit: the ledger, its files, and what is left of them when the process is killed at any step."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent import trial
from parkfleet.agent.applying import ManagedAgent
from parkfleet.agent.status import ConfigurationName
from parkfleet.agent.trial import Baseline, Ledger, Observation, Phase, verdict
from parkfleet.agent.trial_store import TrialStore
from parkfleet.protocols.document import DocumentError
from tests.config.killing import NEW, OLD, document, prepared, settle

GOOD = Observation(controller=True, broker=True, acknowledged=3, answered=frozenset({"m1", "m2"}))
BEFORE = Baseline(controller=True, broker=True, meters=frozenset({"m1", "m2"}))
ALL = {"m1", "m2", "m3"}


def observed(**changed: object) -> Observation:
    """All is well, but for that."""
    return replace(GOOD, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (GOOD, ""),
        (observed(controller=False, controller_told="refused"), "the controller was not seen (refused)"),
        (observed(broker=False, broker_told="no route"), "the broker acknowledged nothing (no route)"),
        (observed(acknowledged=0, waiting=4), "the broker acknowledged nothing"),
        (observed(acknowledged=0, waiting=0), ""),
        (observed(bad=frozenset({"m2"})), "1 meter that answered before did not: m2"),
        (observed(answered=frozenset()), "2 meters that answered before did not: m1, m2"),
        (observed(bad=frozenset({"m3"})), ""),
    ],
)
def test_verdict(now: Observation, why: str) -> None:
    """Controller, broker and meters, each no worse than before; a meter that was silent before may be so now."""
    assert verdict(BEFORE, now, ALL) == why


def test_verdict_of_what_was_bad_before() -> None:
    """A broker that was away, a meter that is gone or asked too seldom to be judged: no reason to go back."""
    broken = observed(broker=False, acknowledged=0, waiting=9, answered=frozenset({"m1"}))
    assert verdict(Baseline(controller=True, meters=BEFORE.meters), broken, {"m1"}) == ""


NAMES = st.builds(ConfigurationName, st.integers(1, 3), st.sampled_from("ab"))


@given(st.lists(st.tuples(st.sampled_from(["offer", "pass", "fail", "mistake", "start"]), NAMES), max_size=12))
def test_what_is_confirmed_was_tried(events: list[tuple[str, ConfigurationName]]) -> None:
    """Whatever comes in whatever order: only a trial confirms; one that failed is not tried again by the same name."""
    ledger, failed = Ledger(), None
    for event, name in events:
        before = ledger
        if event == "offer" and trial.is_wanted(ledger, name):
            assert name != failed
            ledger = trial.tried(trial.staged(ledger, name), BEFORE)
        elif event == "mistake" and trial.is_wanted(ledger, name):
            ledger, failed = trial.given_up(ledger, name, "mistake"), name
            assert ledger.running == before.running
        elif event == "pass" and ledger.phase is Phase.TRIAL:
            ledger = trial.confirmed(ledger)
            assert ledger.confirmed == before.candidate
        elif event == "fail" and ledger.phase is Phase.TRIAL:
            assert before.candidate is not None
            ledger, failed = trial.given_up(ledger, before.candidate, "bad"), before.candidate
            assert ledger.running == before.confirmed
        elif event == "start":
            ledger = trial.started(ledger)
            failed = ledger.failed
            assert ledger.phase is not Phase.STAGED
        assert (ledger.candidate is None) == (ledger.phase is Phase.SETTLED)
        assert ledger.confirmed in (before.confirmed, before.candidate)


def test_an_agent_that_ends_again_and_again_on_trial_goes_back() -> None:
    """Once may be a power cut."""
    ledger = trial.tried(trial.staged(Ledger(confirmed=OLD), NEW), BEFORE)
    again = trial.started(ledger)
    assert (again.running, again.before) == (NEW, BEFORE)
    back = trial.started(again)
    assert (back.running, back.failed, back.failure) == (OLD, NEW, "the agent ended 2 times within its trial")


@pytest.mark.parametrize("outcome", ["confirmed", "given up"])
def test_killed_at_every_step(tmp_path: Path, outcome: str) -> None:
    """The next start runs a whole configuration: the confirmed one or the candidate; and comes to an end with it."""
    command = [sys.executable, "-m", "tests.config.killing", str(tmp_path), outcome]
    steps = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(steps) >= 20
    assert {"renamed document", "written secret", "before ledger trial", "after ledger settled"} <= set(steps)
    seen = set()
    for number, step in enumerate(steps):
        path = tmp_path / str(number) / "gateway.yaml"
        agent = ManagedAgent(path)
        state = agent.state()
        seen.add((state.running, state.on_trial))
        gateway = agent.configuration.gateway
        assert gateway.controller is not None and gateway.broker.password_file is not None
        assert state.running in (OLD, NEW), step
        assert float(gateway.controller.trial) == state.running.revision, step
        assert Path(gateway.broker.password_file).read_text() == f"secret {state.running.revision}", step
        assert Path(gateway.broker.password_file).stat().st_mode & 0o777 == 0o600
        for _ in range(2):  # nobody confirms it: it goes back by itself
            last = ManagedAgent(path).state()
        assert not last.on_trial, step
        assert last.running == (NEW if state.running == NEW and not state.on_trial else OLD), step
    assert seen == {(OLD, False), (NEW, True), *({(NEW, False)} if outcome == "confirmed" else ())}


def test_damaged_files_are_survived(tmp_path: Path) -> None:
    """Of the ledger: the installer's file runs. Of the confirmed document: the same, and the controller is told."""
    prepared(folder := tmp_path / "gw")
    managed = folder / "managed"
    (confirmed,) = managed.glob("*.yaml")
    confirmed.write_text("park: [")
    agent = ManagedAgent(folder / "gateway.yaml")
    state = agent.state()
    assert (state.running.revision, state.last_failed) == (0, OLD)
    assert "its file on the gateway is damaged" in state.failure
    assert agent.configuration.gateway.controller is not None
    assert float(agent.configuration.gateway.controller.trial) == 2.0
    (managed / "ledger.json").write_bytes(b"\0" * 100)
    assert ManagedAgent(folder / "gateway.yaml").state().running.revision == 0


@given(st.binary(max_size=200))
def test_any_ledger_file_is_survived(data: bytes) -> None:
    """Also a truncated or foreign one."""
    with tempfile.TemporaryDirectory() as name:
        store = TrialStore(Path(name) / "gateway.yaml")
        store.folder.mkdir()
        (store.folder / "ledger.json").write_bytes(data)
        assert isinstance(store.read_ledger(), Ledger)


def test_a_ledger_reads_as_it_was_written(tmp_path: Path) -> None:
    """Every field."""
    store = TrialStore(tmp_path / "gateway.yaml")
    ledger = trial.tried(trial.staged(Ledger(confirmed=OLD, received=NEW), NEW), BEFORE)
    ledger = trial.given_up(ledger, ConfigurationName(9, "other"), "mistakes")
    store.write_ledger(ledger)
    assert store.read_ledger() == ledger


def test_old_files_are_removed(tmp_path: Path) -> None:
    """Those of the confirmed configuration stay, its secrets too."""
    prepared(folder := tmp_path / "gw")
    store = TrialStore(folder / "gateway.yaml")
    (folder / "managed/5-x.yaml.new").write_text("torn")
    settle(store, NEW, "confirmed")
    assert len(list((folder / "managed").glob("*.yaml*"))) == len(list((folder / "managed/secrets").iterdir())) == 1
    assert store.load(NEW).hash == "new"


def test_a_document_without_its_secret_is_refused(tmp_path: Path) -> None:
    """And a secret's name that leads elsewhere."""
    store = TrialStore(tmp_path / "gateway.yaml")
    store.stage(NEW, document(NEW), {})
    with pytest.raises(DocumentError, match="secret 'mqtt' was not sent"):
        store.load(NEW)
    with pytest.raises(DocumentError, match=r"a secret is called '\.\./x'"):
        store.stage(NEW, document(NEW), {"../x": b""})
    assert not (tmp_path / "x").exists()


@given(st.data())
def test_any_document_is_run_or_refused(data: st.DataObject) -> None:
    """Whatever a controller sends: a configuration, or its mistakes; nothing else comes out."""
    good = document(NEW)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    damaged = data.draw(st.just(good[:start] + data.draw(st.binary(max_size=12)) + good[end:]) | st.binary())
    with tempfile.TemporaryDirectory() as name:
        store = TrialStore(Path(name) / "gateway.yaml")
        store.stage(NEW, damaged, {"mqtt": b"x"})
        try:
            assert store.load(NEW).hash == NEW.hash
        except DocumentError as error:
            assert error.problems
