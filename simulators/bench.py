"""Bench: one line with simulated meters of any models, each made from its profile's own file."""

import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from parkfleet.protocols.library import load_profile
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord


def bench(
    meters: Sequence[str], folders: Sequence[Path], seed: int, device: Path, baud: int, parity: str, tcp: int
) -> SerialLine | TcpEndpoint:
    """A line that is not open yet; meters: UNIT=PROFILE each; tcp: a port, below 0 for a serial device.

    Raises ValueError, UnknownProfileError, DocumentError.
    """
    made = [_meter(text, folders, seed) for text in meters]
    units = [meter.unit for meter in made]
    if len(set(units)) < len(units):
        raise ValueError("each meter on a line has a unit id of its own")
    if tcp >= 0:
        return TcpEndpoint("bench", made, AnswerRecord(), port=tcp)
    if not hasattr(termios, f"B{baud}"):
        raise ValueError(f"no port has {baud} baud; usual are 9600, 19200, 38400")
    if not device.parent.is_dir():
        raise ValueError(f"there is no folder {device.parent}")
    if device.exists() and not device.is_symlink():
        raise ValueError(f"{device} is there already: name another --device")
    spoken = _parity(parity)
    bits = 10 + (spoken != "N")
    return SerialLine(device.name, device.parent, made, AnswerRecord(), baud=baud, bits_per_byte=bits, parity=spoken)


def _meter(text: str, folders: Sequence[Path], seed: int) -> SimulatedMeter:
    unit, _, name = text.partition("=")
    if not unit.isascii() or not unit.isdigit() or not 1 <= int(unit) <= 247 or not name:
        raise ValueError(f"expected UNIT=PROFILE such as 1=eastron-sdm630 with a unit from 1 to 247, got {text!r}")
    profile = load_profile(name, folders)
    return SimulatedMeter(profile, int(unit), load_of(profile.medium, seed * 1000 + int(unit)), seed)


def _parity(text: str) -> Literal["N", "E", "O"]:
    for parity in ("N", "E", "O"):
        if parity == text.upper():
            return parity
    raise ValueError(f"expected the parity N, E or O, got {text!r}")
