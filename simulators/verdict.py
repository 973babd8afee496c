"""Verdict: compares what the simulated meters answered with what a consumer received.

The two records know nothing of each other: one is written where the answer leaves the simulator, the other where
a batch is decoded behind the broker. They are joined here, series by series, in time order.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parkfleet.protocols.payload.series import Value

#: The qualities of readings that a meter answered: its value, or its own word that there is none.
ANSWERED = frozenset({"good", "suspect", "invalid"})


class Series(NamedTuple):
    """One quantity of one meter."""

    meter: str
    point: str


class Sample(NamedTuple):
    """A value at a time; None where the meter said "not available"."""

    ts: int  # ms UTC: of the answer's last byte, or the reading's own
    value: Value


@dataclass
class Verdict:
    """The account. `ok` when every answered reading arrived once, unchanged and at its time."""

    readings_answered: int = 0
    readings_delivered: int = 0
    lost: int = 0
    duplicates: int = 0
    mismatched: int = 0  # another value, a time too far from the answer's, or a reading that nobody answered
    examples: list[str] = field(default_factory=list)  # the first few deviations, in words
    missing: list[tuple[Series, Sample]] = field(default_factory=list)  # what is lost, all of it

    @property
    def ok(self) -> bool:
        return self.readings_answered > 0 and not (self.lost or self.duplicates or self.mismatched)

    def note(self, text: str) -> None:
        """Keeps a deviation, if it is among the first."""
        if len(self.examples) < 10:
            self.examples.append(text)


def judge(
    answered: Iterable[tuple[Series, Sample]],
    delivered: Iterable[tuple[Series, Sample]],
    tolerance_ms: dict[str, int],
) -> Verdict:
    """The account of two records. tolerance_ms: for each meter, how far a reading's time may lie from its answer's."""
    sides: tuple[dict[Series, list[Sample]], dict[Series, list[Sample]]] = (defaultdict(list), defaultdict(list))
    for side, record in zip(sides, (answered, delivered), strict=True):
        for series, sample in record:
            side[series].append(sample)
    verdict = Verdict()
    for series in sorted(sides[0].keys() | sides[1].keys()):
        there, here = (sorted(side[series], key=lambda sample: sample.ts) for side in sides)
        verdict.readings_answered += len(there)
        verdict.readings_delivered += len(here)
        _judge_series(verdict, series, there, _without_twins(verdict, series, here), tolerance_ms[series.meter])
    return verdict


def _without_twins(verdict: Verdict, series: Series, delivered: Sequence[Sample]) -> list[Sample]:
    """One of each time; the others are duplicates."""
    single: list[Sample] = []
    for sample in delivered:
        if single and single[-1].ts == sample.ts:
            verdict.duplicates += 1
            verdict.note(f"{series.meter}/{series.point}: twice at {sample.ts}")
        else:
            single.append(sample)
    return single


def _judge_series(
    verdict: Verdict, series: Series, answered: Sequence[Sample], delivered: Sequence[Sample], tolerance_ms: int
) -> None:
    """Walks both in time order: what has no partner near in time is lost, or was never answered."""
    name = f"{series.meter}/{series.point}"
    i = j = 0
    while i < len(answered) or j < len(delivered):
        there = answered[i] if i < len(answered) else None
        here = delivered[j] if j < len(delivered) else None
        if there and (here is None or here.ts > there.ts + tolerance_ms):
            verdict.lost += 1
            verdict.missing.append((series, there))
            verdict.note(f"{name}: {there.value!r} answered at {there.ts} was not delivered")
            i += 1
        elif here and (there is None or here.ts < there.ts - tolerance_ms):
            verdict.mismatched += 1
            verdict.note(f"{name}: {here.value!r} delivered for {here.ts} was not answered then")
            j += 1
        else:
            assert there and here
            if there.value != here.value or type(there.value) is not type(here.value):
                verdict.mismatched += 1
                verdict.note(f"{name}: {there.value!r} answered, {here.value!r} delivered for {here.ts}")
            i, j = i + 1, j + 1
