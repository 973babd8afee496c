"""Request: what a consumer asks of a gateway on `…/request`, JSON: batches again, or a schema."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from parkfleet.protocols.payload.errors import PayloadError

#: Longer ones are none of ours. Bytes.
MAX_BYTES: Final = 64 * 1024
#: A consumer with more gaps asks again when these have come.
MAX_RANGES: Final = 1000

#: `kind` of the event in which a gateway answers.
REPLAY_EVENT: Final = "replay"

Seq = Annotated[int, Meta(ge=1, lt=2**62)]
Time = Annotated[int, Meta(ge=0, lt=2**53)]


class ReplayRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Batches are asked for by epoch and seq, or by time (readings from `since` to `until`, ms UTC, both included)."""

    epoch: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    ranges: Annotated[list[tuple[Seq, Seq]], Meta(max_length=MAX_RANGES)] = []  # first and last seq, both included
    since: Time | None = None
    until: Time | None = None
    schemas: Annotated[list[Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]], Meta(max_length=64)] = []  # ids

    def __post_init__(self) -> None:
        if any(first > last for first, last in self.ranges):
            raise ValueError("a range ends before it begins")
        if self.ranges and not self.epoch:
            raise ValueError("ranges need their epoch")
        if (self.since is None) != (self.until is None):
            raise ValueError("since and until go together")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("since is after until")

    def pack(self) -> bytes:
        """The message's payload."""
        return msgspec.json.encode(self)


class ReplayAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a request: the `data` of the gateway's event of kind REPLAY_EVENT."""

    epoch: Annotated[int, Meta(ge=0, lt=2**32)] = 0  # of a request by seq
    batches: Annotated[int, Meta(ge=0)] = 0  # that are sent again
    gone: list[tuple[Seq, Seq]] = []  # of what was asked for, what is not there any more


def unpack_answer(data: dict[str, Any]) -> ReplayAnswer:
    """Reads an event's data. Raises PayloadError."""
    try:
        return msgspec.convert(data, ReplayAnswer)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PayloadError(f"not an answer to a request: {error}") from None


def unpack_request(data: bytes) -> ReplayRequest:
    """Reads a request. Raises PayloadError."""
    if len(data) > MAX_BYTES:
        raise PayloadError(f"request of {len(data)} bytes: at most {MAX_BYTES}")
    try:
        return msgspec.json.decode(data, type=ReplayRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a request: {error}") from None
