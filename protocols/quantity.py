"""Quantities as people write them in configuration: durations ("5s", "15m", "7d") and sizes ("512MiB").

Both are numbers with a parser, so that the rest of the code never sees a string: a Duration is seconds,
a Size is bytes.
"""

import re
from functools import partial
from typing import Any, Final

import msgspec

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*$")


class Duration(float):
    """A length of time in seconds, at least 0; written "250ms", "5s", "15m", "2h", "7d" or as plain seconds."""

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Reads a duration. Raises ValueError with a sentence for the user."""
        return cls(_parse(text, _DURATION_UNITS, "a duration such as 250ms, 5s, 15m, 2h or 7d"))

    def __str__(self) -> str:
        """The shortest way to write it, as in configuration."""
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if self > 0 and self % seconds == 0:
                return f"{int(self // seconds)}{unit}"
        return f"{self * 1000:g}ms" if 0 < self < 1 else f"{self:g}s"


class Size(int):
    """A number of bytes, at least 0; written "512MiB", "20MB" or as plain bytes."""

    @classmethod
    def parse(cls, text: object) -> "Size":
        """Reads a size. Raises ValueError with a sentence for the user."""
        return cls(_parse(text, _SIZE_UNITS, "a size such as 64KiB, 512MiB or 2GB"))

    def __str__(self) -> str:
        """The shortest exact way to write it, as in configuration."""
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _SIZE_UNITS[unit] == 0:
                return f"{self // _SIZE_UNITS[unit]}{unit}"
        return f"{int(self)}B"


def duration(text: str) -> Any:
    """A struct field that is a Duration, with its default as a person would write it."""
    return msgspec.field(default_factory=partial(Duration.parse, text))


def size(text: str) -> Any:
    """A struct field that is a Size, with its default as a person would write it."""
    return msgspec.field(default_factory=partial(Size.parse, text))


def _parse(text: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool) and text >= 0:
        return text
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}, got {text!r}")
    return float(match[1]) * units[match[2]]
