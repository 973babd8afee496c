"""A lost, repeated or swapped batch: noticed, named, healed by the next key or by a replay, never a wrong value."""

import pytest

from tests.payload.losses import lose_batches
from tests.payload.test_chain import SCHEMA, minute


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("key_every", [1, 4, 10])
def test_lossy_link(key_every: int, seed: int) -> None:
    """A hundred batches over a bad link: each one's rows are right, and all of them are there after the replay."""
    found = lose_batches(SCHEMA, [minute(number) for number in range(100)], key_every, seed)
    assert found.lost > 0
    assert (found.wrong, found.untold, found.missing) == (0, 0, 0)
    assert (found.refused > 0) == (key_every > 1)
