"""Answer record: what it keeps is what left the meters, and it can be read by anything."""

import json
from array import array
from pathlib import Path

from parkfleet.simulators.record import Answer, AnswerRecord


def test_save_writes_one_object_a_line(tmp_path: Path) -> None:
    """Values as numbers, times in unix seconds."""
    record = AnswerRecord()
    record.append(Answer("bus1", 3, 1.8e9, "holding", 10, 2, array("H", [1, 65535]), True, 1.8e9 - 0.1))
    record.append(Answer("bus1", 3, 1.8e9, None, 0, 0, array("H"), False))
    record.save(tmp_path / "answers.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "answers.jsonl").read_text("utf-8").splitlines())
    assert first == {
        "line": "bus1",
        "unit": 3,
        "time": 1.8e9,
        "table": "holding",
        "address": 10,
        "count": 2,
        "values": [1, 65535],
        "ok": True,
        "began": 1.8e9 - 0.1,
    }
    assert (second["table"], second["values"], second["ok"]) == (None, [], False)


def test_since_is_what_came_later() -> None:
    """A reader of a growing record keeps its place."""
    record = AnswerRecord()
    answers = [Answer("hall", unit, 1.8e9, "coil", 0, 1, array("H", [1]), True) for unit in range(3)]
    record.append(answers[0])
    seen = len(record)
    record.append(answers[1])
    record.append(answers[2])
    assert record.since(seen) == answers[1:]
    assert list(record) == answers
