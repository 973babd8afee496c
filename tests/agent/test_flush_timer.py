"""Flush timer: batches close in time, and early for few readings."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.flush_timer import BURST, REFILL_S, FlushTimer, Tokens


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_tokens_bound_what_chatters(pauses: list[float]) -> None:
    """However often one is wanted: in any span of time at most the burst and one more each refill are taken."""
    tokens, now = Tokens(BURST, REFILL_S, 0.0), 0.0
    taken: list[float] = []
    for pause in pauses:
        now += pause
        now += tokens.wait(now)
        tokens.take(now)
        taken.append(now)
    for index, since in enumerate(taken):
        for count, until in enumerate(taken[index:], 1):
            assert count <= BURST + (until - since) / REFILL_S + 1e-6


def test_tokens_are_there_at_once_after_a_while() -> None:
    """A burst, then one each ten seconds."""
    tokens = Tokens(2, 10.0, 0.0)
    waits = []
    for _ in range(4):
        waits.append(tokens.wait(0.0))
        tokens.take(0.0)
    assert waits == [0.0, 0.0, 10.0, 20.0]
    assert tokens.wait(39.0) == 0.0


async def test_hurried_batch_closes_at_once() -> None:
    """Long before its hour; without a hurry it does not."""
    timer = FlushTimer(3600.0)
    timer.hurry()
    async with asyncio.timeout(10):
        await timer.wait()
    assert timer.early == 1
    waiting = asyncio.create_task(timer.wait())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    timer.hurry()
    async with asyncio.timeout(10):
        await waiting
    assert timer.early == 2


async def test_what_finds_no_token_goes_with_the_next_flush() -> None:
    """The interval is kept however much chatters, and nothing is hurried twice."""
    timer, began = FlushTimer(0.05), time.monotonic()
    for _ in range(20):
        timer.hurry()
        await timer.wait()
    assert timer.early <= BURST + (time.monotonic() - began) / REFILL_S
    waiting = asyncio.create_task(FlushTimer(3600.0).wait())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()
