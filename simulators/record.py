"""Answer record: what the simulated meters answered, knowing nothing of who asked."""

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from parkfleet.protocols.profile import Table


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that left a simulated meter."""

    line: str
    unit: int
    time: float  # unix seconds when its last byte was on the wire
    table: Table | None  # None: the function reads no table
    address: int
    count: int
    values: "array[int]"  # the registers, or the bits as 0 and 1; empty for an exception
    ok: bool  # False for an exception, and where a fault spoiled the answer
    began: float = 0.0  # unix seconds when its first byte went on the wire


class AnswerRecord:
    """Append-only, in memory: some 200 bytes and two a register, so 100 MB hold about 300,000 answers of 60."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []

    def append(self, answer: Answer) -> None:
        self._answers.append(answer)

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        """In the order in which they left. Answers that come meanwhile are included."""
        return iter(self._answers)

    def since(self, index: int) -> list[Answer]:
        """A copy from the index-th on."""
        return self._answers[index:]

    def save(self, path: Path) -> None:
        """Writes one JSON object a line."""
        with path.open("wb") as file:
            for answer in self._answers:
                file.write(msgspec.json.encode(asdict(answer) | {"values": answer.values.tolist()}) + b"\n")
