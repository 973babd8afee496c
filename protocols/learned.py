"""Learned: what polling a meter has taught about it beyond its profile, each fact with its evidence.

A fact is learned from answers (learning.py finds it), bounds the read plan (readplan.py obeys it), and is forgotten
with the profile it was learned under.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from parkfleet.protocols.profile import BIT_TABLES, MAX_BITS, MAX_REGISTERS, Point, Profile, Table
from parkfleet.protocols.quality import quality_name

#: A point's refusal is doubted at least this often: it is asked alone, and taken up again when it answers. Seconds.
RETRY_S: Final = 3600.0

Count = Annotated[int, Meta(ge=0)]


class Evidence(msgspec.Struct, frozen=True):
    """What a fact rests on."""

    at: int  # ms UTC, when it was concluded
    asked: Count  # requests sent to find it
    refused: Count  # of them: without values


class Limit(msgspec.Struct, frozen=True):
    """The largest block the meter takes."""

    count: Annotated[int, Meta(ge=1, le=MAX_BITS)]  # registers, or bits
    evidence: Evidence


class Pause(msgspec.Struct, frozen=True):
    """The silence the meter needs before each request."""

    ms: Annotated[int, Meta(ge=1, le=10_000)]
    evidence: Evidence


class Turnaround(msgspec.Struct, frozen=True):
    """How long the meter takes to begin its answer."""

    us: Annotated[int, Meta(ge=1, le=60_000_000)]  # median
    answers: Count  # it was taken of
    at: int  # ms UTC


class LearnedHole(msgspec.Struct, frozen=True):
    """Registers between points that no request may touch. count 0: a seam, no request may reach over it."""

    table: Table
    address: Annotated[int, Meta(ge=0, le=65536)]
    count: Annotated[int, Meta(ge=0, le=65536)]
    evidence: Evidence

    def stops(self, address: int, end: int) -> bool:
        """Whether a request from address up to (not with) end of its table is forbidden."""
        return self.address < end and address < self.address + self.count


class Refused(msgspec.Struct, frozen=True):
    """Registers of a point that the meter refuses also when they are asked alone."""

    table: Table
    address: Annotated[int, Meta(ge=0, le=65535)]
    count: Annotated[int, Meta(ge=1, le=2000)]
    quality: Annotated[int, Meta(ge=0, le=255)]  # what its readings say
    evidence: Evidence

    def covers(self, point: Point) -> bool:
        """Whether a point holds these registers, and so cannot be read."""
        begins, ends = point.address <= self.address, self.address + self.count <= point.end
        return point.table == self.table and begins and ends


class Learned(msgspec.Struct, frozen=True, omit_defaults=True):
    """All facts about one meter. The empty value: nothing learned."""

    max_registers: Limit | None = None
    max_bits: Limit | None = None
    gap: Pause | None = None
    turnaround: Turnaround | None = None
    holes: tuple[LearnedHole, ...] = ()
    refused: tuple[Refused, ...] = ()

    def limit(self, table: Table, declared: int) -> int:
        """Registers or bits of the longest request, when the profile declares as many."""
        found = self.max_bits if table in BIT_TABLES else self.max_registers
        return min(declared, found.count) if found else declared

    def gap_ms(self, declared: int) -> int:
        """Milliseconds of silence before each request, when the profile declares as many."""
        return max(declared, self.gap.ms) if self.gap else declared

    def refusal(self, point: Point) -> Refused | None:
        """The refusal that keeps a point from being asked, or None."""
        return next((refused for refused in self.refused if refused.covers(point)), None)

    @property
    def is_empty(self) -> bool:
        return self == Learned()


def told(learned: Learned) -> list[tuple[str, Evidence | None]]:
    """Each fact in words, with what it rests on."""
    facts: list[tuple[str, Evidence | None]] = []
    if learned.max_registers:
        facts.append((f"takes at most {learned.max_registers.count} registers at once", learned.max_registers.evidence))
    if learned.max_bits:
        facts.append((f"takes at most {learned.max_bits.count} bits at once", learned.max_bits.evidence))
    if learned.gap:
        facts.append((f"needs {learned.gap.ms} ms of silence before each request", learned.gap.evidence))
    for hole in learned.holes:
        what = f"{hole.table} {hole.address} to {hole.address + hole.count - 1} must not be read along"
        seam = f"no request may reach over {hole.table} {hole.address}"
        facts.append((what if hole.count else seam, hole.evidence))
    for refused in learned.refused:
        where = f"{refused.table} {refused.address}" + (f" (+{refused.count - 1})" if refused.count > 1 else "")
        facts.append((f"refuses {where}: {quality_name(refused.quality)}", refused.evidence))
    if learned.turnaround:
        answers, ms = learned.turnaround.answers, learned.turnaround.us / 1000
        facts.append((f"begins to answer after {ms:.1f} ms (median of the latest of {answers} answers)", None))
    return facts


def profile_part(profile: Profile, learned: Learned) -> dict[str, object]:
    """What a profile should say instead, as its YAML document has it: only the keys that learning changes.

    A profile's hole must not touch its points, so what was learned while only some were read is cut to fit. A seam and
    a refused point have no key in a profile: the caller tells them in words.
    """
    part: dict[str, object] = {}
    if (registers := learned.limit("holding", profile.max_registers)) != profile.max_registers:
        part["max_registers"] = registers
    if (bits := learned.limit("coil", profile.max_bits)) != profile.max_bits:
        part["max_bits"] = bits
    if (gap := learned.gap_ms(profile.min_gap)) != profile.min_gap:
        part["min_gap"] = gap
    found = [
        {"table": hole.table, "address": address + profile.first(hole.table), "count": end - address}
        for hole in learned.holes
        for address, end in _between_points(profile, hole)
    ]
    if found:
        declared = [{"table": hole.table, "address": hole.address, "count": hole.count} for hole in profile.holes]
        part["holes"] = declared + found
    return part


def _between_points(profile: Profile, hole: LearnedHole) -> list[tuple[int, int]]:
    """The parts (address, end) of a hole that no point of the profile lies in, addresses from 0."""
    wire = profile.on_wire()
    at, end, parts = hole.address, hole.address + hole.count, []
    for point in sorted((point for point in wire.points if point.table == hole.table), key=lambda own: own.address):
        if point.address < end and at < point.end:
            if at < point.address:
                parts.append((at, point.address))
            at = max(at, point.end)
    if at < end:
        parts.append((at, end))
    return parts


def maximum(table: Table) -> int:
    """Registers or bits that any request may ask for."""
    return MAX_BITS if table in BIT_TABLES else MAX_REGISTERS
