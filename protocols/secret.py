"""Secret reference: `${secret:NAME}` in a configuration stands for a file with a secret in it.

The reference stands where a key names a file (password_file, ca, cert, key, or such a setting in a line's url). The
controller sends the secret beside the document; the agent keeps it in a file of its own and puts that file's name in
the reference's place. So a secret never stands in a document, its diffs or a log.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

_REFERENCE = re.compile(r"\$\{secret:([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}")
_SETTING = re.compile(r"[?&](?:ca|cert|key)=\$\{secret:[^{}]*\}(?=&|$)")

#: Keys whose whole value names a file.
FILE_KEYS: Final = frozenset({"password_file", "ca", "cert", "key"})
#: A certificate chain with its key is about 10 kB. Bytes.
MAX_SECRET_BYTES: Final = 64 * 1024


class Reference(NamedTuple):
    """One place where a secret is meant."""

    where: str  # path in the document, such as broker.password_file
    name: str
    told: str  # what is wrong with it; empty when nothing is


def is_secret_name(name: str) -> bool:
    """Whether a secret may be called so: 1 to 64 letters, digits, '_' or '-'."""
    return _NAME.fullmatch(name) is not None


def references(data: object) -> Iterator[Reference]:
    """All references in plain data, those at wrong places too."""
    try:  # few documents have one, and looking at each value takes long
        if b"${secret:" not in msgspec.json.encode(data):
            return
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        pass  # what JSON cannot say: a date, a number too large
    yield from _references(data, "", "")


def _references(data: object, where: str, key: str) -> Iterator[Reference]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _references(value, f"{where}.{name}" if where else str(name), str(name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _references(value, f"{where}[{index}]", "")
    elif isinstance(data, str):
        for found in _REFERENCE.finditer(data):
            yield Reference(where, found[1], _wrong(data, key, found))


def with_files(data: object, file: Callable[[str], str]) -> object:
    """A copy of plain data with the file of each secret, file(name), in its reference's place."""
    if isinstance(data, dict):
        return {key: with_files(value, file) for key, value in data.items()}
    if isinstance(data, list):
        return [with_files(value, file) for value in data]
    return _REFERENCE.sub(lambda found: file(found[1]), data) if isinstance(data, str) else data


def _wrong(text: str, key: str, found: re.Match[str]) -> str:
    if not is_secret_name(found[1]):
        return f"a secret's name is 1 to 64 letters, digits, '_' or '-', got {found[1][:80]!r}"
    whole = key in FILE_KEYS and found[0] == text
    setting = key == "url" and any(s.start() < found.start() < s.end() for s in _SETTING.finditer(text))
    if not (whole or setting):
        return (
            "a secret stands where a file is named, alone: password_file, ca, cert, key, or such a setting in a line's "
            f"url; not in {key or 'a list'}"
        )
    return ""
