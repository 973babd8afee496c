"""The manual's tables of docs/profiles.md, as data: its names, units and lists are what the tests hold profiles to."""

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "profiles.md"
_PHASE = re.compile(r"_(n|l[123](_l[123])?)$")


def rows(section: str) -> Iterator[list[str]]:
    """The cells of each row of a section's tables, headings left out."""
    yield from (cells for _, cells in _rows(section))


def table(section: str, heading: str) -> Iterator[list[str]]:
    """The same, of the table alone whose first column is headed so."""
    yield from (cells for first, cells in _rows(section) if first == heading)


def _rows(section: str) -> Iterator[tuple[str, list[str]]]:
    """(heading of the first column, cells) of each row of a section's tables."""
    text = PAGE.read_text("utf-8")
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert body, f"no section {section!r}"
    heading, behind_heading = "", False
    for line in body[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heading, behind_heading = "", False
        elif not heading:
            heading = cells[0]
        elif behind_heading:
            yield heading, cells
        else:
            behind_heading = True


def quoted(cell: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def known_names() -> dict[str, frozenset[str]]:
    """Each id without its phase -> the units it may have."""
    return {name: frozenset(quoted(units) or [""]) for ids, units, _ in rows("Names") for name in quoted(ids)}


def known_units() -> frozenset[str]:
    """All units, with the empty one."""
    return frozenset(unit for symbols, _ in rows("Units") for unit in quoted(symbols)) | {""}


def without_phase(point: str) -> str:
    """An id without `_l1`, `_l1_l2`, `_n` at its end."""
    return _PHASE.sub("", point)
