"""Interval set: whole numbers remembered as ranges, so that a year of batches is a handful of numbers."""

from bisect import bisect_right
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

    def add(self, first: int, last: int) -> None:
        """Adds first to last, both included."""
        low = bisect_right(self._ends, first - 2) if first > -(2**63) else 0
        high = bisect_right(self._starts, last + 1)
        if low < high:
            first, last = min(first, self._starts[low]), max(last, self._ends[high - 1])
        self._starts[low:high] = [first]
        self._ends[low:high] = [last]

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges of first to last that are not in the set."""
        gaps = []
        for start, end in self:
            if end < first:
                continue
            if start > last:
                break
            if start > first:
                gaps.append((first, start - 1))
            first = end + 1
        if first <= last:
            gaps.append((first, last))
        return gaps
