"""Whose turn it is on a line: one at a time, the owner never behind more than one guest."""

import asyncio

from parkfleet.agent.turns import Turns


async def test_turns_alternate_when_both_want_the_line() -> None:
    """However many guests press, the owner has every second turn at least, and each guest comes to its turn."""
    turns, order = Turns(), list[str]()
    speaking = 0

    async def speak(who: str) -> None:
        nonlocal speaking
        speaking += 1
        assert speaking == 1
        order.append(who)
        await asyncio.sleep(0)
        speaking -= 1

    async def own() -> None:
        with turns.work():
            while order.count("guest") < 12:
                async with turns.owner():
                    await speak("owner")

    async def visit() -> None:
        for _ in range(4):
            async with turns.guest():
                await speak("guest")

    async with asyncio.timeout(30):
        await asyncio.gather(own(), visit(), visit(), visit())
    assert order.count("guest") == 12
    assert "guest guest" not in " ".join(order)


async def test_turn_is_given_back_when_its_holder_fails() -> None:
    """A transaction that raises, or is cancelled, leaves the line free."""
    turns = Turns()
    taken = asyncio.Event()

    async def hang() -> None:
        async with turns.guest():
            taken.set()
            await asyncio.Event().wait()

    hanging = asyncio.create_task(hang())
    await taken.wait()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    async with asyncio.timeout(30), turns.owner():
        pass
    async with asyncio.timeout(30), turns.guest():
        pass
