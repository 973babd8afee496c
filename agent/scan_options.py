"""Scan option: what the installer typed after `scan`, turned into what is tried."""

import math
import re
import termios
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from parkfleet.agent.scan import BAUDS, PARITIES, Parity, ScanPlan, serial_settings
from parkfleet.protocols.config import LineAddress

_RANGE = re.compile(r"^(\d{1,3})(?:-(\d{1,3}))?$")


def parse_units(text: str) -> tuple[int, ...]:
    """Reads "1-247" or "1,5,20-30". Raises ValueError with a sentence."""
    units: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= first <= last <= 255:
            raise ValueError(f"expected unit ids such as 1-247 or 1,5,20-30, got {text!r}")
        units |= dict.fromkeys(range(first, last + 1))
    return tuple(units)


def parse_bauds(text: str) -> tuple[int, ...]:
    """Reads "9600,19200". Raises ValueError for a rate that no port has."""
    bauds = [part.strip() for part in text.split(",")]
    for baud in bauds:
        if not baud.isascii() or not baud.isdigit() or not hasattr(termios, f"B{baud}"):
            raise ValueError(f"expected baud rates such as 9600,19200, got {baud!r}")
    return tuple(dict.fromkeys(int(baud) for baud in bauds))


def parse_parities(text: str) -> tuple[Parity, ...]:
    """Reads "N,E,O". Raises ValueError."""
    wanted = [part.strip().upper() for part in text.split(",")]
    if any(parity not in PARITIES for parity in wanted):
        raise ValueError(f"expected parities out of N, E and O, got {text!r}")
    return tuple(parity for parity in PARITIES if parity in wanted)


def settings_for(address: LineAddress, url: str, bauds: str, parities: str) -> tuple[LineAddress, ...]:
    """The settings to try: those that are named in the url or the options, otherwise all that are usual."""
    if not address.is_serial:
        return (address,)
    named = parse_qs(urlsplit(url).query)
    tried: Sequence[int] = parse_bauds(bauds) if bauds else (address.baud,) if "baud" in named else BAUDS
    with_: Sequence[Parity] = (
        parse_parities(parities) if parities else (address.parity,) if "parity" in named else PARITIES
    )
    return serial_settings(address, tried, with_)


def span_text(seconds: float) -> str:
    """A length of time for people: 45 s, 3 min 20 s, 1 h 5 min."""
    minutes, rest = divmod(math.ceil(seconds - 1e-6), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def announcement(plan: ScanPlan, share: float) -> str:
    """What is going to be tried, and how long it takes at most. share: the part of the line's time that it gets."""
    count = len(plan.settings)
    settings = f"{count} settings x " if count > 1 else ""
    longest = span_text(plan.worst_case / share)
    units = f"{len(plan.units)} unit id{'s' if len(plan.units) > 1 else ''}"
    told = f"{settings}{units}: at most {longest}, and some 5 s for each meter found."
    if share < 1:
        told += " The agent goes on polling; it lets the scan have up to half of the line's time."
    return f"{told} Ctrl-C shows what was found so far."
