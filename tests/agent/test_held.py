"""Readings that wait for the clock: on the disk, and after a kill there or in the buffer, never in both."""

from array import array
from pathlib import Path

import pytest

from parkfleet.agent.held import STORE_NAME, HeldScan, HeldStore
from parkfleet.protocols.payload.series import Scan
from tests.agent.test_clock import NOW, FakeTime, Gate

SCHEMA = 77


def held(number: int) -> HeldScan:
    return HeldScan(1000 * number, Scan(number, 50 + number, array("q", [-(2**63), number]), b"\0\5", ("a", None)))


def store(folder: Path, schema: int = SCHEMA, boot: str = "this") -> HeldStore:
    return HeldStore(folder / STORE_NAME, schema, boot)


def test_held_scans_outlive_their_process(tmp_path: Path) -> None:
    """As they were, in their order; nothing held leaves no file."""
    assert store(tmp_path).load({1: 5}) == ([], True)
    assert not list(tmp_path.iterdir())
    first = store(tmp_path)
    first.add([held(1), held(2)])
    first.add([held(3)])
    assert store(tmp_path).load({1: 5}) == ([held(1), held(2), held(3)], True)
    assert store(tmp_path, boot="another").load({1: 5}) == ([held(1), held(2), held(3)], False)


@pytest.mark.parametrize(
    ("seqs_after", "there"),
    [({1: 5}, True), ({1: 6}, False), ({1: 5, 2: 1}, True), ({2: 1}, True), ({}, True)],
)
def test_kill_between_the_file_and_the_buffer(tmp_path: Path, seqs_after: dict[int, int], there: bool) -> None:
    """Killed after the file said that the next batch has them: they are there unless the buffer has that batch. One in
    memory, or of a buffer that was moved aside, has gone with its epoch."""
    dying = store(tmp_path)
    dying.add([held(1)])
    dying.releasing({1: 5})
    assert store(tmp_path).load(seqs_after) == ([held(1)] if there else [], True)
    assert (tmp_path / STORE_NAME).exists() == there


def test_released_scans_are_gone(tmp_path: Path) -> None:
    """The file goes with them; the next ones begin a new one."""
    first = store(tmp_path)
    first.add([held(1)])
    first.releasing({1: 5})
    first.clear()
    assert not list(tmp_path.iterdir())
    first.add([held(2)])
    assert store(tmp_path).load({1: 6}) == ([held(2)], True)


def test_scans_of_another_configuration_or_a_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What entries nobody knows any more is dropped and told, and so is damage."""
    store(tmp_path).add([held(1)])
    assert store(tmp_path, schema=78).load({}) == ([], True)
    assert "configured otherwise now" in caplog.text
    (tmp_path / STORE_NAME).write_bytes(b"no database" * 1000)
    assert store(tmp_path).load({}) == ([], True)
    assert "is damaged" in caplog.text
    store(tmp_path).add([held(2)])
    assert store(tmp_path).load({}) == ([held(2)], True)


def test_gate_goes_on_in_the_next_life() -> None:
    """What one life held is stamped by the clock that the next one sees set; its patience counts from the first."""
    source = FakeTime(0.0)
    gate = Gate(source)
    for _ in range(3):
        gate.scan()
        source.passes(10)
    kept = gate.gate.held_from(1)
    assert [each.since_boot for each in kept] == [30_000, 40_000]
    kept = gate.gate.held_from(0)
    source.passes(5)
    source.believed += 100  # and set a little, but still wrong, while nobody ran
    again = Gate(source)
    again.gate.resume(kept, same_boot=True)
    again.scan()
    assert (again.out, again.gate.held) == ([], 4)
    source.set(NOW)
    again.gate.look()
    assert again.out == [round(1000 * (NOW - ago)) for ago in (35, 25, 15, 0)]


def test_gate_that_finds_the_clock_set() -> None:
    """It was set while the agent did not run: what waited goes out at once, with the right time."""
    source = FakeTime(0.0)
    gate = Gate(source)
    gate.scan()
    kept = gate.gate.held_from(0)
    source.passes(60)
    source.set(NOW)
    again = Gate(source)
    again.gate.resume(kept, same_boot=True)
    assert again.out == [round(1000 * (NOW - 60))]
    assert [kind for kind, _ in again.events] == ["clock-set"]


def test_gate_after_another_start_of_the_box() -> None:
    """Nobody will ever know when that was: as it was believed, and told."""
    again = Gate(FakeTime(NOW, ntp=True))
    again.gate.resume([held(1)], same_boot=False)
    assert again.out == [51]
    assert [kind for kind, _ in again.events] == ["clock-not-set"]
