"""Topics: where a gateway's messages stand, and the small ones among them (status, event), which are JSON."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from parkfleet.protocols.payload.errors import PayloadError

BATCH_CONTENT_TYPE: Final = "application/vnd.parkfleet.batch"
SCHEMA_CONTENT_TYPE: Final = "application/vnd.parkfleet.schema"
#: The same for gateways whose encoding is json.
SCANS_CONTENT_TYPE: Final = "application/vnd.parkfleet.scans+json"
SERIES_CONTENT_TYPE: Final = "application/vnd.parkfleet.series+json"
ROOT: Final = "pf/v1"
#: A status or event is a few hundred bytes.
MAX_JSON_BYTES: Final = 64 * 1024

#: Park and gateway as configuration allows them (profile.Identifier), then the channel.
_TOPIC: Final = re.compile(
    rf"{ROOT}/(?P<park>[A-Za-z0-9][\w.\-]{{0,63}})/(?P<gateway>[A-Za-z0-9][\w.\-]{{0,63}})"
    r"/(?:(?P<channel>batch|json|event|status|request)|(?P<retained>schema|series)/(?P<schema>[0-9a-f]{8}))",
    re.ASCII,
)

T = TypeVar("T")

Channel = Literal["batch", "json", "schema", "series", "event", "status", "request"]


@dataclass(frozen=True)
class GatewayTopics:
    """The topics of one gateway."""

    park: str
    gateway: str

    @property
    def base(self) -> str:
        return f"{ROOT}/{self.park}/{self.gateway}"

    @property
    def batch(self) -> str:
        return f"{self.base}/batch"

    @property
    def json(self) -> str:
        """Where the batches of a gateway stand whose encoding is json."""
        return f"{self.base}/json"

    @property
    def event(self) -> str:
        return f"{self.base}/event"

    @property
    def status(self) -> str:
        return f"{self.base}/status"

    @property
    def request(self) -> str:
        return f"{self.base}/request"

    def schema(self, schema_id: int) -> str:
        """Where the schema of that id stands, retained."""
        return f"{self.base}/schema/{schema_id:08x}"

    def series(self, schema_id: int) -> str:
        """The same as JSON, for a gateway whose encoding is json."""
        return f"{self.base}/series/{schema_id:08x}"


def subscriptions(park: str = "+", gateway: str = "+", share: str = "") -> list[str]:
    """What a consumer subscribes to; share: the name of the group that shares the batches (MQTT 5, 4.8.2).

    Schemas, events and states go to each member: a shared subscription gets no retained messages.
    """
    base = f"{ROOT}/{park}/{gateway}"
    shared = f"$share/{share}/{base}" if share else base
    own = [f"{base}/{channel}" for channel in ("schema/+", "series/+", "status", "event")]
    return [*own, f"{shared}/batch", f"{shared}/json"]


@dataclass(frozen=True)
class Topic:
    """A topic taken apart."""

    park: str
    gateway: str
    channel: Channel
    schema_id: int = 0


def parse_topic(topic: str) -> Topic | None:
    """The parts of a topic of ours; None for any other."""
    match = _TOPIC.fullmatch(topic)
    if match is None:
        return None
    channel: Channel = match["channel"] or match["retained"]  # type: ignore[assignment]
    return Topic(match["park"], match["gateway"], channel, int(match["schema"] or "0", 16))


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gateway says of itself, retained; the offline one is also its will."""

    state: Literal["online", "offline"]
    ts: int  # ms UTC; of the connection's begin in a will
    version: str = ""

    def pack(self) -> bytes:
        """The message's payload."""
        return msgspec.json.encode(self)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened and should be heard of."""

    ts: int  # ms UTC
    kind: str
    text: str
    meter: str | None = None
    data: dict[str, Any] = {}
    id: str = ""  # the same event sent twice has the same; empty: of no lasting worth

    def pack(self) -> bytes:
        """The message's payload."""
        return msgspec.json.encode(self)


def unpack_status(data: bytes) -> Status:
    """Reads a status. Raises PayloadError."""
    return _unpack(data, Status, "status")


def unpack_event(data: bytes) -> Event:
    """Reads an event. Raises PayloadError."""
    return _unpack(data, Event, "event")


def _unpack(data: bytes, kind: type[T], name: str) -> T:
    if len(data) > MAX_JSON_BYTES:
        raise PayloadError(f"{name} of {len(data)} bytes: at most {MAX_JSON_BYTES}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a {name}: {error}") from None
