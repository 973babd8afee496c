"""What the fuzzer found worth keeping still holds, without sanitizers: those are for make fuzz."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target: str) -> None:
    """Every input of a target's corpus."""
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[target](path.read_bytes())
