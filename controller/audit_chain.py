"""Audit chain: what an entry of the audit log is, how it is hashed, and how a log is checked. Pure.

Each entry's hash is SHA-256 over the hash of the one before and its own canonical bytes (after Haber and Stornetta,
"How to time-stamp a digital document", 1991; Schneier and Kelsey, "Secure audit logs to support computer forensics",
1999). So whoever changes, removes or puts in an entry changes every hash after it; and whoever has kept one hash
elsewhere (a head) notices that the end was cut off, or that all was written anew.

The canonical bytes are those of RFC 8785 (JSON canonicalization) for what stands here, texts and whole numbers: keys
in order, no spaces, UTF-8.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Final, NamedTuple

#: The hash before the first entry.
GENESIS: Final = "0" * 64
#: Characters of a text in an entry; what is longer was sent to fill the disk, and is cut.
MAX_TEXT: Final = 500


class AuditResult(Enum):
    """How something ended."""

    BEGUN = "begun"  # allowed, and about to be done; alone, without a later entry `of` it: nobody knows how it ended
    DONE = "done"
    REFUSED = "refused"  # not allowed, not recognised, or too often
    FAILED = "failed"  # allowed, but not done: the detail says why


@dataclass(frozen=True, slots=True)
class AuditFact:
    """What is to be told of a deed."""

    action: str  # such as fleet-configuration/change-layer
    result: AuditResult
    actor: str = ""  # user; empty: nobody who was recognised
    via: str = ""  # session, api token, certificate, machine; with its public id
    peer: str = ""  # address it came from
    target: str = ""
    scope: str = ""  # in which it takes effect: fleet, region/NAME, park/NAME; empty: in none, or in several
    reason: str = ""  # theirs
    detail: str = ""  # ours: what came of it
    of: int = 0  # number of the entry that told of the beginning


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A fact with its place in the log."""

    number: int  # from 1, without gaps
    at_ms: int  # ms UTC
    fact: AuditFact
    previous: str  # hash of the entry before, hexadecimal
    hash: str

    def as_json(self) -> dict[str, Any]:
        """As it stands in an export: all but `hash` is what the hash is made of."""
        return {**_content(self.number, self.at_ms, self.fact), "previous": self.previous, "hash": self.hash}

    @classmethod
    def from_json(cls, data: Any) -> "AuditEntry":
        """Raises ValueError when it is none."""
        try:
            texts = {name: data[name] for name in _TEXTS}
            numbers = [data[name] for name in ("number", "at_ms", "of")]
            links = [data["previous"], data["hash"]]
            result = AuditResult(data["result"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no entry of an audit log: {error}") from None
        if not all(type(text) is str for text in (*texts.values(), *links)):
            raise ValueError("no entry of an audit log: a text is none")
        if not all(type(number) is int for number in numbers):
            raise ValueError("no entry of an audit log: a number is none")
        if extra := data.keys() - {*_TEXTS, "number", "at_ms", "of", "previous", "hash", "result"}:
            raise ValueError(f"no entry of an audit log: {min(extra)!r} is not known")
        number, at_ms, of = numbers
        return cls(number, at_ms, AuditFact(result=result, of=of, **texts), *links)


_TEXTS: Final = tuple(field.name for field in fields(AuditFact) if field.name not in ("result", "of"))


class Head(NamedTuple):
    """The end of a log: whoever keeps it elsewhere can tell that nothing before it was changed or taken away."""

    number: int = 0
    hash: str = GENESIS

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """NUMBER:HASH. Raises ValueError with a sentence for the user."""
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdigit() and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
            raise ValueError(
                f"expected NUMBER:HASH as `parkfleet fleet audit head` prints it, got {text.strip()[:80]!r}"
            )
        return cls(int(number), digest)


class BrokenChainError(Exception):
    """A log is not as it was written; the message names the first entry that is wrong."""


def append(head: Head, fact: AuditFact, at_ms: int) -> AuditEntry:
    """The entry that tells of a fact after a head. Texts are cut to what an entry may hold."""
    fact = AuditFact(result=fact.result, of=fact.of, **{name: _cut(getattr(fact, name)) for name in _TEXTS})
    return AuditEntry(head.number + 1, at_ms, fact, head.hash, entry_hash(head.number + 1, at_ms, fact, head.hash))


def entry_hash(number: int, at_ms: int, fact: AuditFact, previous: str) -> str:
    """An entry's hash, hexadecimal."""
    return hashlib.sha256(bytes.fromhex(previous) + canonical(_content(number, at_ms, fact))).hexdigest()


def canonical(content: dict[str, str | int]) -> bytes:
    """The bytes that are hashed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


class ChainCheck:
    """Checks a log entry by entry, from its first one on; heads: what was kept elsewhere, each must be found."""

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        self.head = Head()
        self._kept = {head.number: head for head in heads}

    def take(self, record: Any) -> None:
        """The next entry, as it stands in an export. Raises BrokenChainError."""
        told = f"entry {self.head.number + 1} is the first that is wrong:"
        try:
            entry = AuditEntry.from_json(record)
        except ValueError as error:
            raise BrokenChainError(f"{told} {error}") from None
        if entry.number != self.head.number + 1:
            raise BrokenChainError(f"{told} it is missing, the next one there is {entry.number}")
        if entry.previous != self.head.hash:
            raise BrokenChainError(f"{told} it does not follow on entry {self.head.number} as that is now")
        if entry.hash != entry_hash(entry.number, entry.at_ms, entry.fact, entry.previous):
            raise BrokenChainError(f"{told} its content is not what its hash was made of")
        self.head = Head(entry.number, entry.hash)
        kept = self._kept.pop(entry.number, None)
        if kept is not None and kept.hash != entry.hash:
            raise BrokenChainError(
                f"entry {entry.number} has another hash than the head that was kept: it, or entries before it, were "
                "written anew"
            )

    def finish(self) -> Head:
        """The end of the log. Raises BrokenChainError when a head that was kept lies behind it."""
        if self._kept and (last := max(self._kept)) > 0:
            raise BrokenChainError(
                f"the log ends with entry {self.head.number}, but a head of entry {last} was kept: its end was cut off"
            )
        return self.head


def _content(number: int, at_ms: int, fact: AuditFact) -> dict[str, str | int]:
    return {"number": number, "at_ms": at_ms, **asdict(fact), "result": fact.result.value}


def _cut(text: str) -> str:
    """As an entry holds it: bounded, and nothing in it that a terminal would obey or a database refuse."""
    short = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in short)
