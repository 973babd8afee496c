"""Account: what of the meters' answers came to the taker: each once, when, and how long it was under way."""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
    values: int = 0
    readings: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, arrival: Arrival) -> None:
        """Takes a scan."""
        self.reads.setdefault(arrival.meter, array("q")).append(arrival.read)
        self.answered.append(arrival.answered_ms)
        self.arrived.append(arrival.arrived_ms)
        self.readings.append(arrival.values)
        self.values += arrival.values

    @property
    def scans(self) -> int:
        """That came, each counted once."""
        return sum(len(set(reads)) for reads in self.reads.values())

    @property
    def twice(self) -> int:
        """Scans that came again."""
        return len(self.answered) - self.scans

    @property
    def lost_between(self) -> int:
        """Scans that are missing between the first and the last that came of their meter."""
        return sum(max(reads) - min(reads) + 1 - len(set(reads)) for reads in self.reads.values())

    def arrived_between(self, since_ms: float, until_ms: float) -> int:
        """Readings that arrived in a window, ms since the base."""
        return sum(count for at, count in zip(self.arrived, self.readings, strict=True) if since_ms <= at < until_ms)

    def delays(self, since_ms: float, until_ms: float) -> list[float]:
        """Ms from the meter's answer to the taker, of the scans answered in a window."""
        return [
            arrived - answered
            for answered, arrived in zip(self.answered, self.arrived, strict=True)
            if since_ms <= answered < until_ms
        ]
