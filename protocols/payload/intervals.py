"""Interval set: whole numbers remembered as ranges, so that a year of batches is a handful of numbers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class IntervalSet:
    """A set of integers, kept as sorted ranges that neither touch nor overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # inclusive

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, (first, last), ascending."""
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        """How many ranges, not how many numbers."""
        return len(self._starts)

    def add(self, first: int, last: int) -> None:
        """Adds first to last, both included."""
        low = bisect_left(self._ends, first - 1)
        high = bisect_right(self._starts, last + 1)
        if low < high:
            first, last = min(first, self._starts[low]), max(last, self._ends[high - 1])
        self._starts[low:high] = [first]
        self._ends[low:high] = [last]

    def remove(self, first: int, last: int) -> None:
        """Takes first to last out, both included."""
        low = bisect_left(self._ends, first)
        high = bisect_right(self._starts, last)
        if low >= high:
            return
        left = [(self._starts[low], first - 1)] if self._starts[low] < first else []
        right = [(last + 1, self._ends[high - 1])] if self._ends[high - 1] > last else []
        self._starts[low:high] = [start for start, _ in left + right]
        self._ends[low:high] = [end for _, end in left + right]

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges of first to last that are not in the set."""
        gaps = []
        at = bisect_left(self._ends, first)
        while first <= last and at < len(self._starts) and self._starts[at] <= last:
            if self._starts[at] > first:
                gaps.append((first, self._starts[at] - 1))
            first = self._ends[at] + 1
            at += 1
        if first <= last:
            gaps.append((first, last))
        return gaps
