"""Waiting for a condition, which is how our tests wait: never for a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], within_s: float = 30.0) -> T:
    """Returns the condition's value once it is true; fails when it never becomes so."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + within_s
    while not (value := condition()):
        assert loop.time() < give_up, "it never came about"
        await asyncio.sleep(0.005)
    return value


async def eventually_so(condition: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """The same for a condition that takes a while to look at."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + within_s
    while not (value := await condition()):
        assert loop.time() < give_up, "it never came about"
        await asyncio.sleep(0.02)
    return value
