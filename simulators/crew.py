"""Crew: the tasks a simulated line has under way, none of which outlives it.

Not a TaskGroup, because a line may be unplugged, which ends its tasks, and plugged again within its life.
"""

import asyncio
from collections.abc import Coroutine


class Crew:
    """Tasks that end together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[None, None, None], name: str) -> None:
        """Runs work beside the caller."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Ends all tasks at their next step."""
        for task in self._tasks:
            task.cancel()

    async def dismiss(self) -> None:
        """Ends all tasks and waits for them. Raises what broke one of them."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._errors:
            raise self._errors.pop(0)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)
