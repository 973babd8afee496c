"""The chain of the audit log: every change, gap, and missing end is found, and the manual's recipe finds it too."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.controller.audit_chain import (
    GENESIS,
    MAX_TEXT,
    AuditFact,
    AuditResult,
    BrokenChainError,
    ChainCheck,
    Head,
    append,
)

Records = list[dict[str, Any]]

texts = st.text(max_size=20)
facts = st.builds(AuditFact, texts, st.sampled_from(list(AuditResult)), texts, texts, texts, texts, texts, texts, texts)


def a_log(told: list[AuditFact]) -> Records:
    """These facts as a log, as it is exported and read again."""
    head, records = Head(), []
    for number, fact in enumerate(told):
        entry = append(head, fact, 1_790_000_000_000 + number)
        head = Head(entry.number, entry.hash)
        records.append(json.loads(json.dumps(entry.as_json(), ensure_ascii=False)))
    return records


def checked(records: Records, *kept: Head) -> Head:
    """Checks a log."""
    check = ChainCheck(kept)
    for record in records:
        check.take(record)
    return check.finish()


def verified_by_the_manual(records: Records) -> bool:
    """What docs/operators.md tells a sceptic to write, without anything of ours."""
    previous = "0" * 64
    for record in records:
        content = {key: value for key, value in record.items() if key not in ("previous", "hash")}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(bytes.fromhex(previous) + text.encode()).hexdigest()
        if record["previous"] != previous or record["hash"] != digest:
            return False
        previous = digest
    return True


TEN = [AuditFact("Fleet/Deed", AuditResult.DONE, f"user{n}", target=f"park/p{n}", detail="…é\u4e2d") for n in range(10)]


@given(st.lists(facts, max_size=8))
def test_a_log_that_nobody_touched_is_whole(told: list[AuditFact]) -> None:
    """Whatever was told, line breaks and all; and the recipe of the manual says so too."""
    records = a_log(told)
    assert checked(records) == (Head(len(told), records[-1]["hash"]) if told else Head(0, GENESIS))
    assert verified_by_the_manual(records)


@given(st.lists(facts, min_size=1, max_size=6), st.data())
def test_any_change_is_found_at_its_entry(told: list[AuditFact], data: st.DataObject) -> None:
    """Of any field of any entry, to any other value."""
    records = a_log(told)
    at = data.draw(st.integers(0, len(records) - 1))
    key = data.draw(st.sampled_from(sorted(records[at])))
    value = data.draw(st.one_of(st.text(max_size=20), st.integers(), st.none(), st.floats(), st.booleans()))
    if value == records[at][key] and type(value) is type(records[at][key]):
        return
    records[at][key] = value
    with pytest.raises(BrokenChainError, match=f"entry {at + 1} is the first that is wrong"):
        checked(records)


def dropped(records: Records) -> Records:
    return [*records[:4], *records[5:]]


def swapped(records: Records) -> Records:
    return [*records[:4], records[5], records[4], *records[6:]]


def doubled(records: Records) -> Records:
    return [*records[:5], *records[4:]]


def renumbered(records: Records) -> Records:
    """An entry taken out, and those after it moved up, as somebody would who knows the numbers but not the chain."""
    return [*records[:4], *({**record, "number": record["number"] - 1} for record in records[5:])]


@pytest.mark.parametrize(("change", "at"), [(dropped, 5), (swapped, 5), (doubled, 6), (renumbered, 5)])
def test_entries_out_of_place_are_found(change: Callable[[Records], Records], at: int) -> None:
    """The first one that is wrong is named."""
    with pytest.raises(BrokenChainError, match=f"entry {at} is the first that is wrong"):
        checked(change(a_log(TEN)))


def test_an_end_cut_off_is_found_by_a_head_that_was_kept() -> None:
    """The chain alone is whole then: only somebody who kept its end can tell."""
    records = a_log(TEN)
    kept = checked(records)
    assert checked(records[:7]) == Head(7, records[6]["hash"])
    with pytest.raises(BrokenChainError, match="ends with entry 7, but a head of entry 10 was kept: its end was cut"):
        checked(records[:7], kept)
    assert checked(records, Head(7, records[6]["hash"]), kept) == kept


def test_a_log_written_anew_is_found_by_a_head_that_was_kept() -> None:
    """Whoever has the database can make another whole chain, but not the same hash."""
    kept = checked(a_log(TEN))
    anew = a_log([*TEN[:3], replace(TEN[3], actor="mallory"), *TEN[4:]])
    assert checked(anew).number == 10
    with pytest.raises(BrokenChainError, match="entry 10 has another hash than the head that was kept"):
        checked(anew, kept)


def test_texts_are_cut_and_cannot_command_a_terminal() -> None:
    """What a caller sends stands in the log, but not without bound, nor with control characters."""
    entry = append(Head(), AuditFact("x", AuditResult.REFUSED, target="\x1b[2J\0\n" + "x" * 9999), 1)
    assert len(entry.fact.target) == MAX_TEXT
    assert entry.fact.target.startswith("�[2J��x")


@given(st.one_of(st.text(max_size=90), st.from_regex(r"[0-9]{1,3}:[0-9a-f]{60,66}")))
def test_a_head_is_read_as_it_is_written(text: str) -> None:
    """Or refused in a sentence."""
    try:
        assert Head.parse(str(Head.parse(text))) == Head.parse(text)
    except ValueError as error:
        assert str(error).startswith("expected NUMBER:HASH")


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_what_is_no_entry_is_refused(record: object) -> None:
    """A line of an export may be anything."""
    with pytest.raises(BrokenChainError, match="entry 1 is the first that is wrong"):
        ChainCheck().take(record)
