"""Examples under `expected`: a profile that its own examples contradict is refused, in a sentence, at its place."""

from pathlib import Path

import pytest

from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.library import read_profile
from tests.profiles.manual import PAGE

PROFILE = """profile: some-meter
title: {en: Some meter}
medium: water
source: made up
points:
  - {id: volume, address: 0, type: uint32, scale: 0.1, unit: m³, kind: counter, invalid: [0xFFFFFFFF]}
expected:
"""


def problems(folder: Path, example: str) -> list[str]:
    path = folder / "some-meter.yaml"
    path.write_text(f"{PROFILE}  - {example}\n", "utf-8")
    try:
        read_profile(path)
    except DocumentError as error:
        return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ("{point: volume, registers: [0, 15], value: 1.5}", ""),
        ("{point: volume, registers: [0xFFFF, 0xFFFF], value: null}", ""),
        (
            "{point: volume, registers: [0, 15], value: 15}",
            "8:41: expected[0].value: by this profile the registers say 1.5, expected 15",
        ),
        (
            "{point: volume, registers: [0xFFFF, 0xFFFF], value: 429496729.5}",
            "8:50: expected[0].value: by this profile the registers say not available, expected 429496729.5",
        ),
        (
            "{point: volume, registers: [0, 15], value: null}",
            "8:41: expected[0].value: by this profile the registers say 1.5, expected not available",
        ),
        ("{point: volume, registers: [15], value: 1.5}", "expected: volume has 2 register(s)"),
        ("{point: flow, registers: [0, 15], value: 1.5}", "expected names the unknown point flow"),
    ],
)
def test_example_that_contradicts_the_profile(tmp_path: Path, example: str, told: str) -> None:
    """What the registers say by the profile, and what was expected."""
    found = problems(tmp_path, example)
    assert len(found) == bool(told)
    assert all(told in problem for problem in found), found


def test_the_manuals_own_profile_is_confirmed(tmp_path: Path) -> None:
    """The profile in docs/profiles.md passes the check, examples and all."""
    text = PAGE.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "acme-w1.yaml"
    path.write_text(text, "utf-8")
    assert read_profile(path).medium == "water"
