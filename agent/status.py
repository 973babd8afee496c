"""Status: what the agent says of itself to the controller, as plain data. Importing it costs nothing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What does not change while the agent runs."""

    park: str
    gateway: str
    version: str
    boot_id: str
    configuration_hash: str  # SHA-256 of the configuration that runs, hexadecimal
    lines: int  # configured
    meters: int


@dataclass(frozen=True, slots=True)
class BufferDepth:
    """What waits for the broker."""

    batches: int = 0
    readings: int = 0
    bytes: int = 0
    oldest_ts: int | None = None  # ms UTC of the oldest reading that waits
    last_seq: int = 0  # of the newest batch
    epoch: int = 0
    thinned_readings: int = 0  # for want of room, since the file was made
    dropped_readings: int = 0


@dataclass(frozen=True, slots=True)
class DeliveredCount:
    """What the broker has acknowledged since the agent started."""

    batches: int = 0
    readings: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class BrokerLink:
    """The connection to the broker."""

    connected: bool = False
    told: str = ""  # why not, in a sentence


@dataclass(frozen=True, slots=True)
class LineReport:
    """One line since the agent started."""

    id: str
    load: float = 0.0  # part of the time it was busy, 0 to 1
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)  # by cause
    up: bool = True
    told: str = ""  # why it is down, or its last error, or that it is overloaded
    missed: int = 0  # slots that passed before a meter's turn came
    late: Mapping[str, int] = field(default_factory=dict)  # of them, by meter id


@dataclass(frozen=True, slots=True)
class AgentSnapshot:
    """The agent at one moment: a heartbeat's contents."""

    uptime_s: float = 0.0
    buffer: BufferDepth = field(default_factory=BufferDepth)
    delivered: DeliveredCount = field(default_factory=DeliveredCount)
    broker: BrokerLink = field(default_factory=BrokerLink)
    lines: Sequence[LineReport] = ()
    meters_ok: int = 0
    meters_bad: int = 0
    rss_bytes: int = 0
    alarms: int = 0  # of its rules, that are raised


@dataclass(frozen=True, slots=True)
class ConfigurationName:
    """A configuration's revision and hash. Revision 0 is the local file that no controller gave."""

    revision: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class ReportedState:
    """What runs. Three separate fields, so that a controller never offers again what has just failed."""

    release: str
    running: ConfigurationName
    last_received: ConfigurationName | None = None
    last_failed: ConfigurationName | None = None
    failure: str = ""  # why last_failed failed
    on_trial: bool = False  # running is not confirmed yet


@dataclass(frozen=True, slots=True)
class Desired:
    """A configuration the controller wants the gateway to run."""

    name: ConfigurationName
    document: bytes
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # by name


def boot_id() -> str:
    """Of the running operating system, new with every start of it; empty where Linux does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def resident_bytes() -> int:
    """Memory this process holds; 0 where Linux does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
