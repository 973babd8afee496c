"""Control message: what is said over the agent's control socket, one JSON object a line each way."""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.line_messages import LineFacts
from parkfleet.agent.reading import MeterReading
from parkfleet.agent.rules import Standing
from parkfleet.agent.status import AgentSnapshot
from parkfleet.protocols.payload.request import ReplayAnswer, ReplayRequest

#: The socket's name, beside the buffer.
SOCKET_NAME: Final = "agent.sock"
#: A request longer than this is none of ours. Bytes.
MAX_REQUEST: Final = 4096
#: An answer is never longer: what is known of 20,000 meters, each with some refusals, is about 16 MiB. Bytes.
MAX_ANSWER: Final = 64 * 1024 * 1024

Name = Annotated[str, Meta(max_length=64)]


class AskStatus(msgspec.Struct, tag_field="ask", tag="status", frozen=True, forbid_unknown_fields=True):
    """How the agent fares."""


class AskRead(msgspec.Struct, tag_field="ask", tag="read", frozen=True, forbid_unknown_fields=True):
    """All points of a meter, now."""

    meter: Name


class AskWake(msgspec.Struct, tag_field="ask", tag="wake", frozen=True, forbid_unknown_fields=True):
    """Ask a meter at once, however long it was silent."""

    meter: Name


class AskTransact(msgspec.Struct, tag_field="ask", tag="transact", frozen=True, forbid_unknown_fields=True):
    """One reading request on a line."""

    line: Name
    unit: Annotated[int, Meta(ge=0, le=255)]
    pdu: Annotated[str, Meta(max_length=20, pattern="^([0-9a-f]{2})+$")]
    timeout: Annotated[float, Meta(gt=0, le=5)]  # seconds


class AskReplay(msgspec.Struct, tag_field="ask", tag="replay", frozen=True, forbid_unknown_fields=True):
    """Acknowledged batches, once more to the broker."""

    request: ReplayRequest


class AskVacuum(msgspec.Struct, tag_field="ask", tag="vacuum", frozen=True, forbid_unknown_fields=True):
    """Free room of the buffer's file back to the disk."""


class AskLines(msgspec.Struct, tag_field="ask", tag="lines", frozen=True, forbid_unknown_fields=True):
    """What is known of a line and its meters, or of all."""

    line: Name | None = None


class AskForget(msgspec.Struct, tag_field="ask", tag="forget", frozen=True, forbid_unknown_fields=True):
    """Forget what was learned of a meter."""

    meter: Name


class AskCapture(msgspec.Struct, tag_field="ask", tag="capture", frozen=True, forbid_unknown_fields=True):
    """What has gone over a line since the last ask; the first begins, last ends it (or hanging up)."""

    line: Name
    last: bool = False


Ask = AskStatus | AskRead | AskWake | AskTransact | AskReplay | AskVacuum | AskLines | AskForget | AskCapture


class LineState(msgspec.Struct, frozen=True):
    """One line, in a status."""

    id: str
    url: str
    up: bool
    told: str  # why it is down, or the last error
    load: float  # share of its time in transactions over the last minute, 0 to 1
    requests: int
    scans: int
    missed: int
    errors: dict[str, int]
    meters: int
    silent: list[str]  # ids of the meters that do not answer
    late: dict[str, int] = {}  # slots missed, by meter
    overload: str = ""  # a sentence, while the line cannot keep up
    advice: str = ""  # what would make it faster


class Status(msgspec.Struct, tag_field="answer", tag="status", frozen=True):
    """The agent now."""

    version: str
    process: int
    park: str
    gateway: str
    lines: list[LineState]
    agent: AgentSnapshot
    events: dict[str, int] = {}  # since the start, by kind
    alarms: list[Standing] = []  # that are raised
    held: int = 0  # readings that deadbands held back, since the start
    early: int = 0  # batches that closed early for a priority reading, since the start


class Read(msgspec.Struct, tag_field="answer", tag="read", frozen=True):
    """A reading."""

    reading: MeterReading


class Woken(msgspec.Struct, tag_field="answer", tag="wake", frozen=True):
    """What a meter did when it was asked."""

    meter: str
    answered: bool
    told: str  # why not, or what it answered
    took_ms: float


class Transacted(msgspec.Struct, tag_field="answer", tag="transact", frozen=True):
    """An answer's bytes, in hexadecimal; also those of a refusal."""

    pdu: str


class Replayed(msgspec.Struct, tag_field="answer", tag="replay", frozen=True):
    """What will be sent again."""

    found: ReplayAnswer


class Vacuumed(msgspec.Struct, tag_field="answer", tag="vacuum", frozen=True):
    """Bytes of the buffer's file."""

    before: int
    after: int


class Lines(msgspec.Struct, tag_field="answer", tag="lines", frozen=True):
    """What is known of lines."""

    lines: list[LineFacts]


class Forgotten(msgspec.Struct, tag_field="answer", tag="forget", frozen=True):
    """A meter is polled as its profile says."""

    meter: str
    kept: bool  # False: its facts could not be removed from the disk


class Captured(msgspec.Struct, tag_field="answer", tag="capture", frozen=True):
    """The next bytes of a pcapng file."""

    data: bytes


class Failed(msgspec.Struct, tag_field="answer", tag="failed", frozen=True):
    """Nothing came of it."""

    cause: Literal["timeout", "corrupt", "disconnected", "refused"]  # refused: the request itself was wrong
    told: str


Answer = Status | Read | Woken | Transacted | Replayed | Vacuumed | Lines | Forgotten | Captured | Failed


def socket_path(configuration: Configuration) -> Path:
    """Where the agent of a configuration listens."""
    return configuration.path(configuration.gateway.buffer.path).parent / SOCKET_NAME
