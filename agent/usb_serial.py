"""USB serial adapter: what of its driver's settings costs a line time, and the remedy.

An FTDI chip collects received bytes for latency_timer ms (16 by default) before it hands them on: every answer of a
meter comes that much later than it was said.
"""

import logging
from pathlib import Path
from typing import Final

from parkfleet.agent.activity import LineStatus
from parkfleet.protocols.config import LineAddress

log = logging.getLogger(__name__)

SYSFS: Final = Path("/sys")
#: More than this is worth a word. Milliseconds; the least that drivers take is 1.
LATENCY_MS: Final = 2


def latency_timer(device: str, sysfs: Path = SYSFS) -> int | None:
    """The adapter's latency timer in ms; None for a port that has none."""
    try:
        return int(_path(device, sysfs).read_text("ascii"))
    except (OSError, ValueError):
        return None


def advice(device: str, sysfs: Path = SYSFS) -> str:
    """What to set, in a sentence; empty where nothing is to be gained."""
    latency = latency_timer(device, sysfs)
    if latency is None or latency <= LATENCY_MS:
        return ""
    return (
        f"the adapter of {device} holds each answer back for up to {latency} ms: `echo 1 | sudo tee"
        f" {_path(device, sysfs)}`, and for good a line in /etc/udev/rules.d/99-latency.rules:"
        ' ACTION=="add", SUBSYSTEM=="usb-serial", ATTR{latency_timer}="1"'
    )


def advise(status: LineStatus, line: LineAddress, sysfs: Path = SYSFS) -> None:
    """Looks at a line's port that was opened just now; tells what is new in the log."""
    told = advice(line.device, sysfs) if line.is_serial else ""
    if told and told != status.advice:
        log.warning("line %s: %s", status.id, told)
    status.advice = told


def _path(device: str, sysfs: Path) -> Path:
    """Names under /dev/serial/by-id are links to the device."""
    return sysfs / "bus/usb-serial/devices" / Path(device).resolve().name / "latency_timer"
