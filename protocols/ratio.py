"""Ratio: a factor as people write it, 40 or 0.1 or 200/5, kept as an exact fraction."""

from fractions import Fraction
from typing import Annotated

from msgspec import Meta

#: In YAML: a number, or two with a stroke between them, as a transformer's plate has them.
Ratio = int | float | Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(/\d+(\.\d+)?)?$")]


def fraction(ratio: Ratio) -> Fraction:
    """The exact fraction: 0.1 is one tenth, as it was written. Raises ValueError for what is no number."""
    over, _, under = str(ratio).partition("/")
    try:
        return Fraction(over) / Fraction(under or "1")
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number such as 40, or two such as 200/5, got {ratio!r}") from None


def positive(ratio: Ratio, name: str) -> Fraction:
    """The fraction of a ratio that must be above 0 and at most 1,000,000,000. Raises ValueError."""
    exact = fraction(ratio)
    if not 0 < exact <= 10**9:
        raise ValueError(f"{name} must be above 0 and at most 1000000000, got {ratio!r}")
    return exact
