"""Overload: a line that cannot read its meters as often as asked, told with who misses how much."""

from collections import deque
from collections.abc import Mapping
from typing import Final

#: What is told is of so long a time. Seconds.
WINDOW_S: Final = 60.0
#: So many looks in a row must have seen missed slots: one alone was a hiccup of the machine.
LOOKS: Final = 2
#: Meters named in the sentence.
NAMED: Final = 5


class Overload:
    """Of one line. It is looked at a few times a minute."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[str, int]]] = deque()
        self._row = 0

    def look(self, now: float, late: Mapping[str, int]) -> str:
        """The sentence; empty when the line keeps up. now: seconds; late: slots each meter missed since the start."""
        missing = bool(self._looks) and any(count > self._looks[-1][1].get(id, 0) for id, count in late.items())
        self._row = self._row + 1 if missing else 0
        self._looks.append((now, dict(late)))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_S:
            self._looks.popleft()
        if self._row < LOOKS:
            return ""
        began, before = self._looks[0]
        lost = {id: count - before.get(id, 0) for id, count in late.items() if count > before.get(id, 0)}
        worst = sorted(lost, key=lambda id: (-lost[id], id))
        named = ", ".join(f"{id} {lost[id]}" for id in worst[:NAMED]) + (" …" if len(worst) > NAMED else "")
        return f"slots missed in the last {now - began:.0f} s: {named}. Raise intervals, read fewer points or split it"
