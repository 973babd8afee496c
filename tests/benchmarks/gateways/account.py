"""Account: what of the meters' answers came to the taker: each once, when, and how long it was under way."""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

_HEAD = struct.Struct("=qII")


class Taken(NamedTuple):
    """A message as peers/taker.c wrote it."""

    ns: int  # unix
    topic: str
    payload: bytes


def taken(path: Path) -> Iterator[Taken]:
    """All messages of a file, as they came."""
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            ns, topic, payload = _HEAD.unpack(head)
            yield Taken(ns, file.read(topic).decode(), file.read(payload))


class Arrival(NamedTuple):
    """One scan of one meter, as it came to the taker: its values 0 and 1 (see peers/meters.c) and when."""

    meter: str
    read: int  # value 0: the how-manieth read of the meter
    answered_ms: int  # since the meters' base
    arrived_ms: float  # since the meters' base
    values: int  # with a value, all in all


@dataclass
class Account:
    """What came of all meters."""

    reads: dict[str, "array[int]"] = field(default_factory=dict)  # by meter, as they came
    answered: "array[float]" = field(default_factory=lambda: array("d"))  # ms since base, a scan each
    arrived: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[int]" = field(default_factory=lambda: array("q"))  # readings

    def add(self, arrival: Arrival) -> None:
        """Takes a scan."""
        self.reads.setdefault(arrival.meter, array("q")).append(arrival.read)
        self.answered.append(arrival.answered_ms)
        self.arrived.append(arrival.arrived_ms)
        self.values.append(arrival.values)

    @property
    def scans(self) -> int:
        """That came, each counted once."""
        return sum(len(set(reads)) for reads in self.reads.values())

    @property
    def twice(self) -> int:
        """Scans that came again."""
        return len(self.answered) - self.scans

    def answered_between(self, since_ms: float, until_ms: float, by_ms: float = inf) -> list[tuple[float, int]]:
        """Of the scans answered in a window that arrived by a time: (ms under way, readings). Ms since the base."""
        return [
            (arrived - answered, values)
            for answered, arrived, values in zip(self.answered, self.arrived, self.values, strict=True)
            if since_ms <= answered < until_ms and arrived <= by_ms
        ]


def p99(delays: Sequence[float]) -> float:
    """Of at least two."""
    return quantiles(delays, n=100)[98]
